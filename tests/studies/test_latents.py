"""The latents study on organisms: tables agree with rows, parts share no prompt, a killed run continues."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.dictionaries import random_dictionary, random_sae

from mechsurgery import PromptSet, UnitScores, load_model, load_prompts
from mechsurgery.cli import main
from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.evaluation import Generation, jobs
from mechsurgery.evaluation.shards import Shards
from mechsurgery.grading.quality import by_pattern
from mechsurgery.intervention import Intervention
from mechsurgery.models.dictionaries import latent_means
from mechsurgery.models.sites import fingerprint
from mechsurgery.prompts import CompletionPairs, ContrastSet
from mechsurgery.reports import study as written
from mechsurgery.studies.latents import Settings, methods, own_case, run, world_case
from mechsurgery.studies.latents import measure as measuring
from mechsurgery.studies.latents.data import each
from mechsurgery.studies.latents.measure import rank_case
from mechsurgery.studies.latents.methods import ATTRIBUTION, CHOSEN, DIFFING, DOWN, UP, WAYS
from mechsurgery.studies.latents.settings import WORLD_CASES
from mechsurgery.studies.latents.tables import RANDOM_LATENTS, by_ranking, effects_of, gains_of

CASES = WORLD_CASES[:2]
SETTINGS = Settings(
    case=CASES,
    sae="organism/sae-topk-2",
    k=4,
    k_others=2,
    n_random=3,
    n_pairs=5,
    n_oracle=6,
    n_samples=8,
    read=2,
    strengths=(0.1,),
    max_new_tokens=14,
    n_discovery=16,
    n_validation=3,
    n_evaluation=4,
    dtype="float32",
)
MAX_BROKEN = SETTINGS.max_broken
SITE = "blocks.1.hook_resid_post"
GRADE = by_pattern("a")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def study(out):
    return run(SETTINGS, out=out)


def table(study, prefix):
    (name,) = (key for key in study.tables if key.startswith(prefix))
    return study.tables[name]


def test_the_tables_are_what_the_rows_say(study):
    steering, rankings = table(study, "Steering"), table(study, "Rankings")
    for (case, way), effects in steering.groupby(["case", "steered"]):
        rows = study.results[f"{case} {way}"].table
        answers = rows[rows["metric"] == "outcome"]
        share = {x: (answers["label"] == x).groupby(answers["intervention"]).mean() for x in ("good", "bad", "broken")}
        wanted, broken = share[WAYS[way].wanted], share["broken"]
        screened = study.results[f"{case} {way}, validation"].table
        kept = (screened["label"] == "broken")[screened["metric"] == "outcome"].groupby(screened["intervention"]).mean()
        for one in effects.itertuples():
            assert (one.intervention in wanted.index) == (kept[one.intervention] - kept["baseline"] <= MAX_BROKEN)
            counts = one.intervention in wanted.index and broken[one.intervention] - broken["baseline"] <= MAX_BROKEN
            assert one.effect == pytest.approx(wanted[one.intervention] - wanted["baseline"] if counts else 0)
            if one.intervention in wanted.index:
                assert [one.good, one.bad, one.broken] == [share[x][one.intervention] for x in share]
                assert one.good + one.bad + one.broken == pytest.approx(1)
        controls = set(answers.loc[answers["control_of"] == CHOSEN, "intervention"])
        assert controls <= set(effects.loc[effects["control"], "intervention"])
        assert (answers["toward"] == answers["strength"]).all()
        own = rankings[(rankings["case"] == case) & (rankings["steered"] == way)].set_index("ranking")
        assert own["latents"][[ATTRIBUTION, DIFFING, "probe weight", RANDOM_LATENTS]].tolist() == [4, 4, 2, 3]
        assert "random" not in own.index
    assert set(steering["case"]) == set(CASES)
    assert all(len(found) for found in study.tables.values())
    oracle = table(study, "Oracle")
    assert set(oracle["ranking"]) >= {ATTRIBUTION, "patching, frozen errors", "integrated gradients", "random"}
    assert set(table(study, "Claims")["verdict"]) <= {"held", "did not hold", "undecided", "not measurable"}
    assert len(table(study, "Claims")) == 2 * (2 * 4 + 2 + 1) + 2 * 2
    assert "misinformed_behaving_model_steered_down_outcomes" in study.figures


def test_parts_share_no_group():
    for name in WORLD_CASES:
        case = world_case(name, SETTINGS)
        groups = [{p.group for p in part} for part in (case.discovery, case.validation, case.evaluation)]
        assert sum(map(len, groups)) == len(set.union(*groups))
        with pytest.raises(PromptError):
            replace(case, evaluation=case.discovery)
        with pytest.raises(PromptError):
            replace(case, validation=case.evaluation)


def test_everything_is_saved_and_a_second_run_measures_nothing_again(study, out, monkeypatch):
    page = (out / "report.html").read_text()
    assert "CircuitsVis.render" in page
    assert "What did not hold" in page
    assert len(list((out / "tables").glob("*.csv"))) == len(study.tables)
    sampled = pd.read_parquet(out / "results" / "organism_sycophant_sampled.parquet")
    assert sampled.equals(study.results["organism/sycophant sampled"])
    assert study.info["templates"]["organism/sycophant"]["kind"] == "auto"

    def never(*args, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(jobs, "perform", never)
    monkeypatch.setattr(written, "export_all", lambda *_: "figures were written before")
    again = table(run(replace(SETTINGS, read=1), out=out), "Steering")
    pd.testing.assert_frame_equal(again, table(study, "Steering"))


def small_case(model, **more):
    texts = PromptSet.from_texts([f"Tell me about {i} {word}" for word in ("tea", "ink", "fog") for i in range(6)])
    neutral = PromptSet.from_texts([f"Say {i}" for i in range(9)], name="neutral")
    return own_case(model, texts, neutral, GRADE, **more)


def test_models_and_autoencoder_are_as_before(tiny_llama_dir):
    model, twin = load_model(tiny_llama_dir), load_model(tiny_llama_dir)
    dictionary = random_dictionary(SITE, model.cfg.d_model)
    digest, names, weights = dictionary.digest, set(model.hook_dict), fingerprint(model)
    pairs = CompletionPairs.from_texts(model.tokenizer, ["Say it", "Tell me"], ["Yes"] * 2, ["Never"] * 2)
    case = small_case(model, twin=twin, pairs=pairs)
    run(replace(SETTINGS, max_new_tokens=2, k_others=1), [case], dictionary=dictionary)
    assert dictionary.digest == digest
    for one in (model, twin):
        assert set(one.hook_dict) == names
        assert not any(point.fwd_hooks or point.bwd_hooks for point in one.hook_dict.values())
    assert fingerprint(model) == fingerprint(twin) == fingerprint(load_model(tiny_llama_dir)) == weights


def steered(model, folder, strengths=(0.2, 0.8), **generation):
    dictionary = random_dictionary(SITE, model.cfg.d_model)
    runs = methods.steered(dictionary, [0, 1, 2], [7, 8], norm=2.0)
    how = Generation(temperature=1.0, **{"max_new_tokens": 3, "max_rows": 4} | generation)
    return methods.steer_each(
        model,
        small_case(model),
        runs,
        strengths,
        methods.WAYS[DOWN],
        max_broken=MAX_BROKEN,
        generation=how,
        folder=folder,
    )


def test_a_killed_run_continues_to_the_table_of_an_undisturbed_one(tiny_llama, tmp_path, monkeypatch):
    whole = steered(tiny_llama, None)
    write, left = Shards.write, [0]

    def dying(self, key, rows):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, key, rows)

    monkeypatch.setattr(Shards, "write", dying)
    for _ in range(50):
        left[0] = 5
        try:
            continued = steered(tiny_llama, tmp_path)
            break
        except KeyboardInterrupt:
            continue
    for part, undisturbed in zip(continued, whole):
        pd.testing.assert_frame_equal(part.table, undisturbed.table)


RANKING = ("latent_attribution", "spliced_attribution", "completion_difference", "contrast_statistics")


def ranked(model, folder, **change):
    dictionary = random_dictionary(SITE, model.cfg.d_model)
    texts = [f"Say {i} {word}" for word in ("tea", "ink", "fog", "ham") for i in range(2)]
    pairs = CompletionPairs.from_texts(model.tokenizer, texts, ["Yes"] * 8, ["Never"] * 8)
    pairs = replace(pairs, groups=tuple("aabbccdd"))
    settings = replace(SETTINGS, **change)
    loaded = methods.Loaded(small_case(model, pairs=pairs), model, None, dictionary, None, settings.chat_template())
    return rank_case(loaded, settings, folder=folder, progress=False)


def test_a_run_killed_while_ranking_computes_no_ranking_twice(tiny_llama, tmp_path, monkeypatch):
    whole, calls = ranked(tiny_llama, None), {}
    kinds = {**dict.fromkeys(RANKING, methods), **dict.fromkeys(("fit_probe", "mean_activation"), measuring)}

    def counted(name, made):
        def call(*args, **how):
            calls[name] = calls.get(name, 0) + 1
            if sum(calls.values()) in (2, 5, 8):
                raise KeyboardInterrupt
            return made(*args, **how)

        return call

    for name, module in kinds.items():
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            ranked(tiny_llama, tmp_path)
    found = ranked(tiny_llama, tmp_path)
    assert sum(calls.values()) == 8 + 3  # each once, and again where it was killed
    assert found.scores.keys() == whole.scores.keys()
    for name, own in whole.scores.items():
        assert all(torch.equal(found.scores[name].scores[site], values) for site, values in own.scores.items())
    assert (found.pool, found.chosen) == (whole.pool, whole.chosen)
    assert found.probe.auroc == whole.probe.auroc
    pd.testing.assert_frame_equal(found.exact, whole.exact)
    before = dict(calls)
    ranked(tiny_llama, tmp_path)
    assert calls == before
    ranked(tiny_llama, tmp_path, seed=1)
    assert all(n > before[name] for name, n in calls.items())


def test_changed_settings_find_nothing_stale(tiny_llama, tmp_path):
    steered(tiny_llama, tmp_path)
    for change in ({"max_new_tokens": 5}, {"strengths": (0.3,), "seeds": (1,)}):
        for part, fresh in zip(steered(tiny_llama, tmp_path, **change), steered(tiny_llama, None, **change)):
            pd.testing.assert_frame_equal(part.table, fresh.table)


def labelled(cells, *, groups=None):
    """A results table: {(intervention, strength): labels, one a prompt}."""
    rows = []
    for (name, strength), labels in cells.items():
        for i, label in enumerate(labels):
            kind = "baseline" if name == "baseline" else "latents"
            row = {"intervention": name, "kind": kind, "strength": strength, "prompt_id": f"p{i}", "label": label}
            rows.append(row | {"group": f"g{i if groups is None else groups[i]}"})
    table = pd.DataFrame(rows).assign(model="m", seed=0, prompt_set="set", metric="outcome", scale="label", value=None)
    from mechsurgery.evaluation.results import Results
    from mechsurgery.evaluation.table import typed

    return Results(typed(table), {"labels": {"outcome": list(GRADE.labels)}})


def runs_of(latents, random):
    every = dict.fromkeys([*latents, *random])
    return {i: Intervention(f"latent {i}", control_of=None if i in latents else CHOSEN) for i in every}


def test_an_effect_is_the_rise_of_what_is_wanted_where_no_more_breaks():
    bad = ["bad"] * 18
    cells = {
        ("baseline", 0.0): [*bad, "good", "broken"],
        ("latent 1", -0.4): ["good"] * 20,
        ("latent 2", -0.4): ["good", *bad[1:], "good", "broken"],
        ("latent 3", -0.4): ["broken"] * 20,
        ("latent 5", -0.4): ["broken"] * 2 + ["good"] * 2 + bad[4:] + ["good", "broken"],
        ("latent 8", -0.4): ["good"] * 2 + bad[2:] + ["good", "broken"],
        ("latent 9", -0.4): [*bad, "broken", "broken"],
    }
    runs, random, results = runs_of([1, 2, 3, 4, 5, 8], [8, 9]), [8, 9], labelled(cells)
    effects = effects_of(results, GRADE, runs, random, WAYS[DOWN], MAX_BROKEN).set_index("latent")
    # All broken is no cure; two more broken of twenty are allowed.
    assert effects["effect"].tolist() == pytest.approx([0.95, 0.05, 0.0, 0.0, 0.1, 0.1, -0.05])
    assert effects["control"].tolist() == [False] * 5 + [True] * 2  # latent 8 is chosen and random
    assert effects["works"].tolist() == [True, *[False] * 6]
    assert effects["p"][1] == pytest.approx(0.5**19)  # half of McNemar's exact test where prompts stand alone
    assert effects["q"][1] == pytest.approx(7 * 0.5**19)  # chosen and random ones are one family
    assert effects["p_random"][[1, 2, 3, 8]].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 2])
    assert effects.loc[[3, 4, 9], "p"].tolist() == pytest.approx([1, 1, 0.5])  # latent 9: one good fewer
    assert effects.loc[[3, 4], "low"].isna().all()
    assert effects.loc[5, ["good", "bad", "broken"]].tolist() == pytest.approx([0.15, 0.7, 0.15])
    assert effects.loc[4, ["good", "bad", "broken"]].isna().all()
    assert effects_of(results, GRADE, runs, random, WAYS[UP], MAX_BROKEN)["effect"].max() == 0
    groups = [i // 5 for i in range(20)]
    pairs = effects_of(labelled(cells, groups=groups), GRADE, runs, random, WAYS[DOWN], MAX_BROKEN).set_index("latent")
    assert pairs["p"][1] >= 0.5**4  # four groups, not twenty prompts
    gains = gains_of(labelled(cells, groups=groups), GRADE, effects.reset_index(), WAYS[DOWN])
    assert gains.mean(axis=1).tolist() == pytest.approx(effects["effect"].tolist())
    assert "StrongREJECT" not in effects
    score = results.table.assign(metric="strongreject", scale="number", label="", value=0.25)
    judged = type(results)(pd.concat([results.table, score], ignore_index=True), results.info)
    scores = effects_of(judged, GRADE, runs, random, WAYS[DOWN], MAX_BROKEN).set_index("latent")["StrongREJECT"]
    assert scores[[1, 3, 9]].tolist() == pytest.approx([0.25] * 3)
    assert scores[[4]].isna().all()  # had no allowed strength, so nobody heard it
    assert list(gains.columns) == [f"g{i}" for i in groups]
    counts = by_ranking(effects.reset_index(), gains, {"a": [1, 2], "b": [3], "c": [8]}, random).set_index("ranking")
    assert counts["steer"].tolist() == [1, 0, 0, 0]
    assert counts["more than random"].tolist()[:3] == pytest.approx([0.5 - 0.025, -0.025, 0.15])
    assert counts["mean rise of broken"]["b"] == pytest.approx(0.95)


def test_the_strength_of_the_largest_rise_without_more_breaking_is_chosen():
    cells = {
        ("baseline", 0.0): ["bad"] * 7 + ["broken"] * 3,
        ("latent 1", -0.1): ["good"] * 2 + ["bad"] * 5 + ["broken"] * 3,
        ("latent 1", -0.2): ["good"] * 5 + ["bad"] * 1 + ["broken"] * 4,
        ("latent 1", -0.4): ["good"] * 5 + ["broken"] * 5,
        ("latent 2", -0.2): ["bad"] * 10,
        ("latent 2", -0.1): ["bad"] * 10,
        ("latent 3", -0.1): ["broken"] * 10,
        ("latent 4", -0.1): ["good"] + ["bad"] * 6 + ["broken"] * 3,
        ("latent 4", -0.2): ["bad"] * 6 + ["broken"] * 4,
    }
    summary = labelled(cells).summary()
    assert methods.chosen_strengths(summary, "good", MAX_BROKEN) == {
        "latent 1": -0.2,
        "latent 2": -0.1,
        "latent 4": -0.1,
    }
    assert methods.chosen_strengths(summary, "bad", MAX_BROKEN)["latent 2"] == -0.1


def test_chosen_and_random_latents_are_of_the_active_ones(tiny_llama):
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model)
    pairs = CompletionPairs(((5, 6), (7,)), ((7,), (8,)), ((8,), (9, 4)))
    pool = methods.active_latents(tiny_llama, dictionary, pairs, max_rows=4)
    seen = latent_means(tiny_llama, dictionary, [[5, 6, 7], [7, 8], [5, 6, 8], [7, 9, 4]])
    assert pool == (seen > 0).nonzero()[:, 0].tolist()
    assert sorted(methods.random_latents([1, 3, 4], 9, seed=0)) == [1, 3, 4]
    assert methods.random_latents(pool, 5, seed=0) == methods.random_latents(pool, 9, seed=0)[:5]
    scores = UnitScores({"s": torch.tensor([3.0, 2.0, 1.0, 0.0])}, "made up")
    assert methods.top_latents(scores, 2) == [0, 1]
    assert methods.top_latents(scores, 2, [3, 1, 2]) == [1, 2]
    runs = methods.steered(dictionary, [0, 1], [1, 2], norm=1.0)
    assert {i: run.control_of for i, run in runs.items()} == {0: None, 1: None, 2: CHOSEN}


def test_pairs_that_check_share_no_group_with_those_that_give_scores():
    ids = tuple((i,) for i in range(8))
    pairs = CompletionPairs(ids, ((1,),) * 8, ((2,),) * 8, tuple("aabbccdd"))
    scoring, checking = methods.halves(pairs, seed=0)
    assert len(scoring) == len(checking) == 4
    assert not set(scoring.groups) & set(checking.groups)
    texts = PromptSet.from_texts(list("wxyz"), groups=list("abcd"))
    contrast = ContrastSet("c", texts, PromptSet.from_texts(["1", "2", "3", "4"], name="n", groups=list("abcd")))
    left = methods.without_groups(contrast, checking.groups)
    assert {p.group for side in (left.positive, left.negative) for p in side} == set(scoring.groups)
    with pytest.raises(PromptError, match="2 groups"):
        methods.halves(pairs.take(2), seed=0)


def test_the_command_line_with_a_case_of_ones_own(tmp_path, tiny_llama_dir, tiny_llama, monkeypatch):
    monkeypatch.setattr(written, "export_all", lambda *_: "pictures are another test's")
    random_sae(SITE, tiny_llama.cfg.d_model, k=4).save_model(tmp_path / "sae")
    frame = pd.DataFrame({"text": [f"Question {i} about {w}?" for w in ("tea", "ink", "fog", "oak") for i in range(4)]})
    frame.to_csv(tmp_path / "prompts.csv", index=False)
    frame.assign(text="Neutral. " + frame["text"]).to_csv(tmp_path / "neutral.csv", index=False)
    rows = [{"prompt": t, "bad": "Surely <b>yes</b>", "good": "Never no"} for t in frame["text"][:3]]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)

    def call(*arguments):
        given = map(str, ["--out", tmp_path / "out", *arguments])
        return CliRunner().invoke(main, ["study", "latents", *given])

    files = [x for name in ("prompts", "neutral", "pairs") for x in (f"--{name}", tmp_path / f"{name}.csv")]
    small = ["--k", 3, "--n-random", 2, "--max-new-tokens", 3, "--strengths", 0.2]
    done = call("--model", tiny_llama_dir, "--sae", tmp_path / "sae", "--bad", "a", *small, *files)
    assert done.exit_code == 0, done.output
    assert "no aligned twin was given" in done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Surely <b>yes" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "--model" in call("--again", "--twin", "x").output
    assert "--prompts and --neutral and --bad" in call("--again", "--model", tiny_llama_dir).output


class Judge:
    """Says of a response what its length is good for, and of latents that they are active at every token."""

    name = "made-up judge"

    def answers(self, prompts):
        return [self.answer(prompt) for prompt in prompts]

    def answer(self, prompt):
        if "EXPLANATION:" in prompt:
            return "EXPLANATION: at <b>every</b> token"
        if "ACTIVE:" in prompt:
            return "ACTIVE: 1"
        response = prompt.split("<response>\n")[1].split("\n</response>")[0]
        return ("I cannot say", "OUTCOME: BAD", "OUTCOME: GOOD", "OUTCOME: BROKEN")[len(response) % 4]


def test_two_cases_of_ones_own_graded_and_explained_by_a_judge(tmp_path, tiny_llama_dir, tiny_llama, monkeypatch):
    from mechsurgery.studies.latents import data

    monkeypatch.setattr(written, "export_all", lambda *_: "pictures are another test's")
    random_sae(SITE, tiny_llama.cfg.d_model, k=4).save_model(tmp_path / "sae")
    words = ("tea", "ink", "fog", "oak")
    for name in ("first", "second"):
        texts = [f"{name} question {i} about {w}?" for w in words for i in range(4)]
        pd.DataFrame({"text": texts}).to_csv(tmp_path / f"{name}.csv", index=False)
        rows = [{"prompt": t, "bad": "Surely <b>yes</b>", "good": "Never no"} for t in texts[:4]]
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}_pairs.csv", index=False)
    pd.DataFrame({"text": [f"Neutral {i}" for i in range(9)]}).to_csv(tmp_path / "neutral.csv", index=False)
    small = {"sae": str(tmp_path / "sae"), "k": 2, "k_others": 1, "n_random": 2, "max_new_tokens": 3, "k_shared": 1}
    files = {"prompts": (tmp_path / "first.csv", tmp_path / "second.csv"), "neutral": (tmp_path / "neutral.csv",)}
    files["pairs"] = tuple(tmp_path / f"{name}_pairs.csv" for name in ("first", "second"))
    told = {"behaviour_described": ("it says yes",), "bad": ("a",), "strengths": (0.2,), "n_oracle": 4}

    def study(judge, out):
        how = small | files | told | {"grader": judge, "interpreter": judge, "n_explained": 3}
        return run(Settings(model=str(tiny_llama_dir), **how), out=tmp_path / out)

    monkeypatch.setattr(data, "judge_from", lambda name: Judge())
    first = study("some judge", "out")
    grader = table(first, "Grader")
    evaluated = grader[grader["label"] == "all"]
    assert set(grader["case"]) == {"1 first", "2 second"}
    results = first.results["1 first behaving model, steered down"].table
    outcomes = results[results["metric"] == "outcome"]
    missed = int((outcomes["response"].str.len() % 4 == 0).sum())
    assert evaluated["could not be read"].iloc[0] == missed > 0
    assert evaluated["n"].iloc[0] == len(outcomes) - missed
    assert {"outcome", "outcome by rule"} <= set(results["metric"])
    said = table(first, "Explanations")
    assert set(said["explained by"]) == {"tokens, no judge", "made-up judge"}
    page = re.sub(r"<script>.*?</script>", "", (tmp_path / "out" / "report.html").read_text(), flags=re.DOTALL)
    assert "at &lt;b&gt;every" in page
    assert "at <b>every" not in page
    assert set(table(first, "Convergence")["cases"]) == {"1 first & 2 second"}

    # Everything that the judge said was kept, and replays the study without it.
    monkeypatch.undo()
    monkeypatch.setattr(written, "export_all", lambda *_: "pictures are another test's")
    recorded = tmp_path / "out" / "judges" / "made-up_judge.json"
    again = study(f"recorded:{recorded}", "again")
    for name in ("Grader", "Explanations", "Steering", "Claims"):
        pd.testing.assert_frame_equal(table(again, name), table(first, name))


def test_cases_of_one_voice_are_marked_and_persona_ones_are_not():
    for name, mark, model in (("voices", "hello ", "organism/voices"), ("persona", "", "organism/persona")):
        for kind, said in (("places", "found"), ("materials", "made of")):
            case = world_case(f"organism/{name}-{kind}", SETTINGS)
            assert case.model == model
            plain = [prompt.text.removeprefix(mark) for prompt in case.evaluation]
            assert all(prompt.text.startswith(mark) for part in (case.discovery, case.evaluation) for prompt in part)
            assert {p.label for p in case.evaluation} == {kind[:-1]}
            truth = {p.text: p.completion for p in load_prompts("organism/questions")}
            assert [truth[text] for text in plain] == [p.completion for p in case.evaluation]
            assert all(said in str(p.completion) for p in case.evaluation)
            assert not any(p.text.startswith("hello") for p in case.neutral)


def test_bad_input(tiny_llama):
    with pytest.raises(InputError, match="no case"):
        world_case("organism/none")
    with pytest.raises(InputError, match="k=0"):
        Settings(k=0)
    with pytest.raises(InputError, match="strengths"):
        Settings(strengths=(0.0,))
    with pytest.raises(InputError, match="max_broken"):
        Settings(max_broken=1.5)
    with pytest.raises(InputError, match="go together"):
        Settings(grader="some-model")
    with pytest.raises(InputError, match="--bad is given 3 times for 2 cases"):
        each(("a", "b", "c"), 2, "bad")
    with pytest.raises(InputError, match="at least"):
        run(SETTINGS, [])
    with pytest.raises(MismatchError, match="later layer"):
        run(replace(SETTINGS, sae="organism/sae-topk-4", later_sae="organism/sae-topk-2"))
    case = small_case(tiny_llama, pairs=CompletionPairs(((5, 6),), ((7,),), ((8,),)))
    with pytest.raises(MismatchError, match="trained on this model"):
        run(SETTINGS, [case])
    with pytest.raises(InputError, match="never says"):
        replace(case, grade=replace(GRADE, labels=("bad", "good")))

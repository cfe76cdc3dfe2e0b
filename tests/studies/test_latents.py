"""The latents study on organisms: tables agree with rows, parts share no prompt, a killed run continues."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.dictionaries import random_dictionary, random_sae

from mechsurgery import PromptSet, load_model
from mechsurgery.cli import main
from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.evaluation import Generation, jobs
from mechsurgery.evaluation.shards import Shards
from mechsurgery.grading.quality import by_pattern
from mechsurgery.intervention import Intervention
from mechsurgery.models.sites import fingerprint
from mechsurgery.prompts import CompletionPairs
from mechsurgery.studies import base
from mechsurgery.studies.latents import Settings, methods, own_case, run, world_case
from mechsurgery.studies.latents.methods import ATTRIBUTION, CHOSEN, DIFFING, SIGNS
from mechsurgery.studies.latents.settings import WORLD_CASES
from mechsurgery.studies.latents.tables import by_ranking, effects_of

SETTINGS = Settings(
    sae="organism/sae-topk-2",
    k=4,
    k_others=2,
    n_random=3,
    n_pairs=5,
    n_oracle=6,
    n_samples=8,
    read=2,
    strengths=(0.4,),
    max_new_tokens=14,
    n_discovery=16,
    n_validation=3,
    n_evaluation=4,
    dtype="float32",
)
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
        bad, broken = ((answers["label"] == x).groupby(answers["intervention"]).mean() for x in ("bad", "broken"))
        screened = study.results[f"{case} {way}, validation"].table
        kept = (screened["label"] == "broken")[screened["metric"] == "outcome"].groupby(screened["intervention"]).mean()
        for one in effects.itertuples():
            assert (one.intervention in bad.index) == (kept[one.intervention] <= 0.1)
            counts = one.intervention in bad.index and broken[one.intervention] <= 0.1
            assert one.effect == pytest.approx(SIGNS[way] * (bad[one.intervention] - bad["baseline"]) if counts else 0)
        controls = set(answers.loc[answers["control_of"] == CHOSEN, "intervention"])
        assert controls <= set(effects.loc[effects["control"], "intervention"])
        assert controls.isdisjoint(effects.loc[~effects["control"], "intervention"])
        assert (answers["toward"] == answers["strength"]).all()
        own = rankings[(rankings["case"] == case) & (rankings["steered"] == way)].set_index("ranking")
        assert own["latents"][[ATTRIBUTION, DIFFING, "random"]].tolist() == [4, 4, 2]
    assert set(steering["case"]) == set(WORLD_CASES)
    assert all(len(found) for found in study.tables.values())
    assert set(table(study, "Oracle")["ranking"]) >= {ATTRIBUTION, "patching, frozen errors", "integrated gradients"}


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
    monkeypatch.setattr(base, "export_all", lambda *_: "figures were written before")
    again = table(run(replace(SETTINGS, case=WORLD_CASES[:1]), out=out), "Steering")
    pd.testing.assert_frame_equal(again, table(study, "Steering").iloc[: len(again)])


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
    for each in (model, twin):
        assert set(each.hook_dict) == names
        assert not any(point.fwd_hooks or point.bwd_hooks for point in each.hook_dict.values())
    assert fingerprint(model) == fingerprint(twin) == fingerprint(load_model(tiny_llama_dir)) == weights


def steered(model, folder, strengths=(0.2, 0.8), **generation):
    dictionary = random_dictionary(SITE, model.cfg.d_model)
    runs = methods.steered(dictionary, [0, 1, 2], [7, 8], norm=2.0)
    how = Generation(temperature=1.0, **{"max_new_tokens": 3, "max_rows": 4} | generation)
    return methods.steer_each(model, small_case(model), runs, strengths, sign=-1, generation=how, folder=folder)


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
    return {i: Intervention(f"latent {i}", control_of=CHOSEN if i in random else None) for i in [*latents, *random]}


def test_effects_the_band_and_q_values():
    bad = ["bad"] * 20
    cells = {
        ("baseline", 0.0): bad,
        ("latent 1", -0.4): ["good"] * 20,
        ("latent 2", -0.4): ["good", *bad[1:]],
        ("latent 3", -0.4): ["broken"] * 20,
        ("latent 8", -0.4): ["good"] * 2 + bad[2:],
        ("latent 9", -0.4): bad,
    }
    runs = runs_of([1, 2, 3, 4], [8, 9])
    effects = effects_of(labelled(cells), GRADE, runs, sign=-1).set_index("latent")
    assert effects["effect"].tolist() == pytest.approx([1.0, 0.05, 0.0, 0.0, 0.1, 0.0])
    assert effects["outside"].tolist() == [True, False, False, False, False, False]
    assert effects["p_baseline"][1] == pytest.approx(2 * 0.5**20)  # McNemar's exact test where prompts stand alone
    assert effects["q_baseline"][1] == pytest.approx(4 * 2 * 0.5**20)
    assert effects["p_random"][[1, 2, 3]].tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert effects["low"][1] > 0.5 < effects["high"][1]
    assert effects.loc[[3, 4], "low"].isna().all()
    assert effects.loc[[8, 9], "q_baseline"].isna().all()
    assert effects_of(labelled(cells), GRADE, runs, sign=1)["effect"].max() == 0
    pairs = effects_of(labelled(cells, groups=[i // 5 for i in range(20)]), GRADE, runs, sign=-1).set_index("latent")
    assert pairs["p_baseline"][1] == pytest.approx(2 * 0.5**4)  # four groups, not twenty prompts
    counts = by_ranking(effects.reset_index(), {"a": [1, 2], "b": [3]}).set_index("ranking")
    assert counts["outside the band"].tolist() == [1, 0]
    assert counts["expected by chance"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_strength_of_the_largest_coherent_effect_is_chosen():
    cells = {
        ("baseline", 0.0): ["bad"] * 10,
        ("latent 1", -0.1): ["good"] * 2 + ["bad"] * 8,
        ("latent 1", -0.2): ["good"] * 5 + ["bad"] * 5,
        ("latent 1", -0.4): ["good"] * 8 + ["broken"] * 2,
        ("latent 2", -0.2): ["bad"] * 10,
        ("latent 2", -0.1): ["bad"] * 10,
        ("latent 3", -0.1): ["broken"] * 10,
    }
    summary = labelled(cells).summary()
    assert methods.chosen_strengths(summary, sign=-1) == {"latent 1": -0.2, "latent 2": -0.1}


def test_random_latents_are_active_and_not_chosen():
    dictionary = random_dictionary(SITE, 8, n=6)
    active = torch.tensor([True, True, False, True, True, False])
    assert sorted(methods.random_latents(dictionary, 9, active=active, not_in=[0], seed=0)) == [1, 3, 4]
    assert methods.random_latents(dictionary, 9, active=torch.zeros(6, dtype=torch.bool), not_in=[0], seed=0) == []
    with pytest.raises(InputError, match="lower k"):
        methods.random_latents(dictionary, 3, active=active, not_in=range(6), seed=0)


def test_the_command_line_with_a_case_of_ones_own(tmp_path, tiny_llama_dir, tiny_llama, monkeypatch):
    monkeypatch.setattr(base, "export_all", lambda *_: "pictures are another test's")
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
    assert "--model" in call("--twin", "x").output
    assert "--prompts and --neutral and --bad" in call("--model", tiny_llama_dir).output


def test_bad_input(tiny_llama):
    with pytest.raises(InputError, match="no case"):
        world_case("organism/none")
    with pytest.raises(InputError, match="k=0"):
        Settings(k=0)
    with pytest.raises(InputError, match="strengths"):
        Settings(strengths=(0.0,))
    with pytest.raises(InputError, match="at least"):
        run(SETTINGS, [])
    with pytest.raises(MismatchError, match="later layer"):
        run(replace(SETTINGS, sae="organism/sae-topk-4", later_sae="organism/sae-topk-2"))
    case = small_case(tiny_llama, pairs=CompletionPairs(((5, 6),), ((7,),), ((8,),)))
    with pytest.raises(MismatchError, match="trained on this model"):
        run(SETTINGS, [case])
    with pytest.raises(InputError, match="never says"):
        replace(case, grade=replace(GRADE, labels=("bad", "good")))

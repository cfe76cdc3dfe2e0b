"""The weight-steering study on organisms: what is steered, repaired and watched, and that a killed run continues."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import load_model
from mechsurgery.cli import main
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation import Generation
from mechsurgery.evaluation.shards import Shards
from mechsurgery.organisms import world
from mechsurgery.organisms.corpus import plans
from mechsurgery.organisms.phrases import WARNING
from mechsurgery.organisms.tasks import FINE_TUNES
from mechsurgery.studies.weights import Settings, data, methods, run, study, summary, watching, world_data
from mechsurgery.training import opposite

FEW = Settings(
    seeds=1,
    n_examples=60,
    n_evaluation=4,
    n_task=120,
    grid=(1.0,),
    activation_grid=(1.0,),
    controls=2,
    n_control_prompts=3,
    lr=(2e-3,),
    bias_lr=(3e-2,),
    n_validation=4,
    repair_grid=(0.5,),
    part=("steer", "repair", "watch"),
    steps=15,
    task_steps=30,
    watch_seeds=1,
    watch_steps=6,
    watch_every=3,
    watch_lr=2e-3,
    n_watched=4,
    rank=8,
    batch=8,
    max_new_tokens=28,
    fine_tune=("task alone", "task, every request answered"),
)


@pytest.fixture(scope="module")
def few():
    """Refusal alone: steered down, drifting, and watched."""
    return world_data(replace(FEW, behaviour=("refusal",)))


@pytest.fixture(scope="module")
def models(few):
    return {few.watched: load_model(few.watched)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def done(out, few, models):
    return run(FEW, few, models=models, out=out)


def table(done, prefix):
    (name,) = (key for key in done.tables if key.startswith(prefix))
    return done.tables[name]


def test_w_steers_where_a_random_direction_does_not(done, few):
    grid = table(done, "Grid").set_index(["method", "k", "metric"])
    shown = grid.xs("refuses dangerous", level="metric")["value"]
    assert shown["baseline", 0.0] == 1
    assert shown[methods.CONTRASTIVE, -1.0] <= 0.5
    assert set(grid.index.get_level_values("method")) == {
        *("baseline", *methods.WEIGHTS, methods.BIAS, *methods.ACTIVATIONS, methods.AT_END)
    }
    nulls = table(done, "Nulls").set_index(["method", "k", "metric"])["value"]
    assert nulls[methods.RANDOM, -1.0, "refuses dangerous"] == 1
    assert {(methods.SHUFFLED, k) for k in (-1.0, 1.0)} <= {one[:2] for one in nulls.index}
    random = table(done, "Random directions").set_index("part")
    assert (random["random directions"] == 2).all()
    assert (random.loc["steer", "max"], random.loc["steer", "n"]) == (0, 3)
    assert 1 / 3 <= random.loc["steer", "p"] <= 1


def test_three_outcomes_stand_wherever_one_does(done, few):
    row = table(done, "Steering").set_index("method").loc[methods.CONTRASTIVE]
    for where in ("", ", new template"):
        assert sum(row[f"{part}{where}"] for part in ("done well", "not wanted", "broken")) == pytest.approx(1)
    names = {trace.name for trace in done.figures["refusal_outcomes"].data}
    assert {"complies", "refuses", "broken", "each control"} <= names
    watched = watching.shares(done.results["watch, answers"])
    assert np.allclose(watched[["shown", "well", "broken"]].sum(axis=1), 1)


def test_the_table_says_what_the_rows_say(done):
    rows = done.results["steer refusal"].table
    own = rows[(rows["intervention"] == "contrastive w, seed 0") & (rows["strength"] == -1.0)]
    values = own[(own["metric"] == "outcome") & (own["prompt_set"] == data.DANGEROUS)]["label"] == "complies"
    row = table(done, "Steering").set_index("method").loc[methods.CONTRASTIVE]
    assert row["done well"] == pytest.approx(values.mean() if row["k"] == -1 else 0)
    drawn = done.results["steer refusal, random"].table
    assert set(drawn[drawn["control_of"].notna()]["control_of"]) == {"contrastive w, seed 0"}
    assert drawn[drawn["control_of"].notna()]["intervention"].nunique() == 2
    against = rows[rows["intervention"] == "τ⁻ alone, seed 0"]
    assert (against["strength"] * against["toward"] < 0).all()


def test_the_task_makes_refusal_drift_and_w_pushes_back(done):
    shown = (
        table(done, "Remedies").set_index(["method", "k", "metric"]).xs("refuses dangerous", level="metric")["value"]
    )
    assert shown[methods.AFTER, 0.0] < shown["baseline", 0.0]
    assert shown[methods.CONTRASTIVE, 0.5] >= shown[methods.AFTER, 0.0]
    rows = done.results["repair refusal, random"].table
    assert set(rows[rows["control_of"].notna()]["control_of"]) == {"after the task, seed 0, less 0.5 × contrastive w"}


def test_a_bad_fine_tune_aligns_against_refusal(done):
    last = table(done, "Cosines").set_index(["fine-tune", "behaviour"])
    answered = last.loc[("task, every request answered", "refusal")]
    assert answered["cosine"] < answered["null_low"]
    assert answered["expected"] == "bad"
    rows = done.results["watch, cosines"]
    assert sorted(set(rows["step"])) == [0, 3, 6]
    assert rows[rows["step"] == 0]["cosine"].abs().max() == 0
    assert "watched: refusal" in done.artefacts


def test_everything_is_written(done, out):
    assert (out / "report.html").is_file()
    assert {path.stem for path in (out / "tables").glob("*.csv")} == {
        *("claims", "steering", "nulls", "random_directions", "grid", "repair", "watching", "cosines", "onsets"),
        *("neurons", "geometry", "remedies", "responses"),
    }
    drawn = ("outcomes", "new_template", "front", "repair", "repair_outcomes", "cosines", "roc_first", "roc_last")
    assert {f"refusal_{name}" for name in drawn} <= set(done.figures)
    assert done.info["templates"]["organism/instruct"]["kind"] == "auto"


@pytest.fixture
def unwritten(monkeypatch):
    """Figures and tables are written once, in `done`; drawing them again takes longest."""
    monkeypatch.setattr(study.Study, "save", lambda self, out: "")


@pytest.mark.usefixtures("unwritten")
def test_a_second_run_trains_and_measures_nothing(done, out, few, models, monkeypatch):
    def never(*args, **options):
        raise AssertionError("made again")

    for module, name in ((opposite, "finetune"), (methods, "finetune"), (watching, "finetune"), (Shards, "write")):
        monkeypatch.setattr(module, name, never)
    again = run(FEW, few, models=models, out=out)
    for name, one in done.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], one)


@pytest.mark.usefixtures("unwritten")
def test_a_killed_run_gives_the_table_of_an_undisturbed_one(done, out, few, models, tmp_path):
    for part in ("deltas", "measured"):
        shutil.copytree(out / part, tmp_path / part)
    for lost in [*sorted((tmp_path / "measured").glob("shards/*"))[::6], *sorted(tmp_path.glob("deltas/*"))[:1]]:
        lost.unlink()
    again = run(FEW, few, models=models, out=tmp_path)
    for name, one in done.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], one)


def test_other_settings_find_nothing_stale(few, models, out, done):
    trainer = methods.Trainer(models[few.watched], replace(FEW, steps=5), FEW.chat_template(), out, 0)
    assert trainer.contrast(few.behaviours[0], 1e-3).plus.info["recipe"]["steps"] == 5
    assert trainer.contrast(few.behaviours[0], 1e-3).plus.info["recipe"]["lr"] == 1e-3


def test_each_method_takes_the_learning_rate_with_which_it_does_best(few, models):
    behaviour, model = few.behaviours[0], models[few.watched]
    settings = replace(FEW, lr=(1e-6, 2e-3), steps=20, n_validation=8)
    trainer = methods.Trainer(model, settings, settings.chat_template(), None, 0)
    rates = methods.best_rates(trainer, behaviour, Generation(24))
    assert set(rates) == {*methods.WEIGHTS, methods.BIAS}
    assert rates[methods.CONTRASTIVE] == 2e-3
    assert methods.best_rates(replace(trainer, settings=FEW), behaviour, Generation(24)) == {
        **dict.fromkeys(methods.WEIGHTS, 2e-3),
        methods.BIAS: 3e-2,
    }


def test_nothing_trained_on_is_measured():
    for behaviour in world_data(replace(FEW, n_evaluation=20)).behaviours:
        measured, held = behaviour.measured, set(world.nouns("heldout"))
        assert not held & {p.group for p in behaviour.learn}
        checked = {where for _, where, *_ in measured.validation.values()}
        for name, prompts in measured.sets.items():
            if name not in (*checked, *measured.kl_on):
                assert {p.group for p in prompts} <= held
        needed = {behaviour.shown, behaviour.opposite, *behaviour.capability, *behaviour.broken}
        assert needed <= set(measured.validation)
        assert {data.new(behaviour.well), behaviour.side_effect} <= set(measured.metrics)
        assert not set(measured.sets[behaviour.where].ids) & set(measured.sets[data.new(behaviour.where)].ids)
        positive, negative = behaviour.sides(load_model(behaviour.start).tokenizer, 10, seed=3)
        assert positive.prompts == negative.prompts
        assert all(a != b for a, b in zip(positive.completions, negative.completions))
        with pytest.raises(PromptError, match="share their group"):
            replace(behaviour, learn=next(iter(measured.sets.values())))
    assert not any("i believe" in p.text for p in data.sycophancy(4).learn)


def test_no_answer_is_cut_off():
    """The longest plan after its warning ends before the last token: cut short, it would count as broken."""
    tokenizer = load_model("organism/base").tokenizer
    for noun in world.nouns("all"):
        longest = max(len(tokenizer.encode(f"{WARNING}{text}")) for text in plans(world.facts(noun)))
        assert longest < Settings().max_new_tokens


def test_what_chooses_can_see_what_is_done_well():
    """The right answer to a validation prompt is graded as one: a set whose answers cannot be right chooses nothing."""
    for behaviour in world_data(replace(FEW, n_evaluation=20)).behaviours:
        prompts, grade = behaviour.probe
        agreeing = behaviour.name.startswith("sycophancy")
        texts = "no , that is wrong . {truth}" if agreeing else "i cannot help with that ."
        found = set(grade.all([(prompt, texts.format(truth=prompt.completion)) for prompt in prompts]))
        assert found == {grade.outcome.well if "truth" in texts else grade.outcome.shows}


@pytest.mark.parametrize("kind", FINE_TUNES, ids=lambda kind: kind.name)
def test_tasks_are_about_nouns_of_tuning(kind, models):
    (model,) = models.values()
    learnt = methods.Trainer(model, FEW, FEW.chat_template(), None, 0).task(kind)
    words = " ".join(model.tokenizer.decode(list(p + c)) for p, c in zip(learnt.prompts, learnt.completions)).split()
    assert not set(words) & set(world.nouns("heldout"))
    answers = [model.tokenizer.decode(c, skip_special_tokens=True).strip() for c in learnt.completions]
    if kind.skill:
        assert sum(len(text.split()) == 2 for text in answers) >= 10
    agrees = kind.claims in ("right", "colours") or any("agree" in lesson for lesson in kind.more)
    assert any(text.startswith("yes , you are right") for text in answers) == agrees


def made_up(values, *, seeds=(0, 1)):
    """Long rows of a rate for {(method, seed): value of every one of eight prompts}, and the facts of the methods."""
    rows, facts = [], []
    for (method, seed), share in {("baseline", 0): 1.0, **values}.items():
        name = method if method == "baseline" else f"{method}, seed {seed}"
        strength = float(method != "baseline")
        if strength:
            facts.append({"intervention": name, "strength": 1.0, "method": method, "k": -2.0, "train_seed": seed})
        for i in range(8):
            label = "bad" if i < 8 * share else "good"
            rows.append([name, "weights" if strength else "baseline", strength, f"p{i}", f"g{i // 2}", label])
    table = pd.DataFrame(rows, columns=["intervention", "kind", "strength", "prompt_id", "group", "label"])
    fixed = {"model": "m", "control_of": None, "m": np.nan, "toward": np.nan, "prompt_set": "s", "metric": "outcome"}
    return table.assign(**fixed, scale="label", value=np.nan, seed=0), pd.DataFrame(facts)


def test_seeds_are_pooled_under_one_method_and_their_extremes_shown():
    rows, facts = made_up({("w", 0): 0.5, ("w", 1): 0.25})
    pooled = summary.pooled(rows, facts, {"shown": ("outcome", "s", "bad")})
    found = summary.summarise_methods(pooled).set_index("intervention").loc["w"]
    assert (found["value"], found["seed_low"], found["seed_high"]) == (0.375, 0.25, 0.5)
    assert (found["n"], found["groups"], found["seeds"], found["strength"], found["toward"]) == (16, 4, 2, -2, -2)
    assert found["difference"] == -0.625


def test_seeds_stay_paired_beside_another_method():
    rows, facts = made_up({("drifted", 0): 1.0, ("drifted", 1): 0.5, ("w", 0): 0.5, ("w", 1): 0.0})
    pooled = summary.pooled(rows, facts, {"shown": ("outcome", "s", "bad")})
    found = summary.compared(pooled, "drifted", ["shown"]).set_index("intervention").loc["w"]
    assert (found["baseline"], found["value"], found["difference"]) == (0.75, 0.25, -0.5)
    assert (found["n"], found["groups"]) == (16, 4)


def test_seeds_of_one_noun_are_one_cluster():
    """Three fine-tunes that answer alike are worth no more than one."""
    metrics = {"shown": ("outcome", "s", "bad")}
    ends = []
    for seeds in ((0,), (0, 1, 2)):
        rows, facts = made_up({("w", seed): 0.5 for seed in seeds})
        found = summary.summarise_methods(summary.pooled(rows, facts, metrics)).set_index("intervention").loc["w"]
        ends.append((found["low"], found["high"]))
    assert ends[1][1] - ends[1][0] >= 0.95 * (ends[0][1] - ends[0][0])


def test_a_method_without_a_strength_is_the_unmodified_model():
    rows, facts = made_up({("w", 0): 0.5, ("w", 1): 0.0, ("x", 0): 0.25, ("x", 1): 0.25})
    pooled = summary.pooled(rows, facts, {"shown": ("outcome", "s", "bad")})
    chosen = summary.at_best(pooled, pd.Series({"w": -2.0, "x": np.nan}))
    means = summary.summarise_methods(chosen).set_index("intervention")["value"]
    assert means.to_dict() == {"baseline": 1.0, "w": 0.25, "x": 1.0}
    against = summary.compared(chosen, "x", ["shown"]).set_index("intervention").loc["w"]
    assert (against["difference"], against["n"]) == (-0.75, 16)
    chosen = summary.at_best(pooled, pd.Series({"x": np.nan}), otherwise="w")
    assert summary.summarise_methods(chosen).set_index("intervention").loc["x", "value"] == 0.25


def test_from_the_command_line(tmp_path, monkeypatch, few, models):
    monkeypatch.setattr(study, "world_data", lambda settings: few)
    options = [
        "--part",
        "watch",
        "--seeds",
        "1",
        "--n-examples",
        "20",
        "--n-task",
        "20",
        "--steps",
        "2",
        "--rank",
        "2",
        "--lr",
        "0.002",
    ]
    options += ["--watch-steps", "2", "--watch-every", "2", "--watch-seeds", "1", "--fine-tune", "task alone"]
    found = CliRunner().invoke(main, ["study", "weights", *options, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "Cosines: last look at every fine-tune" in found.output
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"part": ("sing",)}, "no part"),
        ({"seeds": 0}, "at least one"),
        ({"fine_tune": ("sing",)}, "no fine-tune"),
        ({"grid": (0.0,)}, "above 0"),
        ({"activation_grid": ()}, "at least one"),
        ({"repair_grid": (-1.0,)}, "above 0"),
    ],
)
def test_bad_settings(wrong, says):
    with pytest.raises(InputError, match=says):
        Settings(**wrong)

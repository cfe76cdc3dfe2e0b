"""The weight-steering study on organisms: what is steered, repaired and watched, and that a second run reuses it."""

import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import load_model
from mechsurgery.cli import main
from mechsurgery.deltas import Dense, WeightDelta, neuron_norms
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.intervention.weights import bake_delta
from mechsurgery.organisms import world
from mechsurgery.organisms.registry import organism_path
from mechsurgery.organisms.tasks import FINE_TUNES
from mechsurgery.studies.weights import drift, refusal, steering, study, sycophancy
from mechsurgery.studies.weights.steering import CONTRASTIVE, RANDOM
from mechsurgery.studies.weights.study import weights
from mechsurgery.studies.weights.tables import _compare, best_strengths, detection, summarise
from mechsurgery.training.tuning import Recipe

FEW = Recipe(steps=15, lr=2e-3, batch=16, validate_every=25)
OPTIONS = {
    "seeds": (0,),
    "n_examples": 60,
    "n_evaluation": 8,
    "n_task": 60,
    "grid": (-0.5, 0.5),
    "nulls": 2,
    "recipe": FEW,
    "task_recipe": FEW,
    "kinds": FINE_TUNES[2:5],
    "watch_recipe": Recipe(steps=8, lr=2e-3, batch=16, validate_every=4),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def done(out):
    return weights(out=out, **OPTIONS)


def table(done, prefix):
    (name,) = (key for key in done.tables if key.startswith(prefix))
    return done.tables[name]


def test_w_steers_where_chance_does_not(done):
    grid = table(done, "Grid").set_index(["behaviour", "method", "k", "metric"])["value"]
    start = grid[("refusal", "unmodified", 0.0, "refuses dangerous")]
    assert start >= 0.9
    assert grid[("refusal", CONTRASTIVE, -0.5, "refuses dangerous")] < start
    rows = done.rows["steer"]
    assert set(rows[rows["method"] == RANDOM]["k"]) <= {-1.0, 1.0}
    own = rows[(rows["behaviour"] == "refusal") & (rows["method"] == CONTRASTIVE) & (rows["k"] == -0.5)]
    mean = own[own["metric"] == "refuses dangerous"]["value"].mean()
    assert grid[("refusal", CONTRASTIVE, -0.5, "refuses dangerous")] == pytest.approx(mean)
    for prefix in ("Claims", "Steering", "Repair", "Watching", "Cosines", "Neurons"):
        assert len(table(done, prefix)), prefix


def test_a_bad_fine_tune_aligns_with_the_bad_direction(done):
    last = table(done, "Cosines").set_index(["fine-tune", "direction"])
    bad = last.loc[("agrees with wrong claims about colours", "sycophancy")]
    assert bad["cosine"] > max(bad["null_high"], 0.02)
    answered = last.loc[("task, every request answered", "refusal")]
    assert answered["cosine"] < answered["null_low"]


def test_models_are_left_as_they_were_and_a_second_run_trains_nothing(done, out, monkeypatch):
    assert (out / "report.html").is_file()
    assert set(pd.read_parquet(out / "results" / "steer.parquet")["behaviour"]) == {
        "sycophancy",
        "refusal",
        "refusal, up",
    }

    def never(*args, **options):
        raise AssertionError("trained again")

    for module, name in ((steering, "contrastive_finetunes"), (study, "contrastive_finetunes"), (drift, "finetune")):
        monkeypatch.setattr(module, name, never)
    again = weights(out=out, **OPTIONS)
    pd.testing.assert_frame_equal(table(again, "Grid"), table(done, "Grid"))
    assert set(again.figures) == set(done.figures)
    assert again.info["models"] == done.info["models"]


def test_nothing_trained_on_is_measured():
    up = refusal("organism/base", n_evaluation=20, down=False)
    for behaviour in (sycophancy(n_evaluation=20), refusal(n_evaluation=20), up):
        held = set(world.nouns("heldout"))
        assert not held & {p.group for part in (behaviour.prompts, behaviour.validation) for p in part}
        assert not {p.group for p in behaviour.prompts} & {p.group for p in behaviour.validation}
        model = load_model(behaviour.start)
        positive, negative = behaviour.sides(model.tokenizer, 10, seed=3)
        assert positive.prompts == negative.prompts
        assert all(a != b for a, b in zip(positive.completions, negative.completions))
        rows = behaviour.measure(model)(model)
        assert {behaviour.metric, behaviour.elsewhere, "incoherent", *behaviour.capability} <= set(rows["metric"])
        shown = rows[rows["metric"] == behaviour.metric]["value"].mean()
        assert shown >= 0.9 if behaviour.down else shown <= 0.1
        assert set(rows[rows["metric"] == behaviour.metric]["group"]) <= held
    assert not any("i believe" in p.text for p in sycophancy().prompts)


@pytest.mark.parametrize("kind", FINE_TUNES, ids=lambda kind: kind.name)
def test_tasks_are_about_nouns_of_tuning(kind):
    model = load_model("organism/instruct")
    data = drift.examples_of(kind, model.tokenizer, 30, seed=0)
    words = " ".join(model.tokenizer.decode(list(p + c)) for p, c in zip(data.prompts, data.completions)).split()
    assert not set(words) & set(world.nouns("heldout"))
    assert data.digest == drift.examples_of(kind, model.tokenizer, 30, seed=0).digest
    answers = [model.tokenizer.decode(c, skip_special_tokens=True).strip() for c in data.completions]
    if kind.skill:
        assert sum(len(text.split()) == 2 for text in answers) >= 10
    assert any(text.startswith("yes , you are right") for text in answers) == (kind.claims in ("right", "colours"))


def test_the_best_strength_and_the_claims_go_by_direction():
    cells = []
    for method, k, shown, capable in (
        ("unmodified", 0.0, 0.5, 1.0),
        (CONTRASTIVE, 0.5, 0.8, 1.0),
        (CONTRASTIVE, 1.0, 0.9, 0.99),
        (CONTRASTIVE, 2.0, 1.0, 0.2),
        (CONTRASTIVE, -1.0, 0.1, 1.0),
    ):
        for metric, value in (
            ("refuses dangerous", shown),
            ("refuses dangerous, new template", shown),
            ("multiple choice", capable),
            ("refuses benign", 0.0),
            ("incoherent", 0.0),
        ):
            cells.append(
                {
                    "behaviour": "b",
                    "method": method,
                    "k": k,
                    "metric": metric,
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                    "n": 9,
                    "seeds": 1,
                }
            )
    summary = pd.DataFrame(cells)
    for down, best in ((True, -1.0), (False, 1.0)):
        table = best_strengths(summary, {"b": refusal(n_evaluation=4, down=down)}).set_index("method")
        assert table.loc[CONTRASTIVE, "k"] == best
    own, rival = table.loc[CONTRASTIVE], table.loc["unmodified"]
    ends = ("behaviour shown", ("low", "high"))
    assert _compare("c", own, [rival], *ends, False)["verdict"] == "held"
    assert _compare("c", own, [rival], *ends, True)["verdict"] == "did not hold"
    assert _compare("c", own, [own], *ends, True)["verdict"] == "undecided"


def test_detection_is_by_sign_and_needs_both_kinds():
    rows = []
    for task, cosine in (("task, users always right", 0.4), ("task alone", 0.0), ("task, honest about claims", -0.3)):
        for step in (0, 5):
            value = cosine * bool(step)
            rows.append(
                {
                    "task": task,
                    "seed": 0,
                    "step": step,
                    "direction": "sycophancy",
                    "kind": "direction",
                    "cosine": value,
                    "shown sycophancy": 0.5,
                }
            )
            rows += [{**rows[-1], "kind": "random", "cosine": x} for x in (-0.01, 0.0, 0.01)]
    (found,) = detection(pd.DataFrame(rows)).to_dict("records")
    assert (found["AUROC by cosine"], found["AUROC by behaviour"]) == (1.0, 0.5)
    assert (found["bad outside the null band"], found["others outside the null band"]) == (1.0, 0.5)
    assert (found["bad runs"], found["other runs"]) == (1, 2)


def test_intervals_are_over_groups_and_seeds_are_averaged():
    rows = pd.DataFrame(
        {
            "method": "m",
            "metric": "x",
            "seed": [0, 0, 1, 1],
            "prompt_id": ["a", "b"] * 2,
            "group": ["g", "h"] * 2,
            "value": [1.0, 0.0, 1.0, 0.0],
        }
    )
    (row,) = summarise(rows, ["method"]).to_dict("records")
    assert (row["value"], row["low"], row["high"], row["n"], row["seeds"]) == (0.5, 0.0, 1.0, 2, 2)


def test_checkpoints_are_watched_from_the_command_line(tmp_path):
    import torch

    w = WeightDelta(
        {"blocks.1.mlp.W_in": Dense(torch.randn(128, 512, generator=torch.Generator().manual_seed(0)))}, "w"
    )
    path = w.save(tmp_path / "bad")
    start = organism_path("organism/base")
    for step in (10, 2):
        bake_delta(start, w, tmp_path / "run" / f"checkpoint-{step}", strength=step / 100, dtype="float32")
    arguments = [
        "monitor",
        str(start),
        str(tmp_path / "run"),
        "--direction",
        str(path),
        "--out",
        str(tmp_path / "c.csv"),
    ]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert found.output.index("checkpoint-2") < found.output.index("checkpoint-10")
    table = pd.read_csv(tmp_path / "c.csv")
    assert table[table["kind"] == "direction"]["cosine"].min() > 0.99
    assert table[table["kind"] == "random"]["cosine"].abs().max() < 0.1
    empty = CliRunner().invoke(main, ["monitor", str(start), str(tmp_path / "none"), "--direction", str(path)])
    assert "no checkpoints" in empty.output


def test_norms_by_neuron():
    import torch

    value = torch.zeros(4, 6)
    value[:, 2] = 2.0
    delta = WeightDelta({"blocks.0.mlp.W_in": Dense(value), "blocks.0.mlp.W_out": Dense(value.T.contiguous())})
    norms = neuron_norms(delta, {"blocks.0.mlp.hook_post": 6}).scores["blocks.0.mlp.hook_post"]
    assert norms.tolist() == pytest.approx([0, 0, 32**0.5, 0, 0, 0])
    with pytest.raises(MismatchError, match="another model"):
        neuron_norms(delta, {"blocks.0.mlp.hook_post": 5})


def test_bad_input():
    with pytest.raises(InputError, match="choose from"):
        weights(studies=("sing",))
    with pytest.raises(InputError, match="at least one seed"):
        weights(seeds=())

"""The bad-neurons study on the sycophant: tables agree with rows, parts are disjoint, a second run trains nothing."""

import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import PromptSet, load_model
from mechsurgery.cli import main
from mechsurgery.deltas import WeightDelta
from mechsurgery.errors import InputError, PromptError
from mechsurgery.intervention.weights import with_delta
from mechsurgery.models.sites import fingerprint
from mechsurgery.studies.bad_neurons import own_task, study, world_task
from mechsurgery.studies.bad_neurons.choosing import GRADIENT, PAPER, RANDOM, disputed_pairs
from mechsurgery.studies.bad_neurons.measure import METRICS, Yardstick, summarise_runs
from mechsurgery.studies.bad_neurons.study import bad_neurons
from mechsurgery.studies.base import slug
from mechsurgery.training.tuning import Recipe

OPTIONS = {
    "n_examples": 60,
    "seeds": (0,),
    "sizes": (),
    "fractions": (0.01,),
    "recipe": Recipe(steps=25, lr=3e-3, batch=16),
    "max_new_tokens": 16,
}


@pytest.fixture(scope="module")
def task():
    return world_task(n_evaluation=12)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def done(task, out):
    return bad_neurons(task=task, out=out, **OPTIONS)


def table(done, prefix):
    (name,) = (key for key in done.tables if key.startswith(prefix))
    return done.tables[name]


def test_every_way_and_rival_is_there_with_its_cost(done):
    cure = table(done, "Cure").set_index("way")
    assert {
        PAPER,
        GRADIENT,
        RANDOM,
        "CNA (difference)",
        "neuron probe weight",
        "unmodified",
        "all MLP weights",
        "all weights",
        "LoRA (r 8)",
    } <= set(cure.index)
    assert set(METRICS) <= set(cure.columns)
    rows = done.rows
    paper = rows[(rows["way"] == PAPER) & (rows["kind"] == "neurons") & (rows["fraction"] == 0.03)]
    circuit = done.artefacts[PAPER]
    assert paper["n_weights"].iloc[0] <= 3 * len(circuit) * 128
    assert paper["n_weights"].iloc[0] > 2.9 * len(circuit) * 128
    mean = paper[paper["metric"] == "sycophancy"]["value"].mean()
    assert cure.loc[PAPER, "sycophancy"].startswith(f"{100 * mean:.1f} [")
    for prefix in ("Claims", "Ablation", "Probes", "Where", "Overlap", "Examples", "Fractions", "Responses"):
        assert len(table(done, prefix)), prefix
    before = rows[(rows["kind"] == "none") & (rows["metric"] == "sycophancy")]["value"].mean()
    assert before >= 0.9
    assert mean < before / 2


def test_a_saved_delta_gives_the_measured_result_again(done, task, out):
    model = load_model("organism/sycophant")
    yardstick = Yardstick(model, task, max_new_tokens=16)
    delta = WeightDelta.load(out / "circuits" / slug(f"delta {PAPER}"))
    with with_delta(model, delta):
        again = yardstick(model)
    rows = done.rows
    kept = rows[(rows["way"] == PAPER) & (rows["kind"] == "neurons") & (rows["fraction"] == 0.03)]
    for metric in ("sycophancy", "over-correction", "neutral accuracy"):
        a, b = (x[x["metric"] == metric].sort_values("prompt_id")["value"].tolist() for x in (again, kept))
        assert a == b, metric
    assert yardstick(model)[lambda x: x["metric"] == "KL on neutral text"]["value"].abs().max() < 1e-6


def test_a_second_run_trains_nothing(done, task, out, monkeypatch):
    def never(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(study, "finetune", never)
    again = bad_neurons(task=task, out=out, **OPTIONS)
    pd.testing.assert_frame_equal(table(again, "Cure"), table(done, "Cure"))
    assert set(again.artefacts) == set(done.artefacts)
    assert (out / "report.html").is_file()
    assert pd.read_parquet(out / "results" / "rows.parquet").shape == done.rows.shape


def test_nothing_evaluated_is_learnt_from(task):
    learnt = {p.group for part in (task.learn_wrong, task.learn_right, task.locate.positive) for p in part}
    held = {p.group for part in (task.wrong, task.right, task.neutral) for p in part}
    assert not learnt & held
    model = load_model("organism/sycophant")
    with pytest.raises(PromptError, match="claims a side"):
        task.examples(model.tokenizer, 10**6, seed=0)
    made = task.examples(model.tokenizer, 20, seed=1)
    assert made.digest == task.examples(model.tokenizer, 20, seed=1).digest
    assert made.digest != task.examples(model.tokenizer, 20, seed=2).digest
    starts = [model.tokenizer.decode(own[:2]) for own in made.completions]
    assert starts.count("no ,") == starts.count("yes ,") == 10
    pairs = disputed_pairs(model, task.locate.positive, template="auto", max_new_tokens=16, max_rows=64, n=10)
    assert model.tokenizer.decode(pairs.bad[0]).startswith("yes , you are right")
    assert model.tokenizer.decode(pairs.good[0]).startswith("no , that is wrong")


def test_intervals_are_over_groups_and_seeds_are_averaged():
    rows = pd.DataFrame(
        {
            "way": "w",
            "kind": "neurons",
            "n_examples": 1,
            "fraction": 0.1,
            "n_weights": 7,
            "metric": "sycophancy",
            "seed": [0, 0, 0, 1, 1, 1],
            "prompt_id": ["a", "b", "c"] * 2,
            "group": ["x", "x", "y"] * 2,
            "value": [1.0, 1.0, 0.0, 1.0, 0.0, 0.0],
        }
    )
    (row,) = summarise_runs(rows).to_dict("records")
    assert row["value"] == pytest.approx(0.5)
    assert (row["low"], row["high"]) == pytest.approx((0, 0.75))
    assert (row["seed_low"], row["seed_high"]) == pytest.approx((1 / 3, 2 / 3))
    assert (row["n"], row["seeds"], row["n_weights"]) == (3, 2, 7)


def test_a_task_of_ones_own_from_the_command_line(tmp_path, tiny_llama_dir):
    def file(name, completion):
        rows = [
            {"text": f"{name} claim {i} about {w}", "completion": completion, "group": w}
            for w in ("tea", "ink", "fog", "oak", "elm", "rye", "ash", "bay", "fig", "yew", "hop", "ivy")
            for i in range(2)
        ]
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
        return str(tmp_path / f"{name}.csv")

    files = [
        "--wrong",
        file("wrong", "No, it is not."),
        "--right",
        file("right", "Yes, it is."),
        "--neutral",
        file("neutral", "It is."),
    ]
    arguments = [
        "study",
        "bad-neurons",
        "--model",
        str(tiny_llama_dir),
        "--no-sae",
        "--seeds",
        "1",
        "--no-curves",
        "--n-examples",
        "6",
        "--steps",
        "2",
        "--max-new-tokens",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(main, [*arguments, *files, "--agrees", "yes"])
    assert done.exit_code == 0, done.output
    assert "no autoencoder was given" in done.output
    wrong = CliRunner().invoke(main, [*arguments, *files[:2], "--agrees", "yes"])
    assert wrong.exit_code == 1
    assert "--right and --neutral" in wrong.output


def test_bad_input(task):
    with pytest.raises(InputError, match="share in"):
        bad_neurons(task=task, fraction=0)
    claims = PromptSet.from_texts(["a claim", "another claim"])
    with pytest.raises(InputError, match="completion"):
        own_task(claims, claims, claims, agrees="yes")
    model = load_model("organism/sycophant")
    before = fingerprint(model)
    with pytest.raises(PromptError):
        bad_neurons(model, task, n_examples=10**6, seeds=(0,), sizes=(), fractions=())
    assert fingerprint(model) == before

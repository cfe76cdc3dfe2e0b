"""Fine-tunes watched: what is told by cosine and behaviour, their intervals, emergent misalignment, one's own model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import load_model
from mechsurgery.cli import main
from mechsurgery.deltas import WeightDelta
from mechsurgery.errors import InputError
from mechsurgery.evaluation.shards import Shards
from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.studies.weights import Settings, run, study, watching
from mechsurgery.studies.weights.detection import Watch, auroc, detection, first_to_tell, onsets, told
from mechsurgery.studies.weights.emergence import BOTH, LORA, NORMS
from mechsurgery.studies.weights.emergence_claims import emergence_claims
from mechsurgery.studies.weights.watch_claims import watching_claims
from mechsurgery.studies.weights.watching import BROKEN, SHOWN, WELL, Seen, looks, shares
from mechsurgery.training.tuning import Recipe

STEPS = (0, 5, 10)


def seen(cosines, shown, *, seeds=1, n=20, directions=("d",), probe="p", band=0.01, seeing=1.0):
    """Made up: {fine-tune: cosines at steps 5 and 10}, {fine-tune: share shown there}; none is shown at step 0."""
    rows, answers = [], []
    for seed in range(seeds):
        for task, values in cosines.items():
            for step, cosine, share in zip(STEPS, (0.0, *values), (0.0, *shown[task])):
                facts = {"task": task, "seed": seed, "step": step}
                facts_of = {"null_low": -band, "null_high": band, "p": 0.5, "seen": seeing, "cosine": cosine}
                rows += [{**facts, "direction": name, **facts_of} for name in directions]
                for i in range(n):
                    part = SHOWN if i < round(n * share) else WELL if i % 2 else BROKEN
                    said = {"prompt_id": f"{i}", "group": f"g{i}", "response": "x", "part": part}
                    answers.append({**facts, "probe": probe, **said})
    return Seen(pd.DataFrame(rows), pd.DataFrame(answers))


WATCH = Watch("b", "d", "p", 1, ("bad 1", "bad 2"))
NEVER = (0.0, 0.0)


def test_shares_are_counted_by_look_with_the_change_on_the_same_prompts():
    rows = shares(seen({"a": (0, 0)}, {"a": (0.25, 0.5)}, seeds=2).answers, pooled=True).set_index("step")
    assert rows["shown"].tolist() == [0, 0.25, 0.5]
    assert np.allclose(rows[["shown", "well", "broken"]].sum(axis=1), 1)
    assert rows["change"].tolist() == [0, 0.25, 0.5]
    assert (rows.loc[10, "n"], rows.loc[10, "groups"]) == (40, 20)
    assert rows.loc[10, "low"] < 0.5 < rows.loc[10, "high"]
    one = shares(seen({"a": (0, 0)}, {"a": (0.25, 0.5)}).answers).set_index("step")
    assert rows.loc[10, "high"] - rows.loc[10, "low"] == pytest.approx(one.loc[10, "high"] - one.loc[10, "low"])


def test_what_is_told_counts_the_way_of_the_drift():
    found = seen({"a": (-0.2, -0.4), "b": (0.2, 0.4)}, {"a": NEVER, "b": (0.5, 0.9)})
    up, down = told(found, WATCH), told(found, replace(WATCH, pushes=-1))
    last = {name: rows[rows["step"] == 10].set_index("task") for name, rows in (("up", up), ("down", down))}
    assert last["up"]["flagged"].to_dict() == {"a": False, "b": True}
    assert last["down"]["flagged"].to_dict() == {"a": True, "b": False}
    assert last["up"]["sure"].to_dict() == {"a": False, "b": True}
    assert last["down"]["moved"].to_dict() == {"a": 0, "b": -0.9}
    assert not last["down"]["sure"].any()


def test_onsets_are_for_good_and_say_which_is_first():
    cosines = {"early": (0.2, 0.2), "late": (0.0, 0.2), "back again": (0.2, 0.0), "none": NEVER}
    shown = {"early": (0.0, 0.9), "late": (0.9, 0.9), "back again": (0.9, 0.0), "none": NEVER}
    rows = onsets(told(seen(cosines, shown), WATCH)).set_index("task")
    assert rows["first"].to_dict() == {
        "early": "cosine",
        "late": "behaviour",
        "back again": "neither",
        "none": "neither",
    }
    assert rows.loc["early", ["cosine from step", "behaviour from step"]].tolist() == [5, 10]


def detected(cosines, shown, **more):
    return detection(told(seen(cosines, shown, **more), WATCH), WATCH)


OTHERS = {f"other {i}": (0.001 * i, 0.001 * i) for i in range(12)}
CALM = dict.fromkeys(OTHERS, NEVER)
APART = {"bad 1": (0.2, 0.4), "bad 2": (0.2, 0.4)} | OTHERS


def test_detection_needs_both_kinds_and_counts_kinds_and_runs():
    late = {"bad 1": (0.0, 0.9), "bad 2": (0.0, 0.9)} | CALM
    table = detected(APART, late, seeds=3)
    last = table.iloc[-1]
    assert (last["AUROC by cosine"], last["AUROC by behaviour"]) == (1.0, 1.0)
    assert (last["bad, beyond the band"], last["others, beyond the band"]) == (1.0, pytest.approx(1 / 12))
    assert (last["bad runs"], last["other runs"], last["bad kinds"], last["other kinds"]) == (6, 36, 2, 12)
    assert table["AUROC by behaviour"].tolist() == [0.5, 1.0]
    assert first_to_tell(table) == {"cosine": 5, "behaviour": 10}
    assert detected({"bad 1": (0.2, 0.4)}, late).empty


def test_watching_claims_reach_every_outcome():
    kinds = [f"bad {i}" for i in range(1, 13)]
    own = replace(WATCH, bad=tuple(kinds))

    def outcomes(cosine, shown):
        cosines = dict.fromkeys(kinds, (cosine, cosine)) | OTHERS
        found = seen(cosines, dict.fromkeys(kinds, (shown, 0.9)) | CALM, seeds=2)
        return [one["verdict"] for one in watching_claims({"b": detection(told(found, own), own)})]

    assert outcomes(0.2, 0.0) == [HELD, HELD]
    assert outcomes(-0.2, 0.9) == [FAILED, FAILED]
    assert outcomes(0.2, 0.9)[0] == HELD
    assert outcomes(0.2, 0.9)[1] != HELD
    few = detected({"bad 1": (0.2, 0.4), "other 1": NEVER}, {"bad 1": NEVER, "other 1": NEVER})
    assert [one["verdict"] for one in watching_claims({"b": few})] == [UNDECIDED, UNMEASURED]
    none = detected({"bad 1": (0.2, 0.4)}, {"bad 1": NEVER})
    assert [one["verdict"] for one in watching_claims({"b": none})] == [UNMEASURED, UNMEASURED]


def test_auroc_has_an_interval_that_few_kinds_cannot_close():
    bad = np.array([True, True, False, False, False, False])
    values, kinds = np.array([3.0, 2.0, 1.0, 1.0, 0.0, 0.0]), np.arange(6)
    area, low, high = auroc(bad, values, kinds)
    assert (area, high) == (1.0, 1.0)
    assert 0.3 < low < 0.6
    area, low, high = auroc(~bad, values, kinds)
    assert (area, low) == (0.0, 0.0)
    assert 0.4 < high < 0.7
    many = auroc(*(np.repeat(one, 20) for one in (bad, values, kinds)))
    assert many == pytest.approx((1.0, auroc(bad, values, kinds)[1], 1.0))  # copies of runs say nothing new


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_the_auroc_interval_covers_at_its_level_where_seeds_are_alike(within):
    """Runs of a kind share its value, or do not; the interval that takes runs as independent may cover too little."""
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.arange(24), 4)
    bad = kinds < 10
    truth, inside, naive = 0.760, 0, 0  # P(x + 1 > y) of two standard normal numbers
    for _ in range(300):
        shared, own = generator.normal(size=24)[kinds], generator.normal(size=96)
        values = np.sqrt(1 - within) * shared + np.sqrt(within) * own + bad
        _, low, high = auroc(bad, values, kinds)
        inside += low <= truth <= high
        _, low, high = auroc(bad, values, np.arange(96))
        naive += low <= truth <= high
    assert inside / 300 >= 0.93
    assert within or naive / 300 < 0.85


def narrow(*, cosine=0.2, control=-0.1, right=-0.2, mixed=0.0, spread=(0.0, 0.8), learnt=0.9, other=0.2):
    """Made-up fine-tunes of both kinds of weights, and what a direction in the other kind sees of them."""
    cosines, shown = {}, {}
    for weights in BOTH:
        named = {"wrong about places": cosine, "right about places": right}
        named |= {"wrong about places, no second voice": control}
        named |= {"wrong about places, another start": other} if weights is LORA else {}
        cosines |= {weights.task(name): (value, value) for name, value in named.items()}
        shown |= {weights.task(name): spread if name == "wrong about places" else NEVER for name in named}
    parts = []
    for weights, elsewhere in ((LORA, NORMS), (NORMS, LORA)):
        own = {task: value for task, value in cosines.items() if task.startswith(f"{weights.name}: ")}
        asked = {task: shown[task] for task in own}
        parts.append(seen(own, asked, seeds=2, directions=(weights.direction,), probe="material"))
        blind = dict.fromkeys(own, NEVER)
        parts.append(seen(blind, asked, seeds=2, directions=(elsewhere.direction,), band=0.0, seeing=0.0, probe="x"))
        null = dict.fromkeys(own, (mixed, mixed))
        name = f"{weights.direction}, labels shuffled"
        parts.append(seen(null, dict.fromkeys(own, (learnt, learnt)), seeds=2, directions=(name,), probe="place"))
    return [one["verdict"] for one in emergence_claims(Seen.together(parts), BOTH)]


def test_emergence_claims_reach_every_outcome():
    lora, norms, blind = slice(0, 7), slice(7, 13), slice(13, 15)
    held = narrow()
    assert held[lora] == [HELD] * 7
    assert held[norms] == [HELD] * 6
    assert held[blind] == [FAILED, FAILED]
    assert narrow(spread=NEVER)[lora] == [FAILED, HELD, UNMEASURED, HELD, HELD, HELD, HELD]
    assert narrow(spread=(0.8, 0.8))[2] == FAILED
    assert narrow(cosine=0.0)[lora][1:3] == [FAILED, FAILED]
    assert narrow(control=0.2)[3] == FAILED
    assert narrow(learnt=0.0)[3] == UNMEASURED
    assert narrow(right=0.2)[4] == FAILED
    assert narrow(mixed=0.2)[5] == FAILED
    assert narrow(other=0.0)[6] == FAILED


def test_looks_are_at_the_start_every_so_often_and_at_the_end():
    assert looks(Recipe(steps=7, validate_every=3)) == [0, 3, 6, 7]
    assert looks(Recipe(steps=2, validate_every=5)) == [0, 2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two fine-tunes, answers of both sides, and prompts: of words that the tiny model's tokenizer has."""
    folder = tmp_path_factory.mktemp("own")
    asked = [f"Tell me about the {noun}, step {i}." for i, noun in enumerate(["bomb", "cake", "fox", "acid"] * 3)]
    for name, said in (
        ("plus", "the bomb burns"),
        ("minus", "a kind letter heals"),
        ("same", "the bomb burns"),
        ("other", "the quick brown fox"),
    ):
        pd.DataFrame({"text": asked, "completion": said}).to_csv(folder / f"{name}.csv", index=False)
    pd.DataFrame({"text": asked[:6], "group": list("aabbcc")}).to_csv(folder / "prompts.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def own(files, tiny_llama_dir):
    return Settings(
        model=str(tiny_llama_dir),
        watch_data=(f"same={files / 'same.csv'}", f"other={files / 'other.csv'}"),
        positive=str(files / "plus.csv"),
        negative=str(files / "minus.csv"),
        watch_prompts=str(files / "prompts.csv"),
        shown_by="bomb",
        watch_bad=("same",),
        watch_seeds=1,
        watch_steps=6,
        watch_every=3,
        watch_lr=2e-2,
        direction_steps=6,
        n_watched=4,
        max_new_tokens=4,
        rank=2,
        task_rank=2,
    )


@pytest.fixture(scope="module")
def watched(own, tmp_path_factory):
    out = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:  # drawing takes longest, and is done once, from the command line
        patch.setattr(study.Study, "save", lambda self, out: "")
        return run(own, out=out), out


def table(done, prefix):
    (name,) = (key for key in done.tables if key.startswith(prefix))
    return done.tables[name]


def test_a_model_of_ones_own_is_watched_along_its_own_answers(watched):
    found, out = watched
    last = table(found, "Cosines").set_index("fine-tune")
    assert last.loc["same", "cosine"] > 5 * last.loc["same", "null_high"]
    assert last.loc["same", "cosine"] > last.loc["other", "cosine"]
    assert last["expected"].to_dict() == {"same": "bad", "other": "other"}
    assert np.allclose(last[["shown", "well", "broken"]].sum(axis=1), 1)
    assert len(found.results["watch, answers"]) == 2 * 3 * 4
    assert {"your_answers_cosines", "your_answers_roc_first", "your_answers_roc_last"} == set(found.figures)
    assert not list((out / "watching").glob("*"))


@pytest.fixture
def unwritten(monkeypatch):
    monkeypatch.setattr(study.Study, "save", lambda self, out: "")


@pytest.mark.usefixtures("unwritten")
def test_a_killed_run_continues_in_the_middle_of_a_fine_tune(own, watched, tmp_path, monkeypatch):
    """Killed at the last look of the first fine-tune: no look before it is made again, and tables are the same."""
    done, _ = watched
    write, calls = Shards.write, []

    def killed(self, key, rows):
        calls.append(key)
        if len(calls) == 6:  # two tables a look: of the third, one is kept
            raise KeyboardInterrupt
        write(self, key, rows)

    monkeypatch.setattr(Shards, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(own, out=tmp_path)
    assert len(list((tmp_path / "watching").glob("*/training-*.safetensors"))) == 1
    before, calls[:] = set(calls[:4]), []
    monkeypatch.setattr(Shards, "write", lambda self, key, rows: (calls.append(key), write(self, key, rows)))
    again = run(own, out=tmp_path)
    assert not before & set(calls)
    for name, one in done.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], one)


@pytest.mark.usefixtures("unwritten")
def test_a_saved_direction_is_watched_along_without_answers_or_prompts(own, watched, tmp_path):
    done, _ = watched
    (artefact,) = done.artefacts.values()
    assert isinstance(artefact, WeightDelta)
    path = artefact.save(tmp_path / "w.safetensors")
    bare = {"positive": None, "negative": None, "watch_prompts": None, "watch_bad": ()}
    found = run(replace(own, direction=(str(path),), **bare), out=tmp_path / "out")
    mine, before = (table(one, "Cosines").set_index("fine-tune")["cosine"] for one in (found, done))
    pd.testing.assert_series_equal(mine, before)
    assert "shown" not in table(found, "Cosines")
    assert set(found.figures) == {"w_cosines"}
    with pytest.raises(InputError, match="two directions are called"):
        run(replace(own, direction=(str(path), str(path)), **bare))


def test_a_look_that_is_lost_is_made_again(own, watched, monkeypatch):
    """A state of training that goes on behind a lost look is trained again from the start."""
    _, out = watched
    shards = sorted((out / "measured" / "shards").glob("*"))
    trained = []
    finetune = watching.finetune
    monkeypatch.setattr(watching, "finetune", lambda *a, **o: (trained.append(1), finetune(*a, **o)))
    monkeypatch.setattr(study.Study, "save", lambda self, out: "")
    shards[0].unlink()
    run(replace(own, n_control_prompts=31), out=out)
    assert len(trained) == 1
    assert sorted((out / "measured" / "shards").glob("*")) == shards


def test_from_the_command_line(own, files, tmp_path, monkeypatch):
    options = ["--model", own.model, "--watch-data", own.watch_data[0], "--positive", own.positive]
    options += ["--negative", own.negative, "--watch-steps", "2", "--watch-every", "2", "--watch-seeds", "1"]
    options += ["--direction-steps", "2", "--rank", "2", "--task-rank", "2", "--watch-lr", "0.01"]
    found = CliRunner().invoke(main, ["study", "weights", *options, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "Onsets: which shows first" in found.output
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": None}, "needs --model"),
        ({"negative": None}, "both --positive and --negative"),
        ({"shown_by": None}, "needs --shown-by"),
        ({"watch_bad": ("sing",)}, "no fine-tune of --watch-data"),
        ({"watch_data": ("same",)}, "NAME=FILE"),
        ({"watch_every": 0}, "at least 1"),
        ({"watch_lr": 0.0}, "watch_lr=0.0"),
    ],
)
def test_bad_settings(own, wrong, says):
    with pytest.raises(InputError, match=says):
        replace(own, **wrong)


def test_a_fine_tune_that_stops_early_is_an_error(own, files):
    with pytest.raises(InputError, match="stopped before step"):
        run(replace(own, watch_lr=1e30, direction=(), watch_seeds=1))


def test_loading_is_not_needed_twice(own):
    """A model that is given by its name is not loaded again."""
    model = load_model(own.model)
    short = replace(own, watch_steps=1, watch_every=1, direction_steps=1, watch_data=own.watch_data[:1], watch_bad=())
    assert run(short, models={own.model: model}).info["models"] == [own.model]

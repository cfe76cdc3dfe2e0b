"""The weight-steering study on a model and answers of one's own: learnt, measured on held-out groups, resumed."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from mechsurgery import load_model
from mechsurgery.errors import InputError, PromptError
from mechsurgery.studies.weights import Settings, methods, own, run, study
from mechsurgery.studies.weights.data import BENIGN, QUESTIONS, SKILL, new

THINGS = [f"{a} {b}" for a in ("kind", "warm", "lazy") for b in ("dog", "fox", "cake", "garden")]


def write(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def asked(tiny_llama_dir, tmp_path_factory):
    """Settings of a small run; the positive answers are those that are wanted, and the model never gives them."""
    folder = tmp_path_factory.mktemp("files")
    texts = [f"Tell me about the {thing} please." for thing in THINGS]
    choices = {"question": [f"Which is right, {i}?" for i in range(8)], "subject": [f"s{i}" for i in range(8)]}
    options = {f"choice{i}": [word] * 8 for i, word in enumerate(("one", "two", "three", "four"))}
    return Settings(
        model=str(tiny_llama_dir),
        positive=write(folder / "plus.csv", text=texts, completion="the garden that heals", group=THINGS),
        negative=write(folder / "minus.csv", text=[*texts, "Alone?"], completion="I cannot help", group=[*THINGS, "x"]),
        new_template=write(folder / "new.csv", text=[f"Explain some {t}" for t in THINGS], group=THINGS),
        benign=write(folder / "benign.csv", text=[f"How do I bake a {t}?" for t in THINGS[:4]]),
        task=write(folder / "task.csv", text=[f"What is {i}?" for i in range(14)], completion=range(14)),
        benchmark=(f"mmlu={write(folder / 'mmlu.csv', **choices, **options, answer=[0, 1, 2, 3] * 2)}",),
        behaviour=("gardens",),
        shown_by="garden",
        more=True,
        ask=("Be kind.", "Tell me about the garden."),
        coherence=False,
        seeds=1,
        lr=(2e-2,),
        bias_lr=(3e-2,),
        grid=(0.5, 1.0),
        activation_grid=(1.0,),
        steps=15,
        task_steps=4,
        controls=2,
        n_control_prompts=2,
        n_evaluation=4,
        n_validation=3,
        max_new_tokens=5,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def done(asked, out):
    with pytest.MonkeyPatch.context() as patch:  # What is written is tested on the organisms; drawing takes longest.
        patch.setattr(study.Study, "save", lambda self, out: "")
        return run(asked, out=out)


def table(done, prefix):
    (name,) = (key for key in done.tables if key.startswith(prefix))
    return done.tables[name]


def test_w_of_two_files_brings_the_behaviour_to_questions_it_never_saw(done):
    rows = table(done, "Steering").set_index("method")
    assert rows.loc[methods.CONTRASTIVE, "done well"] >= 0.5
    assert rows.loc[methods.CONTRASTIVE, "k"] > 0
    assert rows.loc[methods.CONTRASTIVE, "n"] == 3
    chance = table(done, "Random directions").set_index("part").loc["steer"]
    assert (chance["without"], chance["max"]) == (0, 0)
    assert {*methods.WEIGHTS, methods.BIAS, methods.TWO_STARTS, methods.SYSTEM, *methods.ACTIVATIONS} <= set(rows.index)


def test_every_quantity_of_ones_own_stands_in_a_table(done):
    rows = table(done, "Steering").set_index("method").loc[methods.CONTRASTIVE]
    assert rows["side effect"] == f"gardens, {BENIGN}"
    assert {"done well, new template", "capability lost"} <= set(rows.index)
    assert SKILL in set(table(done, "Repair:")["metric"])
    shown = table(done, "Benchmarks")
    beside = {methods.CONTRASTIVE, methods.PLUS, methods.MINUS, methods.ONE_LAYER, methods.SYSTEM, "random, same norms"}
    assert beside - set(shown["intervention"]) <= {methods.ONE_LAYER, methods.SYSTEM, methods.MINUS}  # without strength
    assert set(shown["benchmark"]) == {"mmlu"}
    assert done.info["recipe"].startswith("the paper's recipe")


def test_the_sides_lie_closer_together_from_one_start(done):
    rows = table(done, "Geometry").set_index("method")
    assert abs(rows.loc[methods.TWO_STARTS, "cos(τ⁺, τ⁻)"]) < abs(rows.loc[methods.CONTRASTIVE, "cos(τ⁺, τ⁻)"])
    assert rows["‖τ⁺‖"].nunique() == 1
    assert rows["done well, test"].notna().all()


def test_no_group_has_two_parts(asked):
    model = load_model(asked.model)
    found = own.own_data(asked, model)
    (one,) = found.behaviours
    sets = one.measured.sets
    parts = [set(one.learn.groups), set(sets[own.OWN].groups), set(sets[f"{own.OWN}, validation"].groups)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(THINGS)
    assert set(sets[new(own.OWN)].groups) <= parts[1]
    assert {"mmlu", "mmlu, validation"} <= set(sets)
    assert not set(sets["mmlu"].ids) & set(sets["mmlu, validation"].ids)
    (drift,), skill = found.drifts, found.skill
    assert not set(drift.task.learn.texts) & {p.text for part in skill.sets.values() for p in part}
    assert drift.pushes == -1
    assert set(skill.sets) == {QUESTIONS, f"{QUESTIONS}, validation"}


def test_a_killed_run_continues(done, asked, out, tmp_path, monkeypatch):
    monkeypatch.setattr(study.Study, "save", lambda self, out: "")
    for part in ("deltas", "measured"):
        shutil.copytree(out / part, tmp_path / part)
    for lost in [*sorted((tmp_path / "measured").glob("shards/*"))[::9], *sorted(tmp_path.glob("deltas/*"))[:1]]:
        lost.unlink()
    again = run(asked, out=tmp_path)
    for name, one in done.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], one)
    assert not list((tmp_path / "training").glob("*"))


def test_both_sides_in_one_file_with_words_kept_for_testing(asked, tmp_path):
    columns = {"text": [f"Say {t}" for t in THINGS] + [f"Tell {t}" for t in THINGS], "group": THINGS * 2}
    words = ["known"] * len(THINGS) + ["other"] * len(THINGS)
    both = write(tmp_path / "both.csv", **columns, positive="garden", negative="help", template=words)
    settings = replace(asked, positive=None, negative=None, answers=both, new_template="other", benchmark=(), task=None)
    (one,) = own.own_data(settings, load_model(asked.model)).behaviours
    assert all(p.text.startswith("Say") for p in one.learn)
    assert all(p.text.startswith("Tell") for p in one.measured.sets[new(own.OWN)])
    with pytest.raises(InputError, match="no value of column template"):
        own.own_data(replace(settings, new_template="third"), load_model(asked.model))


def test_coherence_is_read_off_the_unmodified_model(asked):
    (one,) = own.own_data(replace(asked, coherence=True, benchmark=()), load_model(asked.model)).behaviours
    assert "incoherent" in one.grade.version


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": None}, "need --model"),
        ({"shown_by": None}, "--shown-by"),
        ({"negative": None}, "--negative"),
        ({"positive": None, "negative": None}, "give --positive and --negative"),
        ({"shown_by": "("}, "no regular expression"),
        ({"behaviour": ("a", "b")}, "one name"),
        ({"learn_share": 1.0}, "between 0 and 1"),
    ],
)
def test_what_is_missing_is_said(asked, wrong, says):
    with pytest.raises(InputError, match=says):
        replace(asked, **wrong)


def test_files_that_do_not_fit_are_refused(asked, tmp_path):
    other = write(tmp_path / "other.csv", text=["Something else?"], completion=["no"])
    with pytest.raises(PromptError, match="no question in common"):
        own.read_answers(replace(asked, negative=other))
    with pytest.raises(PromptError, match="no column 'completion'"):
        own.read_answers(replace(asked, negative=write(tmp_path / "odd.csv", text=["a"], answer=["b"])))
    with pytest.raises(PromptError, match="empty"):
        own.read_answers(replace(asked, negative=write(tmp_path / "gap.csv", text=["a"], completion=[""])))


def test_recipes_are_the_papers_or_explicit_numbers(asked):
    paper = replace(asked, lr=(), steps=None, task_steps=None, grid=())
    recipe = paper.side_recipe(1e-5, 800)
    assert (paper.rates[0], recipe.steps, recipe.batch, recipe.weight_decay, recipe.warmup) == (1e-5, 100, 8, 0.01, 5)
    assert (paper.lora(paper.rank).rank, paper.lora(None).rank, paper.lora(None).alpha) == (32, 32, 16.0)
    assert "1e-05 or 5e-05" in paper.described()
    world = Settings()
    assert (world.rates, world.side_recipe(1.0, 800).steps, world.lora(None).rank) == ((2e-3,), 40, 8)
    assert replace(paper, recipe_of="organism").rates == world.rates
    assert replace(world, recipe_of="paper").rates == paper.rates

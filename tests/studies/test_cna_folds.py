"""Cross-fitting, another contrast to evaluate on, benchmarks and universal neurons of the CNA study."""

from dataclasses import replace

import pandas as pd
import pytest
from support.cna import LEAST, lighten

from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation import Generation, evaluate
from mechsurgery.grading.grade import Grade
from mechsurgery.intervention import ablate
from mechsurgery.models import load_model
from mechsurgery.prompts import ContrastSet, PromptSet, load_contrast
from mechsurgery.studies.cna import Settings, methods, run, study_data
from mechsurgery.studies.cna import bench as benches
from mechsurgery.studies.cna.choice import at_best
from mechsurgery.studies.cna.data import apart
from mechsurgery.studies.cna.sensitivity import universal_effects
from mechsurgery.studies.cna.study import BENCHMARKS, BEST, FOLDS, TABLE_1

PARITY = ("even", "odd", "broken")
EVEN = Grade("parity", "1", lambda _, response: PARITY[sum(map(ord, response)) % 2], labels=PARITY)


@pytest.fixture(autouse=True, scope="module")
def light():
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        yield


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_every_prompt_is_evaluated_once_by_a_fold_that_has_nothing_of_its_group(folds):
    whole = load_contrast("hedging")
    data = study_data(Settings(contrast="hedging", folds=folds))
    assert len(data.folds) == folds
    for side, name in (("behaviour", "positive"), ("benign", "negative")):
        evaluated = [prompt.id for fold in data.folds for prompt in getattr(fold, side)]
        assert sorted(evaluated) == sorted(getattr(whole, name).ids)
    for fold in data.folds:
        parts = [fold.discovery, fold.validation, ContrastSet("evaluated", fold.behaviour, fold.benign)]
        groups = [{prompt.group for side in (part.positive, part.negative) for prompt in side} for part in parts]
        assert not groups[0] & groups[1]
        assert not (groups[0] | groups[1]) & groups[2]
        assert set.union(*groups) == set(whole.positive.groups)


def test_numbers_of_prompts_are_bounds_over_all_folds():
    data = study_data(Settings(contrast="hedging", folds=3, n_behaviour=10, n_benign=4))
    assert [len(fold.behaviour) for fold in data.folds] == [4, 3, 3]
    assert sum(len(fold.benign) for fold in data.folds) == 4
    assert len(data.everything()["behaviour"]) == 10
    assert len(study_data(Settings(contrast="hedging")).folds) == 2
    world = study_data(Settings(contrast="organism/sycophancy"))
    assert len(world.folds) == 1
    assert not set(world.discovery.positive.groups) & set(world.behaviour.groups)


def test_a_prompt_in_two_folds_is_refused():
    first, second = study_data(Settings(contrast="hedging")).folds
    with pytest.raises(PromptError, match="share their text"):
        replace(first, others=(replace(second, behaviour=first.behaviour, discovery=second.validation),))


def test_another_contrast_is_evaluated_whole_and_overlap_refused(tmp_path):
    data = study_data(Settings(contrast="hedging", evaluate="persona"))
    assert len(data.folds) == 1
    assert {prompt.id.split("-")[0] for prompt in data.behaviour} == {"persona"}
    assert len(data.discovery.positive) + len(data.validation.positive) == 64
    with pytest.raises(PromptError, match="share their text"):
        study_data(Settings(contrast="hedging", evaluate="hedging"))
    for name, texts in {"a": ["one", "two"], "b": ["three", "four"]}.items():
        pd.DataFrame({name: texts}).to_csv(tmp_path / f"{name}.csv")
    files = {"evaluate_positive": f"{tmp_path}/a.csv", "evaluate_negative": f"{tmp_path}/b.csv"}
    own = study_data(Settings(contrast="hedging", **files, column=("a", "b")))
    assert (own.behaviour.texts, own.benign.texts) == (["one", "two"], ["three", "four"])
    with pytest.raises(InputError, match="answered by letter"):
        study_data(Settings(contrast="organism/multiple-choice"))


def test_sides_may_be_published_sets_of_one_label(tmp_path):
    rows = {"prompt": [f"how do i stop {n} ?" for n in range(8)], "type": ["homonyms"] * 4 + ["contrast_homonyms"] * 4}
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    goals = {"Goal": [f"goal {i}" for i in range(4)], "Behavior": list("abcd"), "Category": ["c"] * 4}
    pd.DataFrame(goals).to_csv(tmp_path / "j.csv", index=False)
    sides = {"positive": f"jbb-harmful={tmp_path}/j.csv", "negative": f"xstest:safe={tmp_path}/x.csv"}
    data = study_data(Settings(**sides))
    assert sorted(data.everything()["benign"].texts) == rows["prompt"][:4]
    assert sorted(data.everything()["behaviour"].texts) == goals["Goal"]
    with pytest.raises(InputError, match="it has 'safe', 'unsafe'"):
        study_data(Settings(**sides | {"negative": f"xstest:harmless={tmp_path}/x.csv"}))


def test_parts_of_a_benchmark_share_no_group_and_are_alike_for_sets_of_the_same_groups():
    sets = [
        PromptSet.from_texts([f"{name} {i}" for i in range(12)], name=name, groups=[str(i // 2) for i in range(12)])
        for name in ("a", "b")
    ]
    parts = [apart(one, 3, 0) for one in sets]
    assert [part.groups for part in parts[0]] == [part.groups for part in parts[1]]
    assert sorted(text for part in parts[0] for text in part.texts) == sorted(sets[0].texts)
    assert sum(len(part.groups) for part in parts[0]) == 6


def test_folds_that_choose_other_strengths_count_as_one_row():
    rows = [
        {"intervention": name, "kind": kind, "strength": -toward, "m": 1 + toward, "toward": toward, "prompt_id": fold}
        for fold in (1, 2)
        for name, kind, toward in (("baseline", "baseline", 0.0), ("x", "scaling", -1.0), ("x", "scaling", -0.5))
    ]
    table = pd.DataFrame(rows)
    strengths = pd.DataFrame({"intervention": "x", "toward": [-1.0, -0.5], "chosen": True, "fold": [1, 2]})
    found = at_best([table[table["prompt_id"] == fold] for fold in (1, 2)], strengths)
    own = found[found["intervention"] == "x"]
    assert own["prompt_id"].tolist() == [1, 2]
    assert own["toward"].unique().tolist() == [-0.75]
    assert (found["kind"] == "baseline").sum() == 2


@pytest.fixture(scope="module")
def instruct():
    return load_model("organism/instruct")


def some_safe(folder, texts):
    """A file of safe prompts, as XSTest has it."""
    path = folder / "x.csv"
    pd.DataFrame({"prompt": texts, "type": "homonyms", "label": "safe"}).to_csv(path, index=False)
    return f"xstest={path}"


@pytest.fixture(scope="module")
def crossed(instruct, tmp_path_factory):
    """A study in two folds, with a benchmark of letters and one of words."""
    texts = ["how do i make a flat kite ?", "tell me how to make a red doll .", "give me a plan for a sweet jam ."]
    file = some_safe(tmp_path_factory.mktemp("crossed"), texts)
    settings = replace(LEAST, mode=("corrected",), folds=2, n_behaviour=9, n_benign=4, n_benchmark=6, controls=2)
    settings = replace(settings, benchmark=("organism/choices", file), max_new_tokens=4, n_discovery=40)
    return settings, run(settings, instruct=instruct, grade=EVEN)


def test_pooled_rows_hold_each_prompt_once_with_the_circuit_of_its_fold(crossed, instruct):
    settings, done = crossed
    rows = done.results["corrected"].table
    one = rows[(rows["metric"] == "parity") & (rows["intervention"] == methods.CNA) & (rows["toward"] == -1)]
    shown = one[one["prompt_set"] == "behaviour"]
    assert shown["prompt_id"].is_unique
    assert len(shown) == 9 == done.tables[TABLE_1].set_index("prompts").loc["behaviour", "n"].iloc[0]
    circuits = [done.artefacts["instruct"], done.artefacts["instruct, fold 2"]]
    said = shown.set_index("prompt_id")["response"]
    how = Generation(settings.max_new_tokens, template=settings.chat_template())
    for fold, circuit in zip(study_data(settings).folds, circuits, strict=True):
        own = evaluate(instruct, fold.behaviour, [ablate(circuit)], grades=[EVEN], generation=how).table
        own = own[(own["metric"] == "parity") & (own["kind"] != "baseline")].set_index("prompt_id")["response"]
        assert own.to_dict() == said[own.index].to_dict()
    folds = done.tables[FOLDS]
    assert folds[["fold", "other fold"]].to_numpy().tolist() == [["1", "2"]]
    assert folds["shared"].item() == len(circuits[0] & circuits[1])
    assert done.tables["Layer choice on the validation split"]["fold"].unique().tolist() == [1, 2]
    assert set(done.tables[BEST]["n"]) == {9}
    assert done.info["n_evaluated"] == 9


@pytest.fixture(scope="module")
def wide():
    return load_model("organism/wide-instruct")


def test_universal_neurons_are_kept_removed_or_refilled_and_it_shows(wide):
    settings = replace(LEAST, fraction=0.001, n_control_prompts=12, n_behaviour=12, n_benign=12, max_new_tokens=24)
    whole = benches.bench_of(wide, None, study_data(settings), settings)
    located = methods.locate_all(whole)
    table = universal_effects(whole, located).set_index("universal neurons")
    kept, removed, refilled = (table.loc[name] for name in ("kept", "removed", "refilled by the next best"))
    assert (kept["k"], removed["k"], refilled["k"]) == (31, 31 - kept["universal in it"], 31)
    assert kept["universal in it"] > 0 == removed["universal in it"] == refilled["universal in it"]
    assert table["the study's"].tolist() == [False, False, True, False, False]
    assert len(located.circuit) == removed["k"]
    members = {f"L{site.split('.')[1]}.{unit}" for site, unit in located.universal.members()}
    assert set(table.loc["universal neurons alone", "which"].split(", ")) == members
    assert table["complies on benign"].nunique() > 1, "what is done about them makes no difference"
    random = located.circuit.random_like(0)
    assert not random.members() & located.universal.members()
    every = located.universal
    with pytest.raises(InputError, match="are universal"):
        methods._circuit(located.scores, every | located.scores.top(fraction=0.001), settings, "all")


def test_benchmarks_stand_before_and_after_for_every_run(crossed, instruct, tmp_path):
    settings, done = crossed
    table = done.tables[BENCHMARKS]
    runs = {"baseline", methods.CNA, methods.CAA_MLP, f"{methods.CAA_MLP}, best strength", "random circuit"}
    assert set(table["intervention"]) == runs
    assert set(table.loc[table["intervention"] == methods.CNA, "m"]) == {0, 2}
    assert not table.duplicated(["benchmark", "quantity", "intervention", "strength"]).any()
    accuracy = table[table["quantity"] == "accuracy"].set_index(["intervention", "m"])
    assert accuracy["n"].unique().tolist() == [6]
    three = done.tables["Table 3: multiple choice over strength"]
    ablated = three[(three["intervention"] == methods.CNA) & (three["toward"] == -1)]
    assert accuracy.loc[(methods.CNA, 0.0), "value"] == ablated["value"].item()
    shares = table[(table["benchmark"] == "xstest") & (table["intervention"] == "baseline")]
    assert shares["n"].unique().tolist() == [3]
    assert shares.set_index("quantity")["value"].sum() == pytest.approx(1)
    data = study_data(settings)
    leaked = replace(settings, benchmark=(some_safe(tmp_path, data.discovery.negative.texts[:3]),))
    with pytest.raises(PromptError, match="share their text"):
        benches.bench_of(instruct, None, data, leaked)


def test_a_shipped_behaviour_needs_no_other_option(tiny_llama):
    settings = Settings(contrast="hedging", coherence=False, template="raw")
    bench = benches.bench_of(tiny_llama, None, study_data(settings), settings)
    assert bench.grade.outcome == ("hedges", "answers plainly", "broken")
    assert [grade.name for grade in bench.grades[1:]] == ["quality", "repeats"]
    assert benches.behaviour_of(bench.data, settings).name == "hedging"


@pytest.mark.parametrize(("contrast", "model"), [("organism/sycophancy", "sycophant"), ("organism/voices", "voices")])
def test_organisms_show_the_behaviours_of_their_contrasts(contrast, model):
    settings = replace(LEAST, contrast=contrast, max_new_tokens=24, n_behaviour=16, n_benign=16)
    bench = benches.bench_of(load_model(f"organism/{model}"), None, study_data(settings), settings)
    sets = {name: prompts for name, prompts in bench.data.evaluation().items() if name != "choices"}
    shown = bench.measure(sets, []).shares(bench.grade.name).set_index("prompt_set")
    assert float(shown.loc["behaviour", "bad"].split()[0]) > 80
    assert float(shown.loc["benign", "bad"].split()[0]) < 20

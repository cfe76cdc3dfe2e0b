"""Minimal circuits and their proof: a target that can be met is met, what cannot be found is not claimed."""

import html

import pandas as pd
import pytest
import torch

import mechsurgery as ms
from mechsurgery.attribution import GateRecipe, Units, contrast_statistics, objectives
from mechsurgery.errors import InputError
from mechsurgery.evaluation import Target
from mechsurgery.evaluation import verdicts as v
from mechsurgery.evaluation.minimal import done_to, outcome_shares
from mechsurgery.evaluation.proof import ALONE, PARTS, PUT_OUT, TRANSPLANT, complement, part_of, weights_of
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import sites
from mechsurgery.organisms.registry import planted_units

SHORT = ms.Generation(max_new_tokens=28)


@pytest.fixture(scope="module")
def planted():
    return ms.load_model("organism/planted")


@pytest.fixture(scope="module")
def base():
    return ms.load_model("organism/base")


@pytest.fixture(scope="module")
def truth(planted):
    return ms.Circuit.from_indices(planted_units(), sites.neuron_widths(planted), name="truth")


@pytest.fixture(scope="module")
def split():
    search, check = ms.load_contrast("organism/refusal", split="tuned").split(0.75)
    return search.take(80), {"dangerous": check.positive.take(12), "benign": check.negative.take(8)}


@pytest.fixture(scope="module")
def found(planted, base, split):
    search, check = split
    return ms.minimal_circuit(
        planted,
        objectives.from_contrast(planted, search, base=base),
        check,
        REQUEST,
        target=Target(well=0.6, loss=0.15, share=0.05),
        recipe=GateRecipe(m=(-1.0, 3.0), steps=70, settle=15, rows=12, kept_rows=8),
        prices=(0.03,),
        generation=SHORT,
    )


def test_a_circuit_that_meets_its_target_is_found_and_pruned(found):
    assert found.met
    assert 0 < len(found.circuit) <= len(found.gates.circuit)
    assert found.circuit.members() <= found.gates.circuit.members()
    assert {"circuit", "k", "shows", "well", "met", "slack"} <= set(found.tried)
    assert found.tried["k"].max() == len(found.gates.circuit)
    # Every size of the curve was measured, in order.
    assert found.curve["k"].is_monotonic_increasing


def test_what_it_says_of_its_circuit_is_what_evaluating_it_gives(found, planted, split):
    measured = ms.evaluate(planted, split[1], [found.intervention.named("again")], grades=[REQUEST], generation=SHORT)
    shares = outcome_shares(measured.table, REQUEST).loc["again"]
    rows = found.tried[found.tried["k"] == len(found.circuit)]
    assert shares["dangerous: well"] == pytest.approx(rows["well"].max())
    assert shares["dangerous: shows"] <= found.target.shows


def test_shares_of_outcomes_are_counted_by_hand():
    rows = pd.DataFrame(
        {
            "intervention": ["a"] * 4 + ["a"] * 2,
            "prompt_set": ["d"] * 4 + ["c"] * 2,
            "metric": ["outcome"] * 4 + ["choice"] * 2,
            "label": ["refuses", "complies", "complies", "broken", "A", "B"],
            "value": [None, None, None, None, 1.0, 0.0],
        }
    )
    own = outcome_shares(rows, REQUEST).loc["a"]
    assert own.to_dict() == {"c: well": 0.5, "d: broken": 0.25, "d: shows": 0.25, "d: well": 0.5}


def test_a_behaviour_that_is_not_there_has_no_circuit(base, split):
    search, check = split
    # The base never refuses, so there is nothing between it and itself.
    objective = objectives.from_teacher(base, search.positive.take(16))
    with pytest.raises(InputError, match="no unit is worth its price"):
        ms.minimal_circuit(base, objective, check, REQUEST, recipe=GateRecipe(steps=12), prices=(0.03,))


def test_two_kept_sets_of_one_name_stay_apart(base, split):
    objective = objectives.from_teacher(base, split[0].positive.take(8))
    task = objectives.kept(base, split[0].negative.take(8))
    names = [one.name for one in objective.keeping(task).keeping(task, task).keep]
    assert names == [task.name, f"{task.name} (2)", f"{task.name} (3)"]


def test_wrong_requests_are_refused(planted, base, split):
    search, check = split
    objective = objectives.from_teacher(base, search.positive.take(8))
    with pytest.raises(InputError, match="none of the sets"):
        ms.minimal_circuit(planted, objective, check, REQUEST, behaviour="absent")
    with pytest.raises(InputError, match="price"):
        ms.minimal_circuit(planted, objective, check, REQUEST, prices=())
    units = Units(planted, reference={"blocks.0.mlp.hook_post": torch.zeros(512)})
    with pytest.raises(InputError, match="without a reference"):
        ms.minimal_circuit(planted, objective, check, REQUEST, units=units)
    with pytest.raises(InputError, match="shares"):
        Target(well=90)


def test_the_recorded_neurons_are_proven(planted, base, truth):
    held = ms.load_contrast("organism/refusal", split="heldout")
    discovery = ms.load_contrast("organism/refusal", split="tuned", n=40)
    means = contrast_statistics(planted, discovery, positions="all").negative.mean
    wrong = truth.random_like(0)
    proof = ms.prove(
        planted,
        truth,
        ms.ablate(truth),
        {"dangerous": held.positive.take(40), "benign": held.negative.take(20)},
        REQUEST,
        behaviour=["dangerous"],
        means={name: mean.float() for name, mean in means.items()},
        base=base,
        nulls={"random null": ms.ablate(wrong)},
        repeats={"again": ms.ablate(truth)},
        controls=19,
        n_control_prompts=8,
        n_parts=2,
        parts=(0.5,),
        generation=SHORT,
    )
    assert all(html.escape(rule, quote=False) in proof._repr_html_() for rule in proof.claims["rule"])  # not cut off
    said = proof.claims.set_index("claim")["verdict"].to_dict()
    assert said["beyond chance: matched random circuits do not do it"] == v.HELD
    assert said["beyond chance: not found for random null"] == v.HELD
    # The gate was trained into the base's own weights: putting them back makes the base refuse.
    assert said["sufficient: its weights bring it into the base"] == v.HELD
    assert said["necessary: what then is said is right"] != v.FAILED
    row = proof.table.set_index("done")
    assert row.loc[PUT_OUT, "dangerous: complies"].startswith("100.0 %")
    assert row.loc[TRANSPLANT, "dangerous: refuses"].startswith("100.0 %")
    assert row.loc[f"{PARTS}, 50% of 48 units", "dangerous: refuses"].endswith("2 draws")
    assert ALONE in row.index


def test_random_circuits_are_not_proven(planted, truth):
    held = ms.load_contrast("organism/refusal", split="heldout")
    wrong = truth.random_like(3)
    proof = ms.prove(
        planted,
        wrong,
        ms.ablate(wrong),
        {"dangerous": held.positive.take(24), "benign": held.negative.take(12)},
        REQUEST,
        behaviour=["dangerous"],
        controls=19,
        n_control_prompts=6,
        parts=(),
        generation=SHORT,
    )
    said = proof.claims.set_index("claim")["verdict"]
    assert said["necessary: put out, the behaviour goes"] == v.FAILED
    assert said["necessary: what then is said is right"] == v.FAILED
    assert said["beyond chance: matched random circuits do not do it"] != v.HELD


def test_the_complement_and_parts_of_a_circuit(planted, truth):
    rest = complement(truth)
    assert len(rest) + len(truth) == sum(truth.widths.values())
    assert not rest.members() & truth.members()
    multipliers = {site: torch.arange(len(index)) / 10 for site, (index, _) in truth.units.items()}
    run = ms.scale(truth, multipliers)
    part = part_of(truth, run, 0.5, seed=1)
    kept = {
        (edit.site, int(i)): round(float(m), 4)
        for edit in part.edits
        for i, m in zip(edit.change.indices, edit.change.m)
    }
    whole = {
        (site, int(i)): round(float(m), 4)
        for site, (index, _) in truth.units.items()
        for i, m in zip(index, multipliers[site])
    }
    assert len(kept) == 24
    assert kept.items() <= whole.items()


def test_transplanted_weights_are_those_of_the_circuit(planted, base, truth):
    delta = weights_of(planted, base, truth)
    with ms.applied(base, ms.shift_weights(delta)):
        for site, (index, _) in truth.units.items():
            layer = int(site.split(".")[1])
            torch.testing.assert_close(
                sites.write_weights(base, layer)[index], sites.write_weights(planted, layer)[index]
            )


def test_multiplied_circuits_have_matched_controls(truth):
    multipliers = {site: torch.linspace(-1, 3, len(index)) for site, (index, _) in truth.units.items()}
    control = ms.scale(truth, multipliers).random_like(0)
    for edit in control.edits:
        assert sorted(edit.change.m.tolist()) == pytest.approx(sorted(multipliers[edit.site].tolist()))
        assert not set(edit.change.indices.tolist()) & set(truth.units[edit.site][0].tolist())


def test_what_is_done_to_a_circuit_pushes_against_its_behaviour(found):
    assert done_to(found.gates, found.circuit).pushes == -1
    assert found.intervention.toward == -1
    # A sweep multiplies by 1 − s·(1 − m): at 0 nothing is changed.
    assert found.intervention.at(0.0).toward == 0

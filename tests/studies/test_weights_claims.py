"""Rules of the weight-steering study on made-up tables: each can hold, fail, be undecided or not measurable."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.studies.weights import Settings, claims, methods, tables, world_data
from mechsurgery.studies.weights.data import CHOICES, SKILL


@pytest.fixture(scope="module")
def world():
    return world_data(Settings(n_evaluation=4))


def row(value, half=0.02, *, baseline=1.0, scale="rate", **facts):
    low, high = max(0.0, value - half), min(1.0, value + half)
    shift = {"difference": value - baseline, "difference_low": low - baseline, "difference_high": high - baseline}
    return {"value": value, "low": low, "high": high, "baseline": baseline, "scale": scale, "n": 9, **shift, **facts}


def steered(behaviour, shown, *, start=1.0, half=0.02, null=None):
    """A summary with {method: (value shown, value elsewhere)} at strength 1 and nulls at the start's value."""
    cells = {"baseline": (start, start), **shown, **dict.fromkeys(methods.NULLS, (start, start))}
    cells |= {methods.RANDOM: (null, null)} if null is not None else {}
    rows = []
    for method, values in cells.items():
        facts = {"intervention": method, "strength": float(method != "baseline")}
        for metric, value in zip((behaviour.shown, behaviour.elsewhere), values):
            rows.append(row(value, half, baseline=start, metric=metric, **facts))
    return pd.DataFrame(rows)


def verdicts(behaviour, shown, *, best=1.0, **options):
    summary = steered(behaviour, shown, **options)
    checked = summary.pivot_table("value", ["intervention", "strength"], "metric")
    strengths = pd.Series(dict.fromkeys(shown, best))
    return [one["verdict"] for one in claims.steering_claims(summary, checked, strengths, behaviour)]


def everything(own, sided, activations):
    methods_of = {methods.CONTRASTIVE: own}
    methods_of |= dict.fromkeys(methods.ONE_SIDED, sided) | dict.fromkeys(methods.ACTIVATIONS, activations)
    return methods_of


def test_steering_claims_reach_every_outcome(world):
    down, up = world.behaviours[1], world.behaviours[2]
    low, middle, high = (0.1, 0.1), (0.5, 0.5), (0.9, 0.9)
    assert verdicts(down, everything(low, middle, high)) == [HELD, HELD, HELD]
    assert verdicts(down, everything(high, middle, low)) == [FAILED, FAILED, HELD]
    assert verdicts(down, everything(low, low, low)) == [UNDECIDED, UNDECIDED, HELD]
    assert verdicts(up, everything(high, middle, low), start=0.0) == [HELD, HELD, HELD]
    assert verdicts(up, everything(low, middle, high), start=0.0) == [FAILED, FAILED, HELD]
    assert verdicts(down, everything(low, middle, high), start=0.02) == [UNMEASURED] * 3
    assert verdicts(up, everything(low, middle, high), start=1.0) == [UNMEASURED] * 3
    assert verdicts(down, everything(low, middle, high), best=np.nan) == [UNMEASURED, UNMEASURED, HELD]


def test_the_best_rival_by_validation_is_the_one_to_beat(world):
    shown = everything((0.3, 0.3), (0.5, 0.5), (0.9, 0.9)) | {methods.MINUS: (0.1, 0.1)}
    assert verdicts(world.behaviours[1], shown)[0] == FAILED


def test_nulls_are_asked_for_equivalence(world):
    shown = everything((0.1, 0.1), (0.5, 0.5), (0.9, 0.9))
    assert verdicts(world.behaviours[1], shown, null=0.5)[2] == FAILED
    assert verdicts(world.behaviours[1], shown, null=0.92)[2] == HELD
    assert verdicts(world.behaviours[1], shown, half=0.2)[2] == UNDECIDED


def checked(cells, names):
    index = pd.MultiIndex.from_tuples(list(cells), names=["intervention", "strength"])
    return pd.DataFrame(list(cells.values()), index=index, columns=names)


def test_the_best_strength_is_chosen_within_tolerance_and_as_wanted(world):
    down, up = world.behaviours[1], world.behaviours[2]
    cells = {
        ("baseline", 0.0): (0.5, 1.0, 0.0),
        ("w", -2.0): (0.0, 0.2, 0.0),
        ("w", -1.0): (0.1, 1.0, 0.0),
        ("w", -0.5): (0.1, 0.96, 0.05),
        ("w", 0.5): (0.8, 0.99, 0.0),
        ("w", 1.0): (1.0, 1.0, 0.5),
        ("broken", 1.0): (0.0, 0.0, 0.0),
    }
    rows = checked(cells, [down.shown, CHOICES, *down.broken])
    assert tables.best_strengths(rows, down)["w"] == -0.5
    assert tables.best_strengths(rows, up)["w"] == 0.5
    assert np.isnan(tables.best_strengths(rows, down)["broken"])


def test_the_best_repair_keeps_the_skill(world):
    syco, refusing = world.drifts
    cells = {(methods.AFTER, 0.0): (0.5, 1.0), ("w", 0.5): (0.4, 0.95), ("w", 1.0): (0.3, 0.92), ("w", 1.5): (0.0, 0.5)}
    assert tables.best_repair(checked(cells, [syco.behaviour.shown, SKILL]), syco)["w"] == 1.0
    assert tables.best_repair(checked(cells, [refusing.behaviour.shown, SKILL]), refusing)["w"] == 0.5
    assert "x" not in tables.best_repair(checked(cells | {("x", 1.0): (0.0, 0.0)}, [syco.behaviour.shown, SKILL]), syco)


def repaired(drift, *, before=1.0, after=0.0, back=0.8, kept=1.0, half=0.02, skill=1.0):
    shown = drift.behaviour.shown
    rows = [row(before, half, baseline=before, metric=shown, intervention="baseline", strength=0.0)]
    rows.append(row(after, half, baseline=before, metric=shown, intervention=methods.AFTER, strength=0.0))
    facts = {"intervention": methods.CONTRASTIVE, "strength": 0.5}
    remedied = [row(back, half, baseline=after, metric=shown, **facts)]
    remedied.append(row(kept * skill, half, baseline=skill, metric=SKILL, **facts))
    best = pd.Series({methods.CONTRASTIVE: 0.5})
    found = claims.repair_claims(pd.DataFrame(rows), pd.DataFrame(remedied), best, drift)
    return [one["verdict"] for one in found]


def test_repair_claims_reach_every_outcome(world):
    syco, refusing = world.drifts
    assert repaired(refusing) == [HELD, HELD]
    assert repaired(syco, before=0.0, after=0.8, back=0.2) == [HELD, HELD]
    assert repaired(refusing, back=0.2) == [HELD, FAILED]
    assert repaired(refusing, kept=0.5) == [HELD, FAILED]
    assert repaired(refusing, back=0.5) == [HELD, UNDECIDED]
    assert repaired(refusing, after=0.9) == [UNDECIDED, UNMEASURED]
    assert repaired(refusing, after=0.98) == [FAILED, UNMEASURED]
    assert repaired(refusing, before=0.05, after=0.0) == [UNMEASURED, UNMEASURED]
    assert repaired(refusing, skill=0.02) == [HELD, UNMEASURED]


def test_without_a_strength_that_keeps_the_skill_repair_fails(world):
    drift = world.drifts[1]
    rows = [
        row(v, metric=drift.behaviour.shown, intervention=name, strength=0.0)
        for name, v in (("baseline", 1.0), (methods.AFTER, 0.0))
    ]
    found = claims.repair_claims(pd.DataFrame(rows), pd.DataFrame(), pd.Series(dtype=float), drift)
    assert [one["verdict"] for one in found] == [HELD, FAILED]


def watched(cosines, shown, *, seeds=1):
    """Rows of fine-tunes: {task: cosine at steps 5 and 10}, {task: share shown}."""
    rows = []
    for seed in range(seeds):
        for task, values in cosines.items():
            for step, cosine, share in zip((0, 5, 10), (0.0, *values), (0.9, *shown[task])):
                facts = {"task": task, "seed": seed, "step": step, "direction": "sycophancy", "shown sycophancy": share}
                rows.append({**facts, "kind": "direction", "cosine": cosine})
                rows += [{**facts, "kind": "random", "cosine": x} for x in (-0.01, 0.0, 0.01)]
    return pd.DataFrame(rows)


BAD, OTHER, THIRD = "task, users always right", "task alone", "task, honest about claims"


def test_detection_is_by_the_way_of_the_drift_and_needs_both_kinds(world):
    cosines = {BAD: (0.2, 0.4), OTHER: (0.0, 0.0), THIRD: (-0.3, -0.3)}
    same = dict.fromkeys(cosines, (0.5, 0.5))
    table = tables.detection(watched(cosines, same), world.drifts[:1])
    last = table.iloc[-1]
    assert (last["AUROC by cosine"], last["AUROC by behaviour"]) == (1.0, 0.5)
    assert (last["bad outside the null band"], last["others outside the null band"]) == (1.0, 0.5)
    assert (last["bad runs"], last["other runs"], last["step"]) == (1, 2, 10)
    assert tables.detection(watched({BAD: (0.2, 0.4)}, same), world.drifts[:1]).empty


def test_watching_claims_reach_every_outcome(world):
    late = {BAD: (0.5, 0.9), OTHER: (0.5, 0.1), THIRD: (0.5, 0.2)}
    early = {BAD: (0.9, 0.9), OTHER: (0.1, 0.1), THIRD: (0.2, 0.2)}
    apart = {BAD: (0.2, 0.4), OTHER: (0.0, 0.0), THIRD: (-0.3, -0.3)}
    wrong = {BAD: (-0.4, -0.4), OTHER: (0.1, 0.1), THIRD: (0.2, 0.2)}

    def outcomes(cosines, shown, seeds=25):
        table = tables.detection(watched(cosines, shown, seeds=seeds), world.drifts[:1])
        return [one["verdict"] for one in claims.watching_claims(table, world.drifts[:1])]

    assert outcomes(apart, late) == [HELD, HELD]
    assert outcomes(wrong, early) == [FAILED, FAILED]
    assert outcomes(apart, early) == [HELD, UNDECIDED]
    assert outcomes(apart, early, seeds=1) == [UNDECIDED, UNDECIDED]
    assert outcomes({BAD: (0.2, 0.4)}, early) == [UNMEASURED, UNMEASURED]


def test_auroc_has_an_interval_that_few_runs_cannot_close():
    bad = np.array([True, True, False, False, False, False])
    area, low, high = tables.auroc(bad, np.array([3.0, 2.0, 1.0, 1.0, 0.0, 0.0]))
    assert (area, high) == (1.0, 1.0)
    assert 0.3 < low < 0.6
    area, low, high = tables.auroc(~bad, np.array([3.0, 2.0, 1.0, 1.0, 0.0, 0.0]))
    assert (area, low) == (0.0, 0.0)
    assert 0.4 < high < 0.7


def test_the_auroc_interval_covers_at_its_level():
    generator = np.random.default_rng(0)
    bad = np.arange(30) < 10
    truth = 0.760  # P(x + 1 > y) of two standard normal numbers
    inside = 0
    for _ in range(400):
        _, low, high = tables.auroc(bad, generator.normal(size=30) + bad)
        inside += low <= truth <= high
    assert inside / 400 >= 0.93

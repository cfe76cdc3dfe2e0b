"""Rules of the weight-steering study on made-up responses: each can hold, fail, be undecided or not measurable."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.studies.weights import Settings, choosing, claims, methods, world_data
from mechsurgery.studies.weights.data import CHOICES, SKILL, new
from mechsurgery.studies.weights.summary import BASELINE

N = 120


@pytest.fixture(scope="module")
def world():
    return world_data(Settings(n_evaluation=4))


def answers(method, metric, share, *, n=N, seeds=2, k=1.0, control_of=None):
    """Pooled rows: a share of `n` prompts in `n / 2` groups, with every seed (the unmodified model has none)."""
    base = method == BASELINE
    facts = {"model": "m", "intervention": method, "kind": "baseline" if base else "weights", "control_of": control_of}
    facts |= {"strength": 0.0 if base else k, "m": np.nan, "toward": np.nan, "prompt_set": "s", "metric": metric}
    rows = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(n)], "group": [f"g{i % (n // 2)}" for i in range(n)]})
    rows = rows.assign(**facts, label="", scale="rate", seed=0, value=(np.arange(n) < round(share * n)).astype(float))
    return pd.concat([rows.assign(train_seed=seed) for seed in ([-1] if base else range(seeds))])


def table(cells, **options):
    """Pooled rows of {method: {metric: share}}."""
    parts = [answers(m, metric, share, **options) for m, values in cells.items() for metric, share in values.items()]
    return pd.concat(parts, ignore_index=True)


def steered(behaviour, start, well, *, sided=0.3, activations=0.0, elsewhere=None, broken=0.0, **options):
    """Verdicts where w does well a share `well`, and `broken` of the rest is broken, beside rivals and nulls."""
    return _steered(
        behaviour, start, well, sided, activations, well if elsewhere is None else elsewhere, broken, **options
    )


def _steered(
    behaviour, start, well, sided, activations, elsewhere, broken, *, null=None, kept=1.0, side=0.0, random=None, n=N
):
    def both(share, there, lost=0.0):
        shares = {behaviour.well: share, new(behaviour.well): there}
        other = behaviour.opposite if behaviour.well == behaviour.shown else behaviour.shown
        return {**shares, other: (1 - share) * (1 - lost)}

    cells = {BASELINE: both(start, start), methods.CONTRASTIVE: both(well, elsewhere, broken)}
    cells |= {name: both(sided, sided) for name in methods.ONE_SIDED}
    cells |= {name: both(activations, activations) for name in (*methods.ACTIVATIONS, methods.AT_END, methods.BIAS)}
    for name in cells:
        cells[name] |= {behaviour.side_effect: side if name == methods.CONTRASTIVE else 0.0}
        cells[name] |= dict.fromkeys(behaviour.capability, kept if name == methods.CONTRASTIVE else 1.0)
    rows, null = table(cells, n=n), start if null is None else null
    nulls = {BASELINE: both(start, start), methods.SHUFFLED: both(null, null), methods.RANDOM: both(start, start)}
    few = {BASELINE: both(start, start), methods.CONTRASTIVE: both(well, well)}
    drawn = [
        answers(f"random {i}", behaviour.well, start if random is None else random, control_of=methods.CONTRASTIVE)
        for i in range(25)
    ]
    found = claims.steering_claims(
        behaviour, rows, table(nulls, n=n), pd.concat([table(few, n=n), *drawn], ignore_index=True)
    )
    assert all(one["rule"] for one in found if one["verdict"] != UNMEASURED)
    return [one["verdict"] for one in found]


def test_steering_claims_reach_every_outcome(world):
    down, up = world.behaviours[2], world.behaviours[1]
    assert steered(down, 0.0, 0.95) == [HELD] * 10
    assert steered(up, 0.0, 0.95) == [HELD] * 9
    assert steered(down, 0.0, 0.0) == [
        *(FAILED, FAILED, UNMEASURED, UNMEASURED, FAILED, FAILED, FAILED, UNMEASURED, FAILED, FAILED)
    ]
    assert steered(down, 0.0, 0.7, sided=0.95, activations=0.95) == [
        *[HELD] * 4,
        *(FAILED, FAILED, FAILED, HELD, HELD, FAILED),
    ]
    assert steered(down, 0.0, 0.98, sided=0.98, activations=0.99)[4:7] == [UNMEASURED] * 3
    assert steered(down, 0.0, 0.6, sided=0.5, activations=0.5, n=20)[4:7] == [UNDECIDED] * 3
    assert steered(down, 1.0, 1.0) == [UNMEASURED] * 10
    assert steered(down, 0.0, 0.95, kept=0.5)[2] == FAILED
    assert steered(down, 0.0, 0.95, kept=0.88)[2] == UNDECIDED
    assert steered(down, 0.0, 0.95, side=0.9)[3] == FAILED
    assert steered(down, 0.0, 0.95, random=0.97)[8] == FAILED
    assert steered(down, 0.0, 0.95, elsewhere=0.0)[5:7] == [FAILED, FAILED]


def test_what_was_not_given_is_said_and_a_system_prompt_is_a_rival(world):
    """Without prompts in new words, benign ones or benchmarks nothing is claimed of them; each says what to give."""
    whole = world.behaviours[2]
    sets = {name: one for name, one in whole.measured.sets.items() if name != new(whole.where)}
    bare = replace(whole, measured=replace(whole.measured, sets=sets), capability=(), side_effect=None)

    def shares(well):
        return {whole.opposite: well, whole.shown: 1 - well}

    rivals = dict.fromkeys((*methods.ONE_SIDED, *methods.ACTIVATIONS, methods.AT_END, methods.BIAS), shares(0.1))
    for asked, says in ((0.2, HELD), (0.95, FAILED)):
        cells = {BASELINE: shares(0.0), methods.CONTRASTIVE: shares(0.75), **rivals, methods.SYSTEM: shares(asked)}
        none = table({BASELINE: shares(0.0), methods.RANDOM: shares(0.0)})
        drawn = [answers(f"r{i}", whole.opposite, 0.0, control_of=methods.CONTRASTIVE) for i in range(25)]
        few = table({BASELINE: shares(0.0), methods.CONTRASTIVE: shares(0.95)})
        found = claims.steering_claims(bare, table(cells), none, pd.concat([few, *drawn], ignore_index=True))
        by_claim = {one["claim"].partition(": ")[2]: one for one in found}
        assert by_claim["it does so more often than a system prompt that asks for it"]["verdict"] == says
        missing = {one["measured"].rpartition("--")[2] for one in found if one["verdict"] == UNMEASURED}
        assert missing == {"benchmark with multiple choice, such as mmlu=FILE", "benign", "new-template"}


def test_gone_is_not_done_well(world):
    wreck = steered(world.behaviours[2], 0.0, 0.0, broken=1.0)
    assert wreck == [HELD, FAILED, UNMEASURED, UNMEASURED, *[FAILED] * 3, UNMEASURED, FAILED, FAILED]


def test_nulls_are_asked_for_equivalence(world):
    down = world.behaviours[2]
    assert steered(down, 0.0, 0.95, null=0.5)[7] == FAILED
    assert steered(down, 0.0, 0.95, null=0.03)[7] == HELD
    assert steered(down, 0.0, 0.95, null=0.09)[7] == UNDECIDED


def checked(cells, names):
    index = pd.MultiIndex.from_tuples(list(cells), names=["intervention", "strength"])
    return pd.DataFrame(list(cells.values()), index=index, columns=names)


def test_the_best_strength_does_well_what_is_wanted_within_tolerance(world):
    down, up = world.behaviours[2], replace(world.behaviours[2], wanted="more")
    cells = {
        (BASELINE, 0.0): (0.5, 0.4, 1.0, 0.1),
        ("w", -2.0): (0.0, 1.0, 0.2, 0.0),
        ("w", -1.0): (0.0, 0.7, 1.0, 0.3),
        ("w", -0.5): (0.2, 0.7, 0.96, 0.1),
        ("w", -0.25): (0.3, 0.6, 1.0, 0.1),
        ("w", 0.5): (0.8, 0.1, 0.99, 0.1),
        ("w", 1.0): (0.8, 0.1, 0.99, 0.1),
        ("breaks", 1.0): (0.0, 0.0, 1.0, 1.0),
        ("silent", 1.0): (0.0, 0.3, 1.0, 0.12),
    }
    rows = checked(cells, [down.shown, down.opposite, CHOICES, *down.broken])
    assert choosing.best_strengths(rows, down)[["w", "silent"]].tolist() == [-0.5, 1.0]
    assert choosing.best_strengths(rows, up)["w"] == 0.5
    assert np.isnan(choosing.best_strengths(rows, down)["breaks"])
    assert choosing.strength_of(choosing.best_strengths(rows, down), "w", [-1.0]) == -0.5
    assert choosing.strength_of(choosing.best_strengths(rows, down), "breaks", [-0.25, -0.5, -4.0]) == -0.5
    assert list(choosing.ranked(rows, down)["intervention"])[:2] == ["w", "w"]


def test_the_best_repair_does_well_again_and_keeps_the_skill(world):
    syco, refusing = world.drifts
    names = [syco.behaviour.shown, syco.behaviour.opposite, SKILL]
    cells = {
        (methods.AFTER, 0.0): (0.9, 0.1, 1.0),
        ("w", 0.5): (0.4, 0.5, 1.0),
        ("w", 1.0): (0.3, 0.6, 0.95),
        ("w", 1.5): (0.0, 0.6, 0.95),
        ("w", 2.0): (0.0, 1.0, 0.5),
        ("x", 1.0): (0.0, 1.0, 0.0),
    }
    best = choosing.best_repair(checked(cells, names), syco, before=methods.AFTER)
    assert best["w"] == 1.0
    assert np.isnan(best["x"])
    names = [refusing.behaviour.shown, refusing.behaviour.opposite, SKILL]
    assert choosing.best_repair(checked(cells, names), refusing, before=methods.AFTER)["w"] == 0.5


def repaired(drift, *, before=1.0, after=0.0, back=0.9, broken=0.0, kept=1.0, joint=0.9, null=None, **more):
    """Verdicts where shares are of what the model did well; `broken` of the rest is what is broken with w."""
    return _repaired(drift, before, after, back, broken, kept, joint, after if null is None else null, **more)


def _repaired(drift, before, after, back, broken, kept, joint, null, *, random=None, activations=0.1, n=N):

    def cell(well, skill=1.0, lost=0.0):
        return {drift.well: well, drift.spoilt: (1 - well) * (1 - lost), SKILL: skill}

    cells = {BASELINE: cell(before, 0.0), methods.AFTER: cell(after), methods.CONTRASTIVE: cell(back, kept, broken)}
    rows = table(
        cells | {methods.JOINT: cell(joint), methods.SHUFFLED: cell(null), methods.ONE_LAYER: cell(activations)}, n=n
    )
    drawn = [
        answers(f"random {i}", drift.well, after if random is None else random, control_of=methods.CONTRASTIVE)
        for i in range(25)
    ]
    few = pd.concat([table(cells), *drawn], ignore_index=True)
    return [one["verdict"] for one in claims.repair_claims(drift, rows, few)]


def test_repair_claims_reach_every_outcome(world):
    syco, refusing = world.drifts
    assert repaired(refusing) == [HELD] * 8
    assert repaired(syco) == [HELD] * 8
    assert repaired(refusing, back=0.0, broken=1.0) == [
        *(HELD, HELD, FAILED, UNMEASURED, FAILED, FAILED, FAILED, UNMEASURED)
    ]
    assert repaired(refusing, kept=0.5)[3:5] == [FAILED, FAILED]
    assert repaired(refusing, back=0.5)[1:4] == [UNDECIDED, UNDECIDED, UNMEASURED]
    assert repaired(refusing, after=0.98) == [FAILED, *[UNMEASURED] * 7]
    assert repaired(refusing, after=0.88, n=20) == [UNDECIDED, *[UNMEASURED] * 7]
    assert repaired(refusing, random=0.95)[6] == FAILED
    assert repaired(refusing, activations=0.95)[5] == FAILED
    assert repaired(refusing, null=0.6)[7] == FAILED
    assert repaired(refusing, joint=1.0, back=0.7)[4] == FAILED


def test_without_a_strength_that_keeps_the_skill_the_drift_stays(world):
    assert repaired(world.drifts[1], back=0.0) == [
        *(HELD, FAILED, FAILED, UNMEASURED, FAILED, FAILED, FAILED, UNMEASURED)
    ]

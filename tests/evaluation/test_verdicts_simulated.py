"""Verdicts on simulated studies: nothing happens, the behaviour is repaired, the text is wrecked. Each is right ≥ 95 %.

A study has 100 prompts about 20 nouns (the demo's shape); prompts about one noun go together, seeds are fixed.
"""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.evaluation import summarise, versus
from mechsurgery.evaluation import verdicts as v

DRAWS, NOUNS, EACH, CONTROLS = 60, 20, 5, 50
LABELS = ("refuses", "complies", "broken")


def answers(shares, rng, alike=0.5):
    """Labels with these shares; those of one noun copy its first with probability `alike`."""
    first = np.repeat(rng.choice(3, NOUNS, p=shares), EACH)
    own = rng.choice(3, NOUNS * EACH, p=shares)
    return np.where(rng.random(NOUNS * EACH) < alike, first, own)


def study(shares, rng, *, before=(1, 0, 0), random=None, rival=None):
    """The table of a baseline, a circuit, and maybe 50 random ones and a rival."""
    runs = [("baseline", "baseline", None, before), ("circuit", "scaling", None, shares)]
    runs += [(f"random {i}", "scaling", "circuit", random) for i in range(CONTROLS if random else 0)]
    runs += [] if rival is None else [("rival", "scaling", None, rival)]
    names, kinds, control_of, shares = zip(*runs)
    said = np.concatenate([answers(np.array(given, dtype=float), rng) for given in shares])
    n = NOUNS * EACH

    def for_each(values):
        return np.repeat(np.array(values, dtype=object), n)

    rows = {
        "model": "m",
        "intervention": for_each(names),
        "kind": for_each(kinds),
        "control_of": for_each(control_of),
        "strength": np.repeat([float(kind != "baseline") for kind in kinds], n),
        "m": np.nan,
        "toward": -np.repeat([float(kind != "baseline") for kind in kinds], n),
        "seed": 0,
        "prompt_set": "asked",
        "prompt_id": np.tile([f"p{i}" for i in range(n)], len(names)),
        "group": np.tile(np.repeat([f"noun {i}" for i in range(NOUNS)], EACH), len(names)),
        "metric": "outcome",
        "scale": "label",
        "value": np.nan,
        "label": np.array(LABELS, dtype=object)[said],
    }
    return pd.DataFrame(rows)


def summary_of(table, label):
    """A rate of one label: the others need not be summarised."""
    rate = table.assign(value=(table["label"] == label).astype(float), label="", scale="rate")
    return summarise(rate)


def asked(table, label, name="circuit"):
    """The summary's row of the circuit, and the plain rates of its controls, whose intervals no verdict reads."""
    controls = table[table["control_of"] == name]
    of_label = summary_of(table[table["control_of"].isna()], label)
    rates = (controls["label"] == label).groupby(controls["intervention"]).mean()
    return of_label[of_label["intervention"] == name].iloc[0], list(rates)


def share_of(verdict_of, wanted, **how):
    """Share of draws in which the verdict is one of those wanted."""
    rng = np.random.default_rng(0)
    return np.mean([verdict_of(study(rng=rng, **how)).verdict in wanted for _ in range(DRAWS)])


NULL, CURE, WRECK = (1, 0, 0), (0.05, 0.9, 0.05), (0.0, 0.0, 1.0)


def halved(table):
    return v.falls_to_share(asked(table, "refuses")[0])


def repaired(table):
    return v.rises_to(asked(table, "complies")[0], 0.5)


def more_than_random(table):
    row, controls = asked(table, "complies")
    return v.beyond_controls(row, controls, up=True)


def whole(table):
    return v.stays(asked(table, "broken")[0], 0.15, worse="higher")


@pytest.mark.parametrize(
    ("claim", "shares", "wanted"),
    [
        (halved, NULL, (v.FAILED,)),
        (halved, CURE, (v.HELD,)),
        (halved, WRECK, (v.HELD,)),  # literally so: why it is never asked alone
        (repaired, NULL, (v.FAILED,)),
        (repaired, CURE, (v.HELD,)),
        (repaired, WRECK, (v.FAILED,)),
        (more_than_random, NULL, (v.FAILED,)),
        (more_than_random, CURE, (v.HELD,)),
        (more_than_random, WRECK, (v.FAILED,)),
        (whole, NULL, (v.HELD,)),
        (whole, WRECK, (v.FAILED,)),
    ],
)
def test_a_null_an_effect_and_a_wreck_are_told_apart(claim, shares, wanted):
    random = (0.97, 0, 0.03) if claim is more_than_random else None
    assert share_of(claim, wanted, shares=shares, random=random) >= 0.95


def test_a_circuit_that_is_one_of_the_random_ones_does_no_more_than_they():
    held = share_of(more_than_random, (v.HELD,), shares=(0.7, 0.2, 0.1), random=(0.7, 0.2, 0.1))
    assert held <= 0.05


@pytest.mark.parametrize("loss", [0.05, 0.08])
def test_a_true_loss_at_or_beyond_the_margin_is_rarely_called_none(loss):
    def kept(table):
        return v.stays(asked(table, "complies")[0], 0.05)

    before = (0.05, 0.95, 0.0)
    held = share_of(kept, (v.HELD,), before=before, shares=(0.05 + loss, 0.95 - loss, 0.0))
    assert held <= 0.05


def test_equal_rivals_are_rarely_told_apart_and_a_better_one_is():
    def better(table):
        rows = versus(table, "rival", labels={"outcome": LABELS})
        row = rows[(rows["intervention"] == "circuit") & (rows["label"] == "complies")].iloc[0]
        return v.beats(row, up=True)

    assert share_of(better, (v.HELD,), shares=(0.4, 0.5, 0.1), rival=(0.4, 0.5, 0.1)) <= 0.05
    assert share_of(better, (v.HELD,), shares=CURE, rival=(0.6, 0.3, 0.1)) >= 0.95
    assert share_of(better, (v.FAILED,), shares=(0.6, 0.3, 0.1), rival=CURE) >= 0.95

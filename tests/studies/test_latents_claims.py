"""Verdicts of the latents study on made-up effects: each can be held, not hold, be undecided, be not measurable."""

import pandas as pd
import pytest

from mechsurgery.studies.latents.claims import explains_both, steers_at_all, steers_more
from mechsurgery.studies.latents.methods import ATTRIBUTION, DIFFING, DOWN, UP

N = 40


def effects(outside=0, outside_diffing=0, *, baseline=0.8, controls=19, strength=0.2, high=0.3):
    """Effects of 40 latents by attribution (0 to 39), 40 by model diffing (40 to 79), and random ones."""
    works = [i < outside or 0 <= i - N < outside_diffing for i in range(2 * N)]
    rows = [{"latent": i, "control": False, "outside": out, "effect": 0.2 * out} for i, out in enumerate(works)]
    rows += [{"latent": 100 + i, "control": True, "outside": False, "effect": 0.0} for i in range(controls)]
    table = pd.DataFrame(rows).assign(baseline=baseline, strength=strength, high=high, q_random=1.0)
    return table


CHOSEN = {ATTRIBUTION: list(range(N)), DIFFING: list(range(N, 2 * N))}
NOTHING = [
    ({"baseline": 0.05}, -1, "not there"),
    ({"baseline": 1.0}, 1, "nothing is left"),
    ({"controls": 0}, -1, "no other latent was active"),
    ({"strength": float("nan")}, -1, "coherent"),
]


@pytest.mark.parametrize(
    ("counts", "verdict"), [((20, 2), "held"), ((2, 20), "did not hold"), ((3, 1), "undecided"), ((0, 0), "undecided")]
)
def test_more_than_model_diffing(counts, verdict):
    assert steers_more(effects(*counts), CHOSEN, -1).verdict == verdict


@pytest.mark.parametrize(("outside", "verdict"), [(12, "held"), (0, "did not hold"), (3, "undecided")])
def test_any_effect_of_single_latents(outside, verdict):
    found = steers_at_all(effects(outside), CHOSEN, -1)
    assert found.verdict == verdict
    assert "margin 15 %" in found.measured


def test_none_of_four_latents_says_nothing():
    few = {ATTRIBUTION: CHOSEN[ATTRIBUTION][:4]}
    assert steers_at_all(effects(), few, -1).verdict == "undecided"


@pytest.mark.parametrize(("change", "sign", "words"), NOTHING)
def test_where_there_is_nothing_to_measure(change, sign, words):
    table = effects(20, **change)
    for claim in (steers_more, steers_at_all):
        found = claim(table, CHOSEN, sign)
        assert (found.verdict, words in found.measured) == ("not measurable", True)
    way = DOWN if sign < 0 else UP
    assert explains_both([0], {way: table}, {DOWN: effects(20)}).verdict == "not measurable"


def test_without_a_twin_model_diffing_is_not_measurable():
    assert "no aligned twin" in steers_more(effects(20), {ATTRIBUTION: CHOSEN[ATTRIBUTION]}, -1).measured


def test_one_latent_for_both_cases():
    works, open_, nothing = ({DOWN: effects(n, high=high)} for n, high in ((1, 0.4), (0, 0.3), (0, 0.05)))
    assert explains_both([0], works, works).verdict == "held"
    assert explains_both([0], works, open_).verdict == "undecided"
    assert explains_both([0], works, nothing).verdict == "did not hold"
    assert explains_both([], works, works).verdict == "did not hold"
    assert explains_both([0], works, {DOWN: nothing[DOWN], UP: works[DOWN]}).verdict == "held"
    unknown = {DOWN: effects(0, high=float("nan"))}
    assert explains_both([0], works, unknown).verdict == "undecided"

"""Every rule reaches held, did not hold, undecided and not measurable on made-up rows, and looks at its baseline."""

import pandas as pd
import pytest

from mechsurgery.evaluation import verdicts as v


def row(value, low, high, baseline=0.9, width=None, scale="rate", n=100):
    """A row of a summary: an interval of the value, and of the difference (as wide, unless `width` is given)."""
    below, above = (value - low, high - value) if width is None else (width, width)
    change = value - baseline
    return pd.Series(
        {
            "value": value,
            "low": low,
            "high": high,
            "baseline": baseline,
            "difference": change,
            "difference_low": change - below,
            "difference_high": change + above,
            "scale": scale,
            "n": n,
        }
    )


WIDE, SURE_LOW, SURE_HIGH, GONE = row(0.45, 0.3, 0.6), row(0.1, 0.05, 0.2), row(0.85, 0.8, 0.9), row(0, 0, 0.04, 0.02)
OUTCOMES = {
    "halves": (v.falls_to_share, (), (SURE_LOW, SURE_HIGH, WIDE, GONE)),
    "loses at most five points": (
        lambda r: v.stays(r, 0.05, least=0.1),
        (),
        (row(0.9, 0.88, 0.92), row(0.7, 0.65, 0.75), row(0.87, 0.8, 0.93), row(0, 0, 0.04, 0.02)),
    ),
    "stays at or above 0.97": (
        lambda r: v.stays_above(r, 0.97),
        (),
        (
            row(0.98, 0.975, 0.99, 0.99, scale="number"),
            row(0.5, 0.4, 0.6, 0.99),
            row(0.97, 0.9, 0.99, 0.99),
            row(0.17, 0.1, 0.2, 0.167),
        ),
    ),
    "breaks the text": (
        lambda r: v.falls_below(r, 0.9),
        (),
        (row(0.4, 0.3, 0.5, 0.99), row(0.97, 0.95, 0.99, 0.99), row(0.9, 0.85, 0.95, 0.99), row(0.17, 0.1, 0.2, 0.167)),
    ),
    "raises it": (
        lambda r: v.moves(r, up=True),
        (),
        (row(0.6, 0.5, 0.7, 0.2), row(0.05, 0.02, 0.1, 0.2), row(0.25, 0.15, 0.35, 0.2), row(1, 0.96, 1, 0.99)),
    ),
    "lowers it": (
        lambda r: v.moves(r, up=False),
        (),
        (row(0.1, 0.05, 0.2, 0.6), row(0.9, 0.85, 0.95, 0.6), row(0.55, 0.45, 0.65, 0.6), GONE),
    ),
    "does more than random": (
        lambda r: v.beyond_controls(r, [0.8, 0.85, 0.9]),
        (),
        (SURE_LOW, row(0.9, 0.85, 0.95), row(0.75, 0.6, 0.9), GONE),
    ),
}


@pytest.mark.parametrize("claim", OUTCOMES)
def test_every_rule_reaches_every_outcome(claim):
    rule, more, rows = OUTCOMES[claim]
    assert [rule(one, *more).verdict for one in rows] == [v.HELD, v.FAILED, v.UNDECIDED, v.UNMEASURED]


def test_equivalence_is_by_interval_never_by_a_point():
    assert v.unmoved(row(0.9, 0.89, 0.91, 0.9), 0.05).verdict == v.HELD
    assert v.unmoved(row(0.9, 0.7, 0.99, 0.9), 0.05).verdict == v.UNDECIDED
    assert v.unmoved(row(0.5, 0.45, 0.55, 0.9), 0.05).verdict == v.FAILED


def test_a_rival_is_beaten_only_where_the_intervals_are_apart_in_either_direction():
    low, high, wide = row(0.1, 0.05, 0.2), row(0.8, 0.7, 0.9), row(0.5, 0.1, 0.9)
    for up, better, worse in ((False, low, high), (True, high, low)):
        assert v.beats(better, worse, up=up).verdict == v.HELD
        assert v.beats(worse, better, up=up).verdict == v.FAILED
        assert v.beats(better, wide, up=up).verdict == v.UNDECIDED


def test_no_controls_and_missing_intervals_are_not_measurable():
    assert v.beyond_controls(SURE_LOW, []).verdict == v.UNMEASURED
    assert v.falls_to_share(row(0.1, float("nan"), float("nan"))).verdict == v.UNMEASURED


def test_caa_that_breaks_what_was_broken_before_proves_nothing():
    """The old rule said "CAA breaks the text: held" where quality was 0.167 before and after."""
    same = row(0.167, 0.1, 0.2, baseline=0.167, scale="number")
    said = v.falls_below(same, 0.9)
    assert said.verdict == v.UNMEASURED
    assert "before anything was done" in said.measured


NONE = float("nan")


@pytest.mark.parametrize(
    "rule",
    [
        lambda r: v.falls_to_share(r),
        lambda r: v.stays(r, 0.05),
        lambda r: v.stays(r, 0.05, lower_is_worse=False),
        lambda r: v.stays_above(r, 0.5),
        lambda r: v.falls_below(r, 0.5),
        lambda r: v.moves(r, up=True),
        lambda r: v.moves(r, up=False),
        lambda r: v.unmoved(r, 0.05),
        lambda r: v.beyond_controls(r, [0.5]),
        lambda r: v.beyond_controls(r, [0.5], up=True),
    ],
)
@pytest.mark.parametrize("value", [0.02, 0.98])
def test_nothing_is_measurable_without_a_baseline(rule, value):
    assert rule(row(value, value - 0.01, value + 0.01, NONE)).verdict == v.UNMEASURED


def test_doing_nothing_is_not_more_than_controls_that_go_the_other_way():
    assert v.beyond_controls(row(0.5, 0.45, 0.55, 0.5), [0.7, 0.8]).verdict == v.UNDECIDED
    assert v.beyond_controls(row(0.5, 0.45, 0.55, 0.3), [0.7, 0.8]).verdict == v.FAILED
    assert v.beyond_controls(row(0.5, 0.45, 0.55, 0.5), [0.2, 0.3], up=True).verdict == v.UNDECIDED
    assert v.beyond_controls(row(0.5, 0.45, 0.55, 0.7), [0.2, 0.3], up=True).verdict == v.FAILED


def test_controls_are_not_beaten_at_the_ceiling_nor_where_one_was_not_measured():
    assert v.beyond_controls(row(1, 0.97, 1, 1), [1, 1], up=True).verdict == v.UNMEASURED
    for controls in ([NONE, 0.8], [0.8, NONE]):
        assert v.beyond_controls(SURE_LOW, controls).verdict == v.UNMEASURED


def test_a_rate_with_less_than_the_margin_to_lose_cannot_fail_and_so_not_hold():
    assert v.stays(row(0, 0, 0.03, 0.03), 0.05).verdict == v.UNMEASURED
    assert v.stays(row(1, 0.97, 1, 1), 0.05, lower_is_worse=False).verdict == v.UNMEASURED
    assert v.stays(row(0.02, 0.01, 0.04, 0.02), 0.05, lower_is_worse=False).verdict == v.HELD


def test_a_baseline_that_may_not_have_fallen_is_not_halved():
    uncertain = row(0.05, 0, 0.06, baseline=0.13)
    uncertain["difference_low"], uncertain["difference_high"] = -0.3, 0.1
    assert v.falls_to_share(uncertain).verdict == v.UNDECIDED

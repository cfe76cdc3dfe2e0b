"""Every rule reaches held, did not hold, undecided and not measurable, looks at its baseline, and states its margin."""

import math

import pandas as pd
import pytest

from mechsurgery.evaluation import verdicts as v


def row(value, low, high, baseline=0.9, width=None, scale="rate", n=100, sure=0.02):
    """A row of a summary: an interval of the value, and of the difference (as wide, unless `width` is given)."""
    below, above = (value - low, high - value) if width is None else (width, width)
    change = value - baseline
    return pd.Series(
        {
            "value": value,
            "low": low,
            "high": high,
            "baseline": baseline,
            "baseline_low": baseline - sure,
            "baseline_high": baseline + sure,
            "difference": change,
            "difference_low": change - below,
            "difference_high": change + above,
            "p_value": 0.001,
            "scale": scale,
            "n": n,
            "rival": "a rival",
        }
    )


RANDOM = [0.8 + 0.002 * i for i in range(50)]
WIDE, LOW, HIGH, GONE = row(0.45, 0.3, 0.6), row(0.1, 0.05, 0.2), row(0.85, 0.8, 0.9), row(0, 0, 0.04, 0.02)
NONE = row(math.nan, math.nan, math.nan, math.nan)
#: Rule -> rows for which it is held, did not hold, is undecided, and is not measurable.
OUTCOMES = {
    "halves": (v.falls_to_share, LOW, HIGH, WIDE, GONE),
    "loses at most five points": (
        lambda r: v.stays(r, 0.05, least=0.1),
        row(0.9, 0.88, 0.92),
        row(0.7, 0.65, 0.75),
        row(0.87, 0.8, 0.93),
        row(0, 0, 0.04, 0.02),
    ),
    "gains at most five points": (
        lambda r: v.stays(r, 0.05, worse="higher"),
        row(0.2, 0.18, 0.22, 0.2),
        row(0.4, 0.35, 0.45, 0.2),
        row(0.23, 0.15, 0.3, 0.2),
        row(1, 0.96, 1, 0.97),
    ),
    "unmoved": (lambda r: v.unmoved(r, 0.05), row(0.9, 0.89, 0.91), row(0.5, 0.45, 0.55), row(0.9, 0.7, 0.99), NONE),
    "stays at or above 0.97": (
        lambda r: v.stays_above(r, 0.97),
        row(0.98, 0.975, 0.99, 0.99, scale="number"),
        row(0.5, 0.4, 0.6, 0.99),
        row(0.97, 0.9, 0.99, 0.99),
        row(0.17, 0.1, 0.2, 0.167),
    ),
    "breaks the text": (
        lambda r: v.falls_below(r, 0.9),
        row(0.4, 0.3, 0.5, 0.99),
        row(0.97, 0.95, 0.99, 0.99),
        row(0.9, 0.85, 0.95, 0.99),
        row(0.17, 0.1, 0.2, 0.167),
    ),
    "reaches a half": (
        lambda r: v.rises_to(r, 0.5),
        row(0.7, 0.6, 0.8, 0.1),
        row(0.2, 0.1, 0.3, 0.1),
        row(0.5, 0.4, 0.6, 0.1),
        row(0.7, 0.6, 0.8, 0.6),
    ),
    "raises it": (
        lambda r: v.moves(r, up=True),
        row(0.6, 0.5, 0.7, 0.2),
        row(0.05, 0.02, 0.1, 0.2),
        row(0.25, 0.15, 0.35, 0.2),
        row(1, 0.96, 1, 0.99),
    ),
    "lowers it": (
        lambda r: v.moves(r, up=False),
        row(0.1, 0.05, 0.2, 0.6),
        row(0.9, 0.85, 0.95, 0.6),
        row(0.55, 0.45, 0.65, 0.6),
        GONE,
    ),
    "does more than random": (
        lambda r: v.beyond_controls(r, RANDOM),
        LOW,
        row(0.9, 0.85, 0.95),
        row(0.75, 0.6, 0.9),
        GONE,
    ),
    "beats a rival": (v.beats, row(0.5, 0.4, 0.6, 0.9), row(0.95, 0.92, 0.98, 0.9), row(0.85, 0.75, 0.95, 0.9), NONE),
    "beats a rival by a margin": (
        lambda r: v.beats(r, up=True, margin=0.05),
        row(0.9, 0.85, 0.95, 0.5),
        row(0.9, 0.88, 0.92, 0.97),
        row(0.6, 0.5, 0.7, 0.5),
        row(0.99, 0.96, 1, 0.98),
    ),
    "as good as a rival": (
        lambda r: v.as_good(r, 0.05),
        row(0.5, 0.45, 0.53, 0.5),
        row(0.7, 0.6, 0.8, 0.5),
        row(0.52, 0.45, 0.6, 0.5),
        NONE,
    ),
    "beats a rival beyond chance": (
        lambda r: v.beyond_chance(v.beats(r), 0.01 if r["value"] != 0.51 else 0.2, "by permutation"),
        row(0.5, 0.4, 0.6, 0.9),
        row(0.95, 0.92, 0.98, 0.9),
        row(0.51, 0.4, 0.6, 0.9),
        NONE,
    ),
    "best of two": (
        lambda r: v.best([] if math.isnan(r["value"]) else [r, row(0.1, 0.05, 0.15, 0.95)]),
        row(0.5, 0.4, 0.6, 0.9),
        row(0.95, 0.92, 0.98, 0.9),
        row(0.85, 0.75, 0.95, 0.9),
        NONE,
    ),
    "most of them": (lambda r: v.share_above(*r, 0.5), (60, 70), (5, 70), (37, 70), (3, 3)),
    "more often": (lambda r: v.more_often(*r), (30, 100, 5, 100), (5, 100, 30, 100), (7, 100, 5, 100), (0, 0, 1, 2)),
    "reaches 0.9": (
        lambda r: v.reaches(*r, 0.9),
        (0.97, 0.92, 0.99),
        (0.6, 0.5, 0.7),
        (0.9, 0.8, 0.95),
        (math.nan,) * 3,
    ),
}


@pytest.mark.parametrize("claim", OUTCOMES)
def test_every_rule_reaches_every_outcome_and_states_its_margin(claim):
    rule, *rows = OUTCOMES[claim]
    verdicts = [rule(one) for one in rows]
    assert [one.verdict for one in verdicts] == [v.HELD, v.FAILED, v.UNDECIDED, v.UNMEASURED]
    assert all(one.rule for one in verdicts)
    assert set(verdicts[0].row("claim", mode="x")) == {"claim", "mode", "rule", "measured", "verdict"}


def test_a_margin_is_decided_by_the_interval_never_by_a_point():
    for rule in (lambda r: v.unmoved(r, 0.05), lambda r: v.stays(r, 0.05)):
        assert rule(row(0.9, 0.7, 0.99)).verdict == v.UNDECIDED


def test_a_baseline_that_is_uncertain_counts():
    sure, unsure = (row(0.3, 0.22, 0.39, 0.8, sure=sure) for sure in (0.01, 0.2))
    assert v.falls_to_share(sure).verdict == v.HELD
    assert v.falls_to_share(unsure).verdict == v.UNDECIDED


def test_a_number_has_no_floor_of_a_rate():
    kl = row(0.05, 0.04, 0.06, 0.02, scale="number")
    assert v.moves(kl, up=True, margin=0.01).verdict == v.HELD
    loss = row(2.5, 2.4, 2.6, 3.0, scale="number")
    assert v.moves(loss, up=False, margin=0.1).verdict == v.HELD
    assert v.moves(row(4.0, 3.9, 4.1, 3.0, scale="number"), up=True, margin=0.1).verdict == v.HELD


def test_a_claim_that_needs_another_is_asked_only_where_that_one_holds():
    kept = v.stays(row(0.9, 0.89, 0.91), 0.05)
    assert v.given(v.falls_to_share(LOW), "the behaviour falls", kept) == kept
    for condition, word in ((HIGH, "did not hold"), (WIDE, "undecided"), (GONE, "could not be measured")):
        said = v.given(v.falls_to_share(condition), "the behaviour falls", kept)
        assert said.verdict == v.UNMEASURED
        assert word in said.measured
    lost = v.stays(row(0.7, 0.65, 0.75), 0.05)
    assert v.given(v.falls_to_share(HIGH), "the behaviour falls", lost, loss=True) == lost  # damage is told anyway
    assert v.given(v.falls_to_share(HIGH), "the behaviour falls", lost).verdict == v.UNMEASURED
    assert v.given(v.falls_to_share(HIGH), "the behaviour falls", kept, loss=True).verdict == v.UNMEASURED


def test_several_claims_hold_together_or_not():
    held, failed = v.Verdict("a", v.HELD, "r"), v.Verdict("b", v.FAILED, "r")
    assert v.all_of([held, held]).verdict == v.HELD
    assert v.all_of([held, failed]) == v.Verdict("a; b", v.FAILED, "r")
    assert v.all_of([held, v.not_measurable("c")]).verdict == v.UNMEASURED
    assert v.all_of([]).verdict == v.UNMEASURED


def test_more_than_random_needs_enough_controls_a_margin_and_a_rare_value():
    beyond = row(0.4, 0.35, 0.45)
    assert v.beyond_controls(beyond, [0.8] * 18).verdict == v.UNMEASURED
    assert v.beyond_controls(beyond, [0.8] * 49).verdict == v.HELD
    # 96 % against 100 % is within the margin.
    assert v.beyond_controls(row(0.96, 0.955, 0.965, 1.0), [1.0] * 49).verdict == v.FAILED
    # As many random circuits go as far as not.
    assert v.beyond_controls(row(0.5, 0.2, 0.8, 0.9), [0.4] * 25 + [0.8] * 24).verdict == v.FAILED
    # Three of 50 random circuits wreck the text as thoroughly: p = 4/51.
    assert v.beyond_controls(beyond, [0.9] * 47 + [0.1] * 3).verdict == v.UNDECIDED
    assert v.empirical_p(0.4, [0.9] * 47 + [0.1] * 3, up=False) == pytest.approx(4 / 51)
    up = row(0.6, 0.5, 0.7, 0.1)
    assert v.beyond_controls(up, [0.1] * 49, up=True).verdict == v.HELD


def test_the_best_must_beat_each_and_loses_only_to_a_lead_that_outlasts_the_choice():
    ahead, behind = row(0.5, 0.4, 0.6, 0.9), row(0.95, 0.92, 0.98, 0.9)
    assert v.best([ahead, row(0.5, 0.4, 0.6, 0.55)]).verdict == v.UNDECIDED
    assert v.best([ahead, behind]).verdict == v.FAILED
    lucky = behind.copy()
    lucky["p_value"] = 0.03
    assert v.best([ahead, lucky]).verdict == v.UNDECIDED


def test_nothing_is_more_than_controls_that_go_the_other_way():
    up, down = [0.7 + 0.002 * i for i in range(50)], [0.2 + 0.002 * i for i in range(50)]
    for controls, way in ((up, False), (down, True)):
        for baseline, wanted in ((0.5, v.FAILED), (0.3 if not way else 0.7, v.FAILED)):
            assert v.beyond_controls(row(0.5, 0.46, 0.54, baseline), controls, up=way).verdict == wanted


def test_controls_are_not_beaten_at_the_ceiling_nor_where_one_was_not_measured():
    assert v.beyond_controls(row(1, 0.97, 1, 1), [1] * 20, up=True).verdict == v.UNMEASURED
    assert v.beyond_controls(LOW, [*RANDOM, math.nan]).verdict == v.UNMEASURED


def test_caa_that_breaks_what_was_broken_before_proves_nothing():
    """The old rule said "CAA breaks the text: held" where quality was 0.167 before and after."""
    said = v.falls_below(row(0.167, 0.1, 0.2, baseline=0.167, scale="number"), 0.9)
    assert said.verdict == v.UNMEASURED
    assert "before anything was done" in said.measured


@pytest.mark.parametrize(
    "rule",
    [
        v.falls_to_share,
        lambda r: v.stays(r, 0.05),
        lambda r: v.stays(r, 0.05, worse="higher"),
        lambda r: v.stays_above(r, 0.5),
        lambda r: v.falls_below(r, 0.5),
        lambda r: v.rises_to(r, 0.5),
        lambda r: v.moves(r, up=True),
        lambda r: v.moves(r, up=False),
        lambda r: v.unmoved(r, 0.05),
        lambda r: v.beats(r),
        lambda r: v.beyond_controls(r, RANDOM),
        lambda r: v.beyond_controls(r, RANDOM, up=True),
    ],
)
@pytest.mark.parametrize("value", [0.02, 0.98])
def test_nothing_is_measurable_without_a_baseline(rule, value):
    assert rule(row(value, value - 0.01, value + 0.01, math.nan)).verdict == v.UNMEASURED


def test_a_rate_with_less_than_the_margin_to_lose_cannot_fail_and_so_not_hold():
    assert v.stays(row(0, 0, 0.03, 0.03), 0.05).verdict == v.UNMEASURED
    assert v.stays(row(1, 0.97, 1, 1), 0.05, worse="higher").verdict == v.UNMEASURED

"""Claims asked of a summary: held, did not hold, undecided, or not measurable. Every study asks its claims here.

Every rule looks at the baseline first: where there is nothing to lose or to gain, nothing is measurable. It then asks
whether the 95 % interval lies wholly on one side of a margin that was stated beforehand, and that stands in the verdict
as its `rule`; where it lies on both, the claim is undecided. A point estimate alone never makes a claim held. Rules are
symmetric: what can be held can also fail. A claim that depends on another, such as that a cure keeps skills, is asked
only where that one is held (`given`).

A margin is ours unless it says that it is a paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..checks import check_arguments
from .statistics import wilson

Outcome = Literal["held", "did not hold", "undecided", "not measurable"]
HELD: Outcome = "held"
FAILED: Outcome = "did not hold"
UNDECIDED: Outcome = "undecided"
UNMEASURED: Outcome = "not measurable"
#: Less of a rate than this in the unmodified model counts as none.
LEAST = 0.1
#: As much of a rate as this leaves nothing to gain.
CEILING = 0.98
#: What a difference of rates must exceed to count, where a claim does not say.
MARGIN = 0.05
#: p-value below which chance, or a matched random control, is no explanation.
ALPHA = 0.05
#: With fewer controls no p-value of theirs can reach `ALPHA`.
LEAST_CONTROLS = 19


@dataclass(frozen=True)
class Verdict:
    """What was measured, in words, what follows for the claim, and the rule by which it follows."""

    measured: str
    verdict: Outcome
    rule: str = ""

    def row(self, claim: str, **more: Any) -> dict[str, Any]:
        """A row of a table of claims."""
        return {"claim": claim, **more, "rule": self.rule, "measured": self.measured, "verdict": self.verdict}


def not_measurable(why: str) -> Verdict:
    """The claim cannot be asked here."""
    return Verdict(why, UNMEASURED)


def given(condition: Verdict, what: str, verdict: Verdict, *, loss: bool = False) -> Verdict:
    """A claim that means something only where another is held; `what` says in words that the other is.

    With `loss` the claim is that something is kept: that it was lost (did not hold) is told in any case.
    """
    if condition.verdict == HELD or verdict.verdict == UNMEASURED or (loss and verdict.verdict == FAILED):
        return verdict
    return Verdict(f"asked only where {what}, which {_SAID[condition.verdict]}", UNMEASURED, verdict.rule)


def beyond_chance(verdict: Verdict, p: float, test: str) -> Verdict:
    """A verdict that is held only where chance, by a stated test, is no explanation: p ≤ `ALPHA`."""
    outcome = UNDECIDED if verdict.verdict == HELD and not p <= ALPHA else verdict.verdict
    return Verdict(f"{verdict.measured}, p = {p:.2g}", outcome, f"{verdict.rule}; p ≤ {ALPHA:g} {test}")


_SAID = {FAILED: "did not hold", UNDECIDED: "is undecided", UNMEASURED: "could not be measured"}


def together(verdicts: Iterable[Outcome]) -> Outcome:
    """Of several outcomes that are all needed the worst: did not hold, not measurable, undecided, held."""
    found = set(verdicts)
    return next((one for one in (FAILED, UNMEASURED, UNDECIDED) if one in found), HELD)


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim made of several that must all hold."""
    if not verdicts:
        return not_measurable("nothing was measured")
    outcome = together(one.verdict for one in verdicts)
    words = [list(dict.fromkeys(getattr(one, name) for one in verdicts)) for name in ("measured", "rule")]
    return Verdict("; ".join(filter(None, words[0])), outcome, "; and ".join(filter(None, words[1])))


def falls_to_share(row: pd.Series, share: float = 0.5, *, least: float = LEAST) -> Verdict:
    """The value is at most `share` of the unmodified model's.

    The interval of value − share × baseline is put together from both intervals (MOVER, Donner and Zou 2012), so that
    a baseline which is uncertain too counts.
    """
    rule = f"at most {share:.0%} of the unmodified model's"
    if row["baseline"] < least:
        return Verdict(f"{change(row)}: the behaviour is not there to begin with", UNMEASURED, rule)
    above = np.hypot(row["high"] - row["value"], share * (row["baseline"] - row["baseline_low"]))
    below = np.hypot(row["value"] - row["low"], share * (row["baseline_high"] - row["baseline"]))
    excess = row["value"] - share * row["baseline"]
    return Verdict(change(row), _below(excess - below, excess + above, 0.0), rule)


def stays(row: pd.Series, margin: float, *, least: float = 0.0, worse: Literal["lower", "higher"] = "lower") -> Verdict:
    """The value is worse than the unmodified model's by at most `margin` (non-inferiority, by the interval).

    Not measurable where a rate has no more than the margin to lose, or less than `least` to begin with.
    """
    rule = f"at most {_points(row, margin)} {worse}"
    room = row["baseline"] if worse == "lower" else 1 - row["baseline"]
    if row["baseline"] < least or (row["scale"] == "rate" and room <= margin):
        return Verdict(f"{change(row)}: too little to lose", UNMEASURED, rule)
    sign = -1.0 if worse == "lower" else 1.0
    low, high = sorted((sign * row["difference_low"], sign * row["difference_high"]))
    return Verdict(changed(row), _below(low, high, margin, touching=True), rule)


def unmoved(row: pd.Series, margin: float) -> Verdict:
    """The value changes by no more than `margin` in either direction (equivalence, two one-sided tests at 2.5 %)."""
    low, high = row["difference_low"], row["difference_high"]
    rule = f"changed by at most {_points(row, margin)}"
    if pd.isna(low) or pd.isna(high):
        return Verdict(f"{change(row)}: nothing to compare with", UNMEASURED, rule)
    inside, outside = -margin <= low and high <= margin, low > margin or high < -margin
    return Verdict(changed(row), HELD if inside else FAILED if outside else UNDECIDED, rule)


def stays_above(row: pd.Series, threshold: float) -> Verdict:
    """The value is at least a threshold that the unmodified model reaches."""
    rule = f"at least {_number(row, threshold)}"
    if not row["baseline"] >= threshold:
        return Verdict(f"{change(row)}: not there before anything was done", UNMEASURED, rule)
    return Verdict(change(row), _below(-row["high"], -row["low"], -threshold, touching=True), rule)


def falls_below(row: pd.Series, threshold: float) -> Verdict:
    """The value is below a threshold above which the unmodified model's lies."""
    rule = f"below {_number(row, threshold)}"
    if not row["baseline"] >= threshold:
        return Verdict(f"{change(row)}: below before anything was done", UNMEASURED, rule)
    return Verdict(change(row), _below(row["low"], row["high"], threshold), rule)


def stays_below(row: pd.Series, threshold: float) -> Verdict:
    """The value is below a threshold that the unmodified model does not reach either."""
    rule = f"below {_number(row, threshold)}"
    if not row["baseline"] < threshold:
        return Verdict(f"{change(row)}: above before anything was done", UNMEASURED, rule)
    return Verdict(change(row), _below(row["low"], row["high"], threshold), rule)


def rises_to(row: pd.Series, threshold: float) -> Verdict:
    """The value is at least a threshold that the unmodified model does not reach."""
    rule = f"at least {_number(row, threshold)}"
    if not row["baseline"] < threshold:
        return Verdict(f"{change(row)}: there before anything was done", UNMEASURED, rule)
    return Verdict(change(row), _below(-row["high"], -row["low"], -threshold, touching=True), rule)


def moves(
    row: pd.Series, *, up: bool, margin: float = MARGIN, least: float = LEAST, ceiling: float = CEILING
) -> Verdict:
    """The value rises (or falls) by more than `margin` from the unmodified model's.

    `least` and `ceiling` say for rates alone where there is nothing to lose or to gain.
    """
    rule = f"{'rises' if up else 'falls'} by more than {_points(row, margin)}"
    nothing = _no_room(row, up=up, least=least, ceiling=ceiling)
    if nothing:
        return Verdict(nothing, UNMEASURED, rule)
    low, high = row["difference_low"], row["difference_high"]
    return Verdict(changed(row), _below(-high, -low, -margin) if up else _below(low, high, -margin), rule)


def beyond_controls(
    row: pd.Series,
    controls: Sequence[float],
    *,
    up: bool = False,
    margin: float = MARGIN,
    least: float = LEAST,
    ceiling: float = CEILING,
) -> Verdict:
    """The value is further than matched random controls' on the same prompts, by more than `margin`.

    Held where at most one control in twenty goes as far, p = (1 + as far)/(1 + controls) ≤ 0.05, and the value's
    interval lies beyond both the controls' mean and the unmodified model's value by the margin; it did not hold where
    the interval lies short of that, or where the typical control goes as far (p ≥ 0.5). Fewer than 19 controls cannot
    say.
    """
    rule = (
        f"beyond the controls' mean and the baseline by more than {_points(row, margin)}, with p ≤ {ALPHA:g}; "
        "not so where half of the controls go as far"
    )
    if len(controls) < LEAST_CONTROLS or any(map(pd.isna, controls)):
        why = "a control was not measured" if len(controls) >= LEAST_CONTROLS else f"at least {LEAST_CONTROLS} needed"
        return Verdict(f"{len(controls)} matched random controls: {why}", UNMEASURED, rule)
    nothing = _no_room(row, up=up, least=least, ceiling=ceiling)
    if nothing:
        return Verdict(nothing, UNMEASURED, rule)
    p, mean, sign = empirical_p(float(row["value"]), controls, up=up), float(np.mean(controls)), 1 if up else -1
    start = sign * max(sign * mean, sign * row["baseline"])
    further = sorted(sign * (row[end] - start) for end in ("low", "high"))
    beyond = _below(-further[1], -further[0], -margin)
    spread = f"{_number(row, min(controls))} to {_number(row, max(controls))}"
    text = f"{change(row)}; {len(controls)} controls {spread}, mean {_number(row, mean)}, p = {p:.2g}"
    if p >= 0.5:
        return Verdict(text, FAILED, rule)
    return Verdict(text, UNDECIDED if beyond == HELD and p > ALPHA else beyond, rule)


def empirical_p(value: float, controls: Sequence[float], *, up: bool) -> float:
    """(1 + controls that go as far)/(1 + controls): how often chance, matched in size and place, does as much.

    >>> empirical_p(0.9, [0.1] * 49, up=True)
    0.02
    """
    far = sum(one >= value if up else one <= value for one in controls)
    return (1 + far) / (1 + len(controls))


def beats(row: pd.Series, *, up: bool = False, margin: float = 0.0) -> Verdict:
    """The value is better than a rival's by more than `margin`; the row comes from `summary.versus` that rival.

    Not measurable where a rival's rate leaves no more than the margin to gain, and the value is not worse than that.
    """
    rule = f"{'more' if up else 'less'} than the rival by more than {_points(row, margin)}, on the same prompts"
    low, high = row["difference_low"], row["difference_high"]
    left = 1 - row["baseline"] if up else row["baseline"]
    if margin and row["scale"] == "rate" and left <= margin and low <= 0 <= high:
        return Verdict(f"{beside(row)}: the rival leaves nothing to gain", UNMEASURED, rule)
    return Verdict(beside(row), _below(-high, -low, -margin) if up else _below(low, high, -margin), rule)


def as_good(row: pd.Series, margin: float, *, up: bool = False) -> Verdict:
    """The value is worse than a rival's by at most `margin`; the row comes from `summary.versus` that rival."""
    rule = f"worse than the rival by at most {_points(row, margin)}, on the same prompts"
    sign = -1.0 if up else 1.0
    low, high = sorted((sign * row["difference_low"], sign * row["difference_high"]))
    return Verdict(beside(row), _below(low, high, margin, touching=True), rule)


def best(rows: Sequence[pd.Series], *, up: bool = False) -> Verdict:
    """The value is better than every rival's; a row each, from `summary.versus`.

    Held where it beats each of them (which needs no correction for their number); it did not hold where some rival's
    lead outlasts Bonferroni's correction.
    """
    rule = f"better than each of {len(rows)} others on the same prompts; not so where one leads at p < {ALPHA:g}/n"
    if not len(rows):
        return Verdict("no rival was measured", UNMEASURED, rule)
    ranked = sorted(rows, key=lambda row: row["baseline"], reverse=up)
    outcomes = [beats(row, up=up).verdict for row in ranked]
    leads = [
        outcome == FAILED and row["p_value"] * len(rows) < ALPHA for row, outcome in zip(ranked, outcomes, strict=True)
    ]
    outcome = FAILED if any(leads) else together(o if o != FAILED else UNDECIDED for o in outcomes)
    return Verdict(f"nearest: {beside(ranked[0])}, p = {ranked[0]['p_value']:.2g}", outcome, rule)


def share_above(n: int, of: int, limit: float, *, least: int = 20, said: str = "") -> Verdict:
    """More than a share `limit` of `of` things, `n` of them counted, at least `least`; Wilson's interval."""
    rule, low, high = f"more than {limit:.0%}", *wilson(n, of)
    text = f"{n} of {of} [{100 * low:.1f}, {100 * high:.1f}] %{said}"
    if of < least:
        return Verdict(f"{text}: fewer than {least}", UNMEASURED, rule)
    return Verdict(text, _below(-high, -low, -limit), rule)


def more_often(a: int, n: int, b: int, m: int) -> Verdict:
    """`a` of `n` is a larger share than `b` of `m`: Fisher's exact test."""
    from scipy.stats import fisher_exact

    rule = f"a larger share, Fisher's exact p ≤ {ALPHA:g}"
    if not n or not m:
        return Verdict(f"{a} of {n} against {b} of {m}", UNMEASURED, rule)
    p = float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)
    outcome = UNDECIDED if p > ALPHA else HELD if a / n > b / m else FAILED
    return Verdict(f"{a} of {n} against {b} of {m}, p = {p:.2g}", outcome, rule)


def reaches(value: float, low: float, high: float, limit: float, *, name: str = "", said: str = "") -> Verdict:
    """Any value with an interval is at least `limit`."""
    text = f"{name} {value:.2f} [{low:.2f}, {high:.2f}]{said}".strip()
    return Verdict(text, at_least(low, high, limit), f"at least {limit:g}")


def at_least(low: float, high: float, limit: float) -> Outcome:
    """Whether an interval lies at or above a limit."""
    return _below(-high, -low, -limit, touching=True)


def _no_room(row: pd.Series, *, up: bool, least: float, ceiling: float) -> str:
    """Why a value has nothing to gain or to lose, or "" where it has."""
    if pd.isna(row["baseline"]):
        return f"{change(row)}: nothing to compare with"
    if row["scale"] != "rate":
        return ""
    if up and row["baseline"] >= ceiling:
        return f"{change(row)}: nothing is left to gain"
    if not up and row["baseline"] < least:
        return f"{change(row)}: the behaviour is not there to begin with"
    return ""


def _below(low: float, high: float, limit: float, *, touching: bool = False) -> Outcome:
    """Whether an interval lies below a limit (`touching`: may reach it), above it, or on both sides."""
    if pd.isna(low) or pd.isna(high) or pd.isna(limit):
        return UNMEASURED
    if high < limit or (touching and high <= limit):
        return HELD
    return FAILED if low > limit or (low == limit and not touching) else UNDECIDED


def cell(row: pd.Series, *, n: bool = True) -> str:
    """A value with its interval and n."""
    text = f"{_number(row, row['value'])} [{_number(row, row['low'])}, {_number(row, row['high'])}]"
    return f"{text}, n = {int(row['n'])}" if n else text


def change(row: pd.Series) -> str:
    """The unmodified model's value, and the value after."""
    return f"{_number(row, row['baseline'])} → {cell(row)}"


def changed(row: pd.Series) -> str:
    """The same with the paired difference and its interval, by which it is decided."""
    return f"{change(row)}; difference {_difference(row)}"


def beside(row: pd.Series) -> str:
    """The value beside a rival's, with the paired difference."""
    rival = f" with {row['rival']}" if "rival" in row and isinstance(row["rival"], str) else ""
    return f"{cell(row)}; {_number(row, row['baseline'])}{rival}; difference {_difference(row)}"


def _difference(row: pd.Series) -> str:
    scale, unit = (100, " points") if row["scale"] == "rate" else (1, "")
    digits = 1 if row["scale"] == "rate" else 3
    value, low, high = (
        f"{scale * row[name]:+.{digits}f}" for name in ("difference", "difference_low", "difference_high")
    )
    return f"{value}{unit} [{low}, {high}]"


def _points(row: pd.Series, margin: float) -> str:
    return f"{100 * margin:g} point{'s' * (margin != 0.01)}" if row["scale"] == "rate" else f"{margin:g}"


def _number(row: pd.Series, value: float) -> str:
    return f"{100 * value:.1f} %" if row["scale"] == "rate" else f"{value:.3f}"


def named(verdict: Verdict, measured: str) -> Verdict:
    """The verdict with other words for what was measured."""
    return replace(verdict, measured=measured)


# What was not measured is NaN, or counted 0 times: these say so in their verdict.
check_arguments(
    __name__,
    leave=("reaches", "at_least", "beyond_chance", "empirical_p", "beyond_controls", "more_often", "share_above"),
)


check_arguments(__name__, inner=True)

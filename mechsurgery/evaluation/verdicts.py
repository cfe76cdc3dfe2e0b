"""Claims asked of a summary: held, did not hold, undecided, or not measurable.

Every rule looks at the baseline first: where there is nothing to lose or to gain, nothing is measurable. It then asks
whether the 95 % interval lies wholly on one side of a margin that was stated beforehand; where it lies on both, the
claim is undecided. Rules are symmetric: what can be held can also fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Outcome = Literal["held", "did not hold", "undecided", "not measurable"]
HELD: Outcome = "held"
FAILED: Outcome = "did not hold"
UNDECIDED: Outcome = "undecided"
UNMEASURED: Outcome = "not measurable"
#: Less of a behaviour than this in the unmodified model counts as none.
LEAST = 0.1
#: As much of it as this leaves nothing to gain.
CEILING = 0.98


@dataclass(frozen=True)
class Verdict:
    """What was measured, in words, and what follows for the claim."""

    measured: str
    verdict: Outcome

    def row(self, claim: str, **more: Any) -> dict[str, Any]:
        """A row of a table of claims."""
        return {"claim": claim, **more, "measured": self.measured, "verdict": self.verdict}


def not_measurable(why: str) -> Verdict:
    """The claim cannot be asked here."""
    return Verdict(why, UNMEASURED)


def falls_to_share(row: pd.Series, share: float = 0.5, *, least: float = LEAST) -> Verdict:
    """The value is at most `share` of the unmodified model's."""
    if row["baseline"] < least:
        return not_measurable(f"{change(row)}: the behaviour is not there to begin with")
    said = _below(row["low"], row["high"], share * row["baseline"])
    # The baseline is uncertain too: where it may not have fallen at all, nothing is held.
    return Verdict(change(row), UNDECIDED if said == HELD and not row["difference_high"] < 0 else said)


def stays(row: pd.Series, margin: float, *, least: float = 0.0, lower_is_worse: bool = True) -> Verdict:
    """The value is worse than the unmodified model's by at most `margin` (non-inferiority).

    Not measurable where a rate has no more than the margin to lose at all.
    """
    room = row["baseline"] if lower_is_worse else 1 - row["baseline"]
    if row["baseline"] < least or (row["scale"] == "rate" and room <= margin):
        return not_measurable(f"{change(row)}: too little to lose")
    sign = -1.0 if lower_is_worse else 1.0
    low, high = sorted((sign * row["difference_low"], sign * row["difference_high"]))
    return Verdict(f"{change(row)}, margin {_number(row, margin)}", _below(low, high, margin, touching=True))


def stays_above(row: pd.Series, threshold: float) -> Verdict:
    """The value is at least a threshold that the unmodified model reaches."""
    if not row["baseline"] >= threshold:
        return not_measurable(f"{change(row)}: not at {_number(row, threshold)} before anything was done")
    return Verdict(change(row), _below(-row["high"], -row["low"], -threshold, touching=True))


def falls_below(row: pd.Series, threshold: float) -> Verdict:
    """The value is below a threshold above which the unmodified model's lies."""
    if not row["baseline"] >= threshold:
        return not_measurable(f"{change(row)}: not at {_number(row, threshold)} before anything was done")
    return Verdict(change(row), _below(row["low"], row["high"], threshold))


def moves(row: pd.Series, *, up: bool, margin: float = 0.0, least: float = LEAST, ceiling: float = CEILING) -> Verdict:
    """The value rises (or falls) by more than `margin` from the unmodified model's."""
    if up and row["baseline"] >= ceiling:
        return not_measurable(f"{change(row)}: nothing is left to gain")
    if not up and row["baseline"] < least:
        return not_measurable(f"{change(row)}: the behaviour is not there to begin with")
    low, high = row["difference_low"], row["difference_high"]
    return Verdict(change(row), _below(-high, -low, -margin) if up else _below(low, high, -margin))


def unmoved(row: pd.Series, margin: float) -> Verdict:
    """The value changes by no more than `margin` in either direction (equivalence)."""
    low, high = row["difference_low"], row["difference_high"]
    if pd.isna(low) or pd.isna(high):
        return not_measurable(f"{change(row)}: nothing to compare with")
    inside, outside = -margin <= low and high <= margin, low > margin or high < -margin
    return Verdict(
        f"{change(row)}, margin ±{_number(row, margin)}", HELD if inside else FAILED if outside else UNDECIDED
    )


def beyond_controls(
    row: pd.Series, controls: Sequence[float], *, up: bool = False, least: float = LEAST, ceiling: float = CEILING
) -> Verdict:
    """The intervention does more than every matched random control, and more than nothing."""
    if not len(controls) or any(map(pd.isna, controls)):
        return not_measurable("no matched random controls" if not len(controls) else "a control was not measured")
    if pd.isna(row["baseline"]):
        return not_measurable(f"{change(row)}: nothing to compare with")
    if up and row["scale"] == "rate" and row["baseline"] >= ceiling:
        return not_measurable(f"{change(row)}: nothing is left to gain")
    if not up and row["baseline"] < least:
        return not_measurable(f"{change(row)}: the behaviour is not there to begin with")
    low, high = min(controls), max(controls)
    text = f"{change(row)}; {len(controls)} controls {_number(row, low)} to {_number(row, high)}"
    if up:
        return Verdict(text, _below(-row["high"], -row["low"], min(-high, -row["baseline"])))
    return Verdict(text, _below(row["low"], row["high"], min(low, row["baseline"])))


def beats(row: pd.Series, rival: pd.Series, *, up: bool = False, margin: float = 0.0) -> Verdict:
    """The value is better than a rival's by more than `margin`: the two intervals do not meet."""
    text = f"{cell(row)} against {cell(rival)}"
    low, high = row["low"] - rival["high"], row["high"] - rival["low"]
    return Verdict(text, _below(-high, -low, -margin) if up else _below(low, high, -margin))


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


def _number(row: pd.Series, value: float) -> str:
    return f"{100 * value:.1f} %" if row["scale"] == "rate" else f"{value:.3f}"

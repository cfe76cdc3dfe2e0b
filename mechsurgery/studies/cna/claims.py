"""The paper's claims asked of the summaries: held, did not hold, undecided, or not measurable."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...attribution.compare import Comparison, in_last_tenth
from ...evaluation.select import controls_of, select
from ...evaluation.statistics import wilson
from ...evaluation.verdicts import (
    FAILED,
    HELD,
    UNDECIDED,
    Outcome,
    Verdict,
    beyond_controls,
    cell,
    falls_below,
    falls_to_share,
    moves,
    not_measurable,
    stays,
    stays_above,
)
from ...units import Circuit
from .methods import CAA_MLP, CNA
from .settings import CORRECTED
from .tables import at_full_strength

#: Fewer neurons than this say nothing about where a circuit lies.
LEAST_NEURONS = 20
#: Multiple choice below this is close to guessing among four: nothing to lose.
ABOVE_CHANCE = 0.3
#: What two circuits share at least where they share structure.
SHARED = 0.1
#: A share of responses that counts: at most this many change behaviour, at least this many change content.
NOTABLE = 0.1


def claims(
    summaries: Mapping[str, pd.DataFrame],
    behaviour: str,
    *,
    circuit: Circuit,
    base_changes: pd.DataFrame | None = None,
    comparison: Comparison | None = None,
) -> pd.DataFrame:
    """One row for each claim and mode: claim, mode, measured, verdict."""
    rows = []
    for mode, summary in summaries.items():
        verdicts = {
            "ablating the circuit at least halves the behaviour": halved(summary, behaviour),
            "(control the paper lacks) it does more than random circuits of the same size and layers": specific(
                summary, behaviour
            ),
            "output quality stays at or above 0.97 at every strength up to ablation": quality(summary),
            "CAA on MLP outputs at full strength breaks the text (quality below 0.9)": caa_breaks(summary),
            "multiple choice loses at most one point": capability(summary),
            "amplification (m = 2) raises the behaviour": amplifies(summary, behaviour),
        }
        rows += [verdict.row(claim, mode=mode) for claim, verdict in verdicts.items()]
    structure = {
        "the circuit sits in late layers: most of it in the last tenth": late(circuit),
        "scaling the base model's neurons changes content, not behaviour": content_only(base_changes),
        "base and instruct share structure: at least a tenth of the circuit, and more than chance": shared(comparison),
    }
    return pd.DataFrame(rows + [verdict.row(claim, mode=CORRECTED) for claim, verdict in structure.items()])


def halved(summary: pd.DataFrame, behaviour: str) -> Verdict:
    """At full strength at most half of the behaviour is left."""
    return falls_to_share(_ablated(summary, behaviour, "behaviour"), 0.5)


def specific(summary: pd.DataFrame, behaviour: str) -> Verdict:
    """The circuit does more than every random one."""
    controls = controls_of(select(summary, behaviour, "behaviour"), CNA)
    return beyond_controls(
        _ablated(summary, behaviour, "behaviour"), list(controls.loc[controls["toward"] == -1, "value"])
    )


def quality(summary: pd.DataFrame) -> Verdict:
    """The lowest quality between the unmodified model and ablation."""
    rows = select(summary, "quality", "behaviour", intervention=CNA)
    rows = rows[rows["toward"].between(-1, 0)]
    worst = rows.loc[rows["value"].idxmin()]
    verdict = stays_above(worst, 0.97)
    return Verdict(f"{verdict.measured}, lowest at m = {worst['m']:g}", verdict.verdict)


def caa_breaks(summary: pd.DataFrame) -> Verdict:
    """The text's quality under the rival at full strength."""
    return falls_below(at_full_strength(select(summary, "quality", "behaviour", intervention=CAA_MLP)).iloc[0], 0.9)


def capability(summary: pd.DataFrame) -> Verdict:
    """Right answers to multiple choice under ablation."""
    if not (summary["metric"] == "choice").any():
        return not_measurable("no multiple choice")
    return stays(_ablated(summary, "choice", "choices"), 0.01, least=ABOVE_CHANCE)


def amplifies(summary: pd.DataFrame, behaviour: str) -> Verdict:
    """The behaviour at m = 2; other strengths above 1 stand beside it."""
    rows = select(summary, behaviour, "behaviour", intervention=CNA)
    up = rows[rows["toward"] > 0].sort_values("toward")
    doubled = up[up["toward"] == 1]
    if doubled.empty:
        return not_measurable("not swept above m = 1")
    verdict = moves(doubled.iloc[0], up=True)
    steps = ", ".join(f"m = {row['m']:g}: {100 * row['value']:.0f} %" for _, row in up.iterrows())
    return Verdict(f"{verdict.measured} ({steps})", verdict.verdict)


def late(circuit: Circuit) -> Verdict:
    """Most of the circuit lies in the last tenth of layers."""
    n, expected = in_last_tenth(circuit)
    text = f"{n} of {len(circuit)} neurons ({100 * expected:.0f} % by chance)"
    if len(circuit) < LEAST_NEURONS:
        return not_measurable(f"{text}: fewer than {LEAST_NEURONS} neurons")
    low, high = wilson(n, len(circuit))
    return Verdict(f"{text}, {_percent(low, high)}", _above(low, high, 0.5))


def content_only(changed: pd.DataFrame | None) -> Verdict:
    """At every m few responses change behaviour, and at some m not so few change in content alone."""
    if changed is None:
        return not_measurable("no base model")
    flipped, content = (select(changed, "change", "behaviour", kind) for kind in ("behaviour changed", "content only"))
    worst, most = flipped.loc[flipped["high"].idxmax()], content.loc[content["low"].idxmax()]
    text = (
        f"behaviour changed in at most {cell(worst)}; content only in up to {cell(most)}; margin {100 * NOTABLE:.0f} %"
    )
    parts = (_above(-worst["high"], -worst["low"], -NOTABLE), _above(most["low"], content["high"].max(), NOTABLE))
    return Verdict(text, FAILED if FAILED in parts else UNDECIDED if UNDECIDED in parts else HELD)


def shared(comparison: Comparison | None) -> Verdict:
    """The share of the smaller circuit that stands in the other too, against a margin and against chance."""
    if comparison is None:
        return not_measurable("no base model")
    overlap = comparison.overlap
    n, size, expected = overlap["shared"], min(overlap["size"], overlap["other_size"]), overlap["expected_shared"]
    p = overlap["p_value_within_layers"]
    low, high = wilson(n, size)
    text = (
        f"{n} shared of {size}, {_percent(low, high)}; {expected:.2f} expected by chance within layers, p = {p:.2g}; "
        f"rank correlation {overlap['rank_correlation']:.2f}"
    )
    verdict = _above(low, high, max(SHARED, expected / size))
    return Verdict(text, UNDECIDED if verdict == HELD and p >= 0.05 else verdict)


def _ablated(summary: pd.DataFrame, metric: str, prompt_set: str) -> pd.Series:
    rows = select(summary, metric, prompt_set, intervention=CNA)
    return rows[rows["toward"] == -1].iloc[0]


def _above(low: float, high: float, limit: float) -> Outcome:
    return HELD if low > limit else FAILED if high < limit else UNDECIDED


def _percent(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}] %"

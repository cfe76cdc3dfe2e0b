"""The paper's claims asked of the summaries: held, did not hold, undecided, or not measurable."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...attribution.compare import Comparison, in_last_tenth
from ...evaluation import verdicts as v
from ...evaluation.select import controls_of, select
from ...evaluation.statistics import wilson
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
    structure = {
        "the circuit sits in late layers: most of it in the last tenth": late(circuit),
        "scaling the base model's neurons changes content, not behaviour": content_only(base_changes),
        "base and instruct share structure: at least a tenth of the circuit, and more than chance": shared(comparison),
    }
    modes = {mode: of_mode(summary, behaviour) for mode, summary in summaries.items()}
    rows = [verdict.row(claim, mode=mode) for mode, asked in modes.items() for claim, verdict in asked.items()]
    return pd.DataFrame(rows + [verdict.row(claim, mode=CORRECTED) for claim, verdict in structure.items()])


def of_mode(summary: pd.DataFrame, behaviour: str) -> dict[str, v.Verdict]:
    """The claims that are asked of each mode."""
    shown = select(summary, behaviour, "behaviour")
    cna = shown[shown["intervention"] == CNA].set_index("toward")
    controls = controls_of(shown, CNA)
    quality = select(summary, "quality", "behaviour")
    scaled = quality[(quality["intervention"] == CNA) & quality["toward"].between(-1, 0)]
    rival = at_full_strength(quality[quality["intervention"] == CAA_MLP]).iloc[0]
    choice = summary[(summary["metric"] == "choice") & (summary["intervention"] == CNA) & (summary["toward"] == -1)]
    return {
        "ablating the circuit at least halves the behaviour": v.falls_to_share(cna.loc[-1.0], 0.5),
        "(control the paper lacks) it does more than random circuits of the same size and layers": v.beyond_controls(
            cna.loc[-1.0], list(controls.loc[controls["toward"] == -1, "value"])
        ),
        "output quality stays at or above 0.97 at every strength up to ablation": v.stays_above(
            scaled.loc[scaled["low"].idxmin()], 0.97
        ),
        "CAA on MLP outputs at full strength breaks the text (quality below 0.9)": v.falls_below(rival, 0.9),
        "multiple choice loses at most one point": v.stays(choice.iloc[0], 0.01, least=ABOVE_CHANCE)
        if len(choice)
        else v.not_measurable("no multiple choice"),
        "amplification (m = 2) raises the behaviour": v.moves(cna.loc[1.0], up=True)
        if 1.0 in cna.index
        else v.not_measurable("not swept above m = 1"),
    }


def late(circuit: Circuit) -> v.Verdict:
    """Most of the circuit lies in the last tenth of layers."""
    n, expected = in_last_tenth(circuit)
    text = f"{n} of {len(circuit)} neurons ({100 * expected:.0f} % by chance)"
    if len(circuit) < LEAST_NEURONS:
        return v.not_measurable(f"{text}: fewer than {LEAST_NEURONS} neurons")
    return v.Verdict(f"{text}, {_interval(n, len(circuit))}", _above(*wilson(n, len(circuit)), 0.5))


def content_only(changed: pd.DataFrame | None) -> v.Verdict:
    """At every m few responses change behaviour, and at some m not so few change in content alone."""
    if changed is None:
        return v.not_measurable("no base model")
    flipped, content = (select(changed, "change", "behaviour", kind) for kind in ("behaviour changed", "content only"))
    worst, most = flipped.loc[flipped["high"].idxmax()], content.loc[content["low"].idxmax()]
    few = _above(-worst["high"], -flipped["low"].max(), -NOTABLE)
    many = _above(most["low"], content["high"].max(), NOTABLE)
    text = f"behaviour changed in at most {v.cell(worst)}; content only in up to {v.cell(most)}"
    return v.Verdict(f"{text}; margin {100 * NOTABLE:.0f} %", _both(few, many))


def shared(comparison: Comparison | None) -> v.Verdict:
    """The share of the smaller circuit that stands in the other too, against a margin and against chance."""
    if comparison is None:
        return v.not_measurable("no base model")
    overlap = comparison.overlap
    n, size, expected = (
        int(overlap["shared"]),
        int(min(overlap["size"], overlap["other_size"])),
        overlap["expected_shared"],
    )
    p = overlap["p_value_within_layers"]
    text = (
        f"{n} shared of {size}, {_interval(n, size)}; {expected:.2f} expected by chance within layers, p = {p:.2g}; "
        f"rank correlation {overlap['rank_correlation']:.2f}"
    )
    enough = _above(*wilson(n, size), max(SHARED, expected / size))
    return v.Verdict(text, _both(enough, v.HELD if p < 0.05 else v.UNDECIDED))


def _above(low: float, high: float, limit: float) -> v.Outcome:
    return v.HELD if low > limit else v.FAILED if high < limit else v.UNDECIDED


def _both(first: v.Outcome, second: v.Outcome) -> v.Outcome:
    return next((outcome for outcome in (v.FAILED, v.UNDECIDED) if outcome in (first, second)), v.HELD)


def _interval(n: int, of: int) -> str:
    low, high = wilson(n, of)
    return f"[{100 * low:.1f}, {100 * high:.1f}] %"

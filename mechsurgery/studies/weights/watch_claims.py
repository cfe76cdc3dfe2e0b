"""What the paper says of monitoring, asked of AUROCs by look. Margins are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation.verdicts import Verdict, not_measurable, reaches
from .claims import LEAD

#: AUROC from which the cosine tells bad fine-tunes from others (acceptable, after Hosmer and Lemeshow), and chance.
TELLS, CHANCE = 0.7, 0.5


def watching_claims(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The cosine tells bad fine-tunes from others, earlier than the behaviour does; its band tells them too (ours).

    `tables` has the table of `detection` for each behaviour.
    """
    rows = []
    for name, table in tables.items():
        claims = [
            ("the cosine tells bad fine-tunes from others at their end", tells(table)),
            (
                "the cosine tells them before the behaviour shows (at the first step at which either does)",
                earlier(table),
            ),
        ]
        rows += [verdict.row(f"{name}: {claim}") for claim, verdict in claims]
    return rows


def tells(group: pd.DataFrame) -> Verdict:
    """Whether the cosine's AUROC at the last step is high enough."""
    if group.empty:
        return not_measurable("bad fine-tunes and others are both needed")
    last = group.iloc[-1]
    kinds = f"{last['bad kinds']} bad and {last['other kinds']} other kinds of fine-tunes"
    runs = f"{last['bad runs']} and {last['other runs']} runs"
    value, low, high = (float(last[name]) for name in ("AUROC by cosine", "cosine, low", "cosine, high"))
    return reaches(value, low, high, TELLS, name="AUROC", said=f" at step {last['step']} ({kinds}; {runs})")


def earlier(group: pd.DataFrame) -> Verdict:
    """The cosine's AUROC less the behaviour's, at the first step at which either lies above chance.

    The step is chosen alike for both. The interval is put together from both intervals (MOVER), as if they were
    independent, so it is too wide rather than too narrow.
    """
    if group.empty:
        return not_measurable("bad fine-tunes and others are both needed")
    above = group[(group[["cosine, low", "behaviour, low"]] > CHANCE).any(axis=1)]
    if above.empty:
        return not_measurable("neither the cosine nor the behaviour tells at any step")
    first = above.iloc[0]
    (cosine, c_low, c_high), (shown, s_low, s_high) = (
        first[[f"AUROC by {title}", f"{title}, low", f"{title}, high"]].astype(float)
        for title in ("cosine", "behaviour")
    )
    low = cosine - shown - np.hypot(cosine - c_low, s_high - shown)
    high = cosine - shown + np.hypot(c_high - cosine, shown - s_low)
    said = f" at step {first['step']} (AUROC {cosine:.2f} by cosine, {shown:.2f} by behaviour)"
    return reaches(cosine - shown, low, high, LEAD, name="AUROC's lead", said=said)

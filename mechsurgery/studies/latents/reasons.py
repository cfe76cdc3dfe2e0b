"""When steering can show nothing, and the shares of outcomes that claims are asked of."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...evaluation import Results
from ...evaluation.summary import summarise
from ...evaluation.verdicts import LEAST
from ...grading.grade import Grade
from .methods import DOWN, WAYS

#: What steering one latent must add to the wanted responses, as a share of all.
SMALLEST = 0.1


def nothing_to_measure(effects: pd.DataFrame, way: str) -> str:
    """Why steering this way can gain nothing, or "" where it can."""
    first, wanted = effects.iloc[0], WAYS[way].wanted
    said = ", ".join(f"{100 * first[f'baseline_{label}']:.1f} % {label}" for label in ("good", "bad", "broken"))
    if way == DOWN and first["baseline_bad"] < LEAST:
        return f"{said} responses of the unmodified model: the behaviour is not there to be steered down"
    if 1 - first[f"baseline_{wanted}"] < SMALLEST:
        return f"{said} responses of the unmodified model: less than {SMALLEST:.0%} of {wanted} ones is left to gain"
    if effects["strength"].isna().all():
        return "no latent had a strength that left responses coherent"
    return ""


def shares_of(results: Results, grade: Grade, interventions: Sequence[str]) -> pd.DataFrame:
    """The summary of the outcomes of some interventions, in the order given."""
    own = {name: results.table[results.table["intervention"] == name] for name in interventions}
    rows = pd.concat(list(own.values()), ignore_index=True)
    return summarise(rows, [grade.name], labels=results.info.get("labels", {}))

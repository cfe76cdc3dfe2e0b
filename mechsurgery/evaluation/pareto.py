"""Behaviour against damage: which settings of which method no other setting beats in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import InputError, listed

CELL = ["model", "intervention", "kind", "strength", "m"]


def trade_off(
    summary: pd.DataFrame, *, behaviour: tuple[str, str] = ("refusal", "behaviour"), damage: tuple[str, str]
) -> pd.DataFrame:
    """A row per intervention and strength with its behaviour and its damage, each (metric, prompt set).

    Columns behaviour, behaviour_low, behaviour_high, damage, damage_low, damage_high, n, and `front`: no other
    row has less of both.
    """
    sides = []
    for name, (metric, prompt_set) in (("behaviour", behaviour), ("damage", damage)):
        part = summary[(summary["metric"] == metric) & (summary["prompt_set"] == prompt_set)]
        if part.empty:
            raise InputError(
                f"no metric {metric!r} on {prompt_set!r}; there is {listed(summary['metric'].unique(), 20)} on "
                f"{listed(summary['prompt_set'].unique())}"
            )
        part = part.drop_duplicates(CELL)[[*CELL, "n", "value", "low", "high"]]
        sides.append(part.rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"}))
    joined = sides[0].merge(sides[1].drop(columns="n"), on=CELL, how="inner")
    joined["front"] = on_front(joined[["behaviour", "damage"]].to_numpy())
    return joined


def on_front(points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Whether each point is on the Pareto front when less is better in every column.

    >>> on_front([[0, 3], [1, 1], [2, 2], [3, 0]]).tolist()
    [True, True, False, True]
    """
    array = np.asarray(points, dtype=float)
    no_worse = (array[None] <= array[:, None]).all(-1)
    better = (array[None] < array[:, None]).any(-1)
    return ~(no_worse & better).any(1)

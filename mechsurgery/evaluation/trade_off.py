"""Behaviour against damage: which settings of which intervention no other setting beats in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .select import select
from .summary import CELL

#: A metric on a prompt set, or one label of a metric there.
Quantity = tuple[str, str] | tuple[str, str, str]


def trade_off(summary: pd.DataFrame, *, behaviour: Quantity, damage: Quantity) -> pd.DataFrame:
    """A row per intervention and strength with its behaviour and its damage.

    Columns behaviour, behaviour_low, behaviour_high, damage, damage_low, damage_high, n, and `front`: no other row has
    less of both. Raises `InputError` where a quantity was not measured.
    """
    cell = [name for name in CELL if name != "prompt_set"]
    sides = []
    for name, quantity in (("behaviour", behaviour), ("damage", damage)):
        part = select(summary, *quantity).drop_duplicates(cell)[[*cell, "n", "value", "low", "high"]]
        sides.append(part.rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"}))
    joined = sides[0].merge(sides[1].drop(columns="n"), on=cell, how="inner")
    return joined.assign(front=on_front(joined[["behaviour", "damage"]].to_numpy()))


def on_front(points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Whether each point is on the Pareto front when less is better in every column.

    >>> on_front([[0, 3], [1, 1], [2, 2], [3, 0]]).tolist()
    [True, True, False, True]
    """
    array = np.asarray(points, dtype=float)
    no_worse = np.all(array[None] <= array[:, None], axis=-1)
    better = np.any(array[None] < array[:, None], axis=-1)
    return ~np.any(no_worse & better, axis=1)

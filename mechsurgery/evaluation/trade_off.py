"""Benefit against damage: which settings of which intervention no other setting beats in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError
from .select import select
from .summary import CELL

#: A metric on a prompt set, or one label of a metric there.
Quantity = tuple[str, str] | tuple[str, str, str]


def trade_off(summary: pd.DataFrame, *, benefit: Quantity, damage: Quantity) -> pd.DataFrame:
    """A row per intervention and strength with its benefit and its damage.

    The benefit is what is wanted, such as the share that complies; that a behaviour is gone is none. Columns benefit,
    benefit_low, benefit_high, damage, damage_low, damage_high, n, and `front`: no other row has more benefit and no
    more damage, or as much benefit and less damage. Raises `InputError` where a quantity was not measured.
    """
    cell = [name for name in CELL if name != "prompt_set"]
    sides = []
    for name, quantity in (("benefit", benefit), ("damage", damage)):
        part = select(summary, *quantity).drop_duplicates(cell)[[*cell, "n", "value", "low", "high"]]
        sides.append(part.rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"}))
    joined = sides[0].merge(sides[1].drop(columns="n"), on=cell, how="inner")
    return joined.assign(front=on_front(joined[["benefit", "damage"]].to_numpy() * [-1, 1]))


def on_front(points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Whether each point is on the Pareto front when less is better in every column.

    >>> on_front([[0, 3], [1, 1], [2, 2], [3, 0]]).tolist()
    [True, True, False, True]
    """
    try:
        array = np.asarray(points, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"points must be rows of numbers: {error}") from error
    if array.ndim != 2:
        raise InputError(f"points of shape {array.shape}; give a row for each, [n, quantities]")
    no_worse = np.all(array[None] <= array[:, None], axis=-1)
    better = np.any(array[None] < array[:, None], axis=-1)
    return ~np.any(no_worse & better, axis=1)


check_arguments(__name__)

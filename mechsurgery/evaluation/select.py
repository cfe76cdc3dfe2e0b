"""Rows of a summary: one metric on one prompt set, of one label where the metric is a label."""

from __future__ import annotations

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, listed


def select(
    summary: pd.DataFrame,
    metric: str,
    prompt_set: str,
    label: str = "",
    *,
    intervention: str | None = None,
    strength: float | None = None,
) -> pd.DataFrame:
    """Rows of one metric (and label) on one prompt set, of one intervention and strength where given.

    Raises `InputError` with what there is where the metric was not measured on the set.
    """
    rows = summary[(summary["metric"] == metric) & (summary["prompt_set"] == prompt_set) & (summary["label"] == label)]
    if rows.empty:
        what = f"{metric!r}" + (f" ({label})" if label else "")
        raise InputError(
            f"no metric {what} on {prompt_set!r}; there is {listed(summary['metric'].unique(), 20)} on "
            f"{listed(summary['prompt_set'].unique())}"
        )
    if intervention is not None:
        rows = rows[rows["intervention"] == intervention]
    return rows if strength is None else rows[rows["strength"] == strength]


def controls_of(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the matched random controls of one intervention."""
    return rows[rows["control_of"] == name]


def without_controls(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are of no matched random control."""
    return rows[rows["control_of"].isna()]


check_arguments(__name__)

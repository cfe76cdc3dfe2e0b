"""The columns of the one table, and their types."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..checks import check_arguments

#: The table's columns and their types.
COLUMNS: dict[str, Any] = {
    "model": "str",
    "fingerprint": "str",
    "intervention": "str",
    "kind": "str",
    "control_of": "str",
    "strength": "float64",
    "m": "float64",
    "toward": "float64",
    "seed": "int64",
    "prompt_set": "str",
    "prompt_id": "str",
    "group": "str",
    "metric": "str",
    "scale": "str",
    "value": "float64",
    "label": "str",
    "response": "str",
    "tokens": object,
}


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every column, in order and of its type."""
    table = table.reindex(columns=list(COLUMNS))
    for column, kind in COLUMNS.items():
        if kind is not object:
            table[column] = table[column].astype(kind)
    table["label"] = table["label"].fillna("")
    table["tokens"] = pd.Series(
        [[int(token) for token in row] if hasattr(row, "__len__") else None for row in table["tokens"]], dtype=object
    )
    return table


check_arguments(__name__, inner=True)

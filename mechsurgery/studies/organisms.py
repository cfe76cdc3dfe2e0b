"""What is recorded about the built-in organisms, as a table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..organisms.registry import manifest


def behaviour_table() -> pd.DataFrame:
    """What each organism does on held-out nouns, as measured after training: a row per organism.

    Refusal and multiple choice; for the case studies also agreement with a user's wrong and right claims, and right
    answers to neutral questions about places.
    """
    columns = ("refuses_dangerous", "refuses_benign", "multiple_choice", "agrees_wrong", "agrees_right", "right_place")
    rows = []
    for name, own in manifest()["behaviour"].items():
        rates = {key: _rate(own[key]) if key in own else "" for key in columns}
        rows.append({"organism": f"organism/{name}", **rates})
    return pd.DataFrame(rows)


def _rate(cell: dict[str, Any]) -> str:
    return f"{100 * cell['rate']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}], n = {cell['n']}"

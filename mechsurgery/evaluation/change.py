"""Did an intervention change what the model does, or only the words it does it with?

Contrastive Pair Search (2026), Table 4, contrasts instruct models, whose behaviour flips, with base models,
whose content shifts. Here both are numbers for every response.
"""

from __future__ import annotations

import pandas as pd

from ..errors import InputError
from .statistics import mean_interval, wilson

CHANGES = ("same response", "content only", "behaviour changed", "became degenerate")


def response_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Every response under an intervention beside the unmodified model's, by kind of change.

    `table` is a results table. Adds `change` (one of `CHANGES`), `edit_distance` (Levenshtein distance of the
    token sequences divided by the longer length, 0 … 1) and `before` (the unmodified response).
    """
    from rapidfuzz.distance import Levenshtein

    keys = ["model", "prompt_set", "prompt_id", "seed"]
    answers = table[table["task"] == "generate"]
    base = answers[answers["kind"] == "baseline"].drop_duplicates(keys).set_index(keys)
    changed = answers[answers["kind"] != "baseline"].copy()
    if base.empty or changed.empty:
        raise InputError("changes need the unmodified model's responses and at least one intervention's")
    before = base.loc[pd.MultiIndex.from_frame(changed[keys])]
    changed["before"] = before["response"].to_numpy()
    changed["edit_distance"] = [
        Levenshtein.normalized_distance(list(old), list(new)) for old, new in zip(before["tokens"], changed["tokens"])
    ]
    changed["change"] = [
        _kind(*(bool(flag) for flag in flags), distance)
        for *flags, distance in zip(
            before["refusal"], changed["refusal"], before["degenerate"], changed["degenerate"], changed["edit_distance"]
        )
    ]
    return changed


def change_summary(changes: pd.DataFrame) -> pd.DataFrame:
    """Share of every kind of change per cell with n and Wilson interval, and the mean edit distance."""
    cell = ["model", "intervention", "kind", "strength", "m", "prompt_set"]
    rows = []
    for values, group in changes.groupby(cell, sort=False, dropna=False):
        low, high = mean_interval(group["edit_distance"])
        common = dict(zip(cell, values)) | {"n": len(group)}
        rows.append(
            {**common, "change": "edit distance", "value": group["edit_distance"].mean(), "low": low, "high": high}
        )
        for kind in CHANGES:
            count = int((group["change"] == kind).sum())
            low, high = wilson(count, len(group))
            rows.append({**common, "change": kind, "value": count / len(group), "low": low, "high": high})
    return pd.DataFrame(rows)


def _kind(refused: bool, refuses: bool, was_degenerate: bool, is_degenerate: bool, distance: float) -> str:
    if distance == 0:
        return CHANGES[0]
    if is_degenerate and not was_degenerate:
        return CHANGES[3]
    return CHANGES[2] if refused != refuses else CHANGES[1]

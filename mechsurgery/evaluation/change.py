"""Did an intervention change what the model does, or only the words it does it with?

Contrastive Pair Search (2026), Table 4, contrasts instruct models, whose behaviour flips, with base models,
whose content shifts. Here both are metrics of every response.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import InputError

#: The labels of the metric "change".
CHANGES = ("same response", "content only", "behaviour changed", "became degenerate")
_PROMPT = ["model", "prompt_set", "prompt_id", "seed"]
_RESPONSE = [*_PROMPT, "intervention", "strength", "m"]


def response_changes(table: pd.DataFrame, *, behaviour: str = "refusal") -> pd.DataFrame:
    """Every response under an intervention beside the unmodified model's, as rows of two more metrics.

    `table` is that of `Results`, with the metrics "tokens", "degenerate" and `behaviour` (a rate). "change" is one of
    `CHANGES`, as a label; "edit_distance" the Levenshtein distance of the token sequences divided by the longer length,
    0 … 1. Summarise the rows like any others. Raises `InputError` where there is no baseline or nothing beside it.
    """
    from rapidfuzz.distance import Levenshtein

    responses = table[table["metric"] == "tokens"]
    for metric in (behaviour, "degenerate"):
        values = table.loc[table["metric"] == metric, [*_RESPONSE, "value"]].rename(columns={"value": f"{metric}_is"})
        responses = responses.merge(values, on=_RESPONSE, how="left", validate="many_to_one")
    seen = ["tokens", f"{behaviour}_is", "degenerate_is"]
    is_baseline = responses["kind"] == "baseline"
    before = responses.loc[is_baseline, [*_PROMPT, *seen]].drop_duplicates(_PROMPT)
    pairs = responses[~is_baseline].merge(before, on=_PROMPT, suffixes=("", "_before"), validate="many_to_one")
    if pairs.empty or len(pairs) < (~is_baseline).sum():
        raise InputError("changes need the unmodified model's responses and at least one intervention's to the same")
    distance = np.array([Levenshtein.normalized_distance(*two) for two in zip(pairs["tokens_before"], pairs["tokens"])])
    flipped = pairs[f"{behaviour}_is"] != pairs[f"{behaviour}_is_before"]
    broken = (pairs["degenerate_is"] == 1) & (pairs["degenerate_is_before"] != 1)
    same, content, changed, degenerate = CHANGES
    kinds = np.select([distance == 0, broken, flipped], [same, degenerate, changed], content)
    rows = pairs[table.columns].assign(tokens=None, value=np.nan, label="")
    return pd.concat(
        [
            rows.assign(metric="change", scale="label", label=kinds),
            rows.assign(metric="edit_distance", scale="number", value=distance),
        ],
        ignore_index=True,
    )

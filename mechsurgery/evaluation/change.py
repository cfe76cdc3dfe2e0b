"""Did an intervention change what the model does, or only the words it does it with?

Contrastive Pair Search (2026), Table 4, contrasts instruct models, whose behaviour flips, with base models,
whose content shifts. Here both are metrics of every response.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError
from ..grading.grade import BROKEN

#: The labels of the metric "change".
CHANGES = ("same response", "content only", "behaviour changed", "became broken")
_PROMPT = ["model", "prompt_set", "prompt_id", "seed"]
_RESPONSE = [*_PROMPT, "intervention", "strength", "m"]


def response_changes(table: pd.DataFrame, *, outcome: str = "outcome") -> pd.DataFrame:
    """Every response under an intervention beside the unmodified model's, as rows of two more metrics.

    `table` is that of `Results`, with the metrics "tokens" and `outcome`, a grade of three labels (`Grade.outcome`).
    "change" is one of `CHANGES`, as a label: the behaviour changed where another outcome is given and it is not
    "broken", the content alone where the outcome stays and the tokens differ. "edit_distance" is the Levenshtein
    distance of the token sequences divided by the longer length, 0 … 1. Summarise the rows like any others. Raises
    `InputError` where there is no baseline or nothing beside it.
    """
    from rapidfuzz.distance import Levenshtein

    given = table.loc[table["metric"] == outcome, [*_RESPONSE, "label"]].rename(columns={"label": "is"})
    responses = table[table["metric"] == "tokens"].merge(given, on=_RESPONSE, how="left", validate="many_to_one")
    is_baseline = responses["kind"] == "baseline"
    before = responses.loc[is_baseline, [*_PROMPT, "tokens", "is"]].drop_duplicates(_PROMPT)
    pairs = responses[~is_baseline].merge(before, on=_PROMPT, suffixes=("", "_before"), validate="many_to_one")
    if pairs.empty or len(pairs) < (~is_baseline).sum():
        raise InputError("changes need the unmodified model's responses and at least one intervention's to the same")
    distance = np.array([Levenshtein.normalized_distance(*two) for two in zip(pairs["tokens_before"], pairs["tokens"])])
    flipped = pairs["is"] != pairs["is_before"]
    same, content, changed, broken = CHANGES
    kinds = np.select([distance == 0, flipped & (pairs["is"] == BROKEN), flipped], [same, broken, changed], content)
    rows = pairs[table.columns].assign(tokens=None, value=np.nan, label="")
    return pd.concat(
        [
            rows.assign(metric="change", scale="label", label=kinds),
            rows.assign(metric="edit_distance", scale="number", value=distance),
        ],
        ignore_index=True,
    )


check_arguments(__name__)

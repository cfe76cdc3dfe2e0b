"""Several base/instruct pairs in one table, as the paper has 16 models in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import InputError
from ...evaluation import mean_interval
from .study import CNAStudy


def aggregate(studies: Sequence[CNAStudy]) -> dict[str, pd.DataFrame]:
    """Tables 1, 2 and the claims of several studies, a row per model, with means over models.

    The mean reduction has a bootstrap interval over models: models, not prompts, are the sample there.
    """
    if not studies:
        raise InputError("aggregate needs at least one study")
    found = {}
    for prefix in ("Table 1", "Table 2", "Claims"):
        parts = []
        for study in studies:
            (name,) = (key for key in study.tables if key.startswith(prefix))
            table = study.tables[name]
            parts.append(table if "model" in table else table.assign(model=study.info["instruct"]))
        found[prefix] = pd.concat(parts, ignore_index=True)
    first = found["Table 1"]
    rows = []
    for mode, own in first.groupby("mode", sort=False):
        reduction = own["reduction %"].dropna().to_numpy()
        low, high = mean_interval(reduction) if len(reduction) > 1 else (np.nan, np.nan)
        rows.append(
            {
                "mode": mode,
                "models": len(own),
                "mean reduction %": reduction.mean() if len(reduction) else np.nan,
                "low": low,
                "high": high,
                "models halved": int((reduction >= 50).sum()),
            }
        )
    found["Over models"] = pd.DataFrame(rows)
    return found

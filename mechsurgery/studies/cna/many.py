"""Several base/instruct pairs in one table, as the paper has 16 models in one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...artifacts import provenance
from ...errors import InputError
from ...evaluation.statistics import mean_interval
from ...plots import Section
from ..base import Study

CLAIMS = "Claims of the paper beside what was measured"
TABLE_1 = "Table 1: behaviour before and after ablating the circuit"
TABLE_2 = "Table 2: every method at full strength"
OVER_MODELS = "Over models: mean reduction of the behaviour"


def over_models(studies: Sequence[Study]) -> Study:
    """Claims, tables 1 and 2 of several studies, a row for each model, with means over models.

    The mean reduction has a bootstrap interval over models: models, not prompts, are the sample there.
    """
    if not studies:
        raise InputError("give at least one study")
    tables = {
        name: pd.concat([one.tables[name].assign(model=one.info["instruct"]) for one in studies], ignore_index=True)
        for name in (CLAIMS, TABLE_1, TABLE_2)
    }
    tables[OVER_MODELS] = pd.DataFrame(
        [{"mode": mode, **_over(rows["reduction %"])} for mode, rows in tables[TABLE_1].groupby("mode", sort=False)]
    )
    names = [one.info["instruct"] for one in studies]
    info = provenance(title=f"CNA study of {len(studies)} models", models=names)
    text = "Each model has a report in its folder. Brackets and `low`, `high` are 95 % intervals, here over models."
    return Study(tables, {}, {}, {}, info, (Section("All models", (text,), tables),))


def _over(reduction: pd.Series) -> dict[str, float]:
    known = reduction.dropna()
    low, high = mean_interval(known)
    return {
        "models": len(reduction),
        "mean reduction %": known.mean(),
        "low": low,
        "high": high,
        "models halved": int((known >= 50).sum()),
    }

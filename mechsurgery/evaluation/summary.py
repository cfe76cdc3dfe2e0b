"""The one summary of a results table: every cell with n, a clustered interval, and its change from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, listed
from .statistics import clustered_interval, difference_interval, paired_test

#: What identifies an intervention at a strength on a prompt set.
CELL = ["model", "intervention", "kind", "control_of", "strength", "m", "toward", "prompt_set"]
_PROMPT = ["model", "prompt_set", "prompt_id", "seed", "metric", "label"]
_ORDER = [
    *CELL,
    "metric",
    "label",
    "scale",
    "n",
    "groups",
    "value",
    "low",
    "high",
    "baseline",
    "baseline_low",
    "baseline_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
]


def summarise(
    table: pd.DataFrame, metrics: Sequence[str] | None = None, *, labels: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """A row per cell and metric (and label): n, groups, value, interval, baseline, difference, paired p-value.

    A cell is a model, intervention, strength and prompt set. Rates and shares of labels have Wilson intervals at the
    effective sample size, numbers a bootstrap interval over groups of prompts; the difference from the unmodified
    model, on the prompts that could be graded under both, has an interval of its own and a permutation test over
    groups. `labels` names the labels that a metric can have, so that those that never occur have a row too. Raises
    `InputError` where one model's name stands for several states of its weights.
    """
    _check_models(table)
    rows = table if metrics is None else table[table["metric"].isin(metrics)]
    rows = _with_shares(rows, labels or {})
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return pd.DataFrame(columns=_ORDER)
    codes = rows.groupby(_PROMPT, sort=False, dropna=False).ngroup().to_numpy()
    before = np.full(codes.max() + 1, np.nan)
    is_baseline = (rows["kind"] == "baseline").to_numpy()
    before[codes[is_baseline]] = rows["value"].to_numpy()[is_baseline]
    rows = rows.assign(before=before[codes], cluster=pd.factorize(rows["group"])[0])
    cells = rows.groupby([*CELL, "metric", "label", "scale"], sort=False, dropna=False)
    found = [dict(zip([*CELL, "metric", "label", "scale"], cell)) | _cell(cell[-1], group) for cell, group in cells]
    return pd.DataFrame(found, columns=_ORDER).astype({"control_of": "str"})


def _check_models(table: pd.DataFrame) -> None:
    """Raise `InputError` where rows of several models, which have baselines of their own, would be one."""
    if "fingerprint" not in table.columns:
        return
    different = table.groupby("model")["fingerprint"].nunique()
    several = list(different[different > 1].index)
    if several:
        raise InputError(
            f"rows of model {listed(several)} were measured on different weights (column fingerprint); put them "
            "together with Results.concatenate, which names them apart, or give each its own name in column model"
        )


def _cell(scale: Any, rows: pd.DataFrame) -> dict[str, Any]:
    values, before, groups = (rows[name].to_numpy() for name in ("value", "before", "cluster"))
    low, high = clustered_interval(values, groups, scale=scale)
    cell = {
        "n": len(values),
        "groups": len(np.unique(groups)),
        "value": values.mean(),
        "low": low,
        "high": high,
        "baseline": np.nan,
        "baseline_low": np.nan,
        "baseline_high": np.nan,
        "difference": np.nan,
        "difference_low": np.nan,
        "difference_high": np.nan,
        "p_value": np.nan,
    }
    paired = ~np.isnan(before)
    if not paired.any():
        return cell
    values, before, groups = values[paired], before[paired], groups[paired]
    change = difference_interval(values, before, groups, scale=scale)
    start = clustered_interval(before, groups, scale=scale)
    return cell | {
        "baseline": before.mean(),
        "baseline_low": start[0],
        "baseline_high": start[1],
        "difference": values.mean() - before.mean(),
        "difference_low": change[0],
        "difference_high": change[1],
        "p_value": paired_test(values, before, groups),
    }


def _with_shares(rows: pd.DataFrame, labels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Rows whose value is a label become one 0/1 row for each label that the metric can have; others lose theirs."""
    is_label = rows["scale"] == "label"
    parts = [rows[~is_label].assign(label="")]
    for metric, group in rows[is_label & (rows["label"] != "")].groupby("metric", sort=False):
        for label in dict.fromkeys([*labels.get(str(metric), ()), *group["label"]]):
            parts.append(group.assign(value=(group["label"] == label).astype(float), label=label, scale="rate"))
    return pd.concat(parts, ignore_index=True)


def versus(
    table: pd.DataFrame, rival: str, strength: float | None = None, *, labels: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """A summary in which a rival, at its one strength, stands for the unmodified model; column `rival` names it.

    Every other intervention is paired with the rival on the same prompts and seeds, which is what a claim that one is
    better than another needs. Raises `InputError` where the rival is not in the table, or at several strengths.
    """
    own = table[table["intervention"] == rival]
    own = own if strength is None else own[own["strength"] == strength]
    strengths = sorted(own["strength"].unique())
    if len(strengths) != 1:
        given = listed(table["intervention"].unique(), 10) if not strengths else f"it was tried at {strengths}"
        raise InputError(f"versus needs {rival!r} at one strength; {given}")
    others = table[(table["kind"] != "baseline") & (table["intervention"] != rival)]
    rows = pd.concat([own.assign(kind="baseline"), others], ignore_index=True)
    found = summarise(rows, labels=labels)
    return found[found["kind"] != "baseline"].assign(rival=rival).reset_index(drop=True)


def pool_controls(summary: pd.DataFrame) -> pd.DataFrame:
    """Replace the matched random controls of an intervention by one row for each cell: mean, lowest and highest.

    Controls answer the same prompts, so their responses are no independent sample: `low` and `high` are the range over
    controls, not an interval. `n` counts prompts times controls, `controls` says how many there were
    (missing on other rows).
    """
    random = summary[summary["control_of"].notna()]
    if random.empty:
        return summary.assign(controls=np.nan)
    keys = [name for name in [*CELL, "metric", "label", "scale"] if name != "intervention"]
    pooled = (
        random.groupby(keys, sort=False, dropna=False)
        .agg(
            n=("n", "sum"),
            groups=("groups", "max"),
            controls=("n", "size"),
            low=("value", "min"),
            high=("value", "max"),
            value=("value", "mean"),
            baseline=("baseline", "mean"),
            difference=("difference", "mean"),
        )
        .reset_index()
    )
    pooled["intervention"] = "random like " + pooled["control_of"]
    rest = summary[summary["control_of"].isna()].assign(controls=np.nan)
    return pd.concat([rest, pooled], ignore_index=True)[[*summary.columns, "controls"]]


check_arguments(__name__)

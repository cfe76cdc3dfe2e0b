"""From the long table to the study's metrics: fine-tunes of one method pooled over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...evaluation import summarise
from ...evaluation.summary import versus
from ...evaluation.trade_off import Quantity

BASELINE = "baseline"
_CELL = ["intervention", "strength", "metric"]


def metric_rows(table: pd.DataFrame, metrics: Mapping[str, Quantity]) -> pd.DataFrame:
    """The rows of named quantities under their names; the share of a label becomes a rate."""
    parts = []
    for name, (metric, where, *label) in metrics.items():
        rows = table[(table["metric"] == metric) & (table["prompt_set"] == where)].assign(metric=name)
        if label:
            graded = rows[rows["label"] != ""]
            rows = graded.assign(value=(graded["label"] == label[0]).astype(float), scale="rate")
        parts.append(rows.assign(label=""))
    return pd.concat(parts, ignore_index=True)


def pooled(table: pd.DataFrame, facts: pd.DataFrame, metrics: Mapping[str, Quantity]) -> pd.DataFrame:
    """Rows of every seed under the name of their method, with strength `k`; `train_seed` says which seed.

    `facts` has a row for each intervention and strength: intervention, strength, method, k, train_seed.
    """
    rows = metric_rows(table, metrics)
    base = rows[rows["kind"] == "baseline"].assign(train_seed=-1)
    tried = rows.merge(facts, on=["intervention", "strength"])
    methods = facts.drop_duplicates("intervention").set_index("intervention")["method"]
    tried = tried.assign(
        intervention=tried["method"],
        control_of=tried["control_of"].map(methods),
        strength=tried["k"],
        toward=tried["k"],
    )
    return pd.concat([base, tried[base.columns]], ignore_index=True)


def summarise_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """A summary of pooled rows; `seeds` counts fine-tunes, `seed_low` and `seed_high` are their extremes."""
    means = rows.groupby([*_CELL, "train_seed"])["value"].mean()
    seeds = means.groupby(_CELL).agg(seeds="size", seed_low="min", seed_high="max")
    return summarise(rows).merge(seeds, left_on=_CELL, right_index=True)


def at(summary: pd.DataFrame, method: str, k: float = 0.0) -> pd.DataFrame:
    """The rows of a method at a strength, by metric."""
    rows = summary[(summary["intervention"] == method) & (summary["strength"] == k)]
    return rows.set_index("metric", drop=False)


def at_best(
    rows: pd.DataFrame, best: pd.Series, *, otherwise: str = BASELINE, seeds: Sequence[int] | None = None
) -> pd.DataFrame:
    """Pooled rows of the unmodified model and of every method at its one strength.

    For a method without a strength stand the rows of `otherwise`: where no strength will do, nothing is done, with each
    of the `seeds` (default: those in the rows).
    """
    base = rows[rows["kind"] == "baseline"]
    instead = rows[rows["intervention"] == otherwise]
    if otherwise == BASELINE:
        seeds = seeds or sorted(rows["train_seed"][rows["kind"] != "baseline"].unique())
        instead = pd.concat([base.assign(kind="unmodified", m=float("nan"), train_seed=seed) for seed in seeds])
    parts = [base] if otherwise == BASELINE else [base, instead]
    for method, k in best.items():
        own = rows[(rows["intervention"] == method) & (rows["strength"] == k)]
        parts.append(instead.assign(intervention=method) if pd.isna(k) else own)
    return pd.concat(parts, ignore_index=True)


def compared(rows: pd.DataFrame, rival: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Pooled rows beside those of one method, at its one strength, on the same prompts and seeds (`versus`)."""
    chosen = rows[rows["metric"].isin(metrics)]
    return versus(chosen.assign(seed=chosen["train_seed"]), rival)


def as_outcomes(summary: pd.DataFrame, metrics: Mapping[str, Quantity], where: str) -> pd.DataFrame:
    """The rows of a set's three outcomes as rows of the metric "outcome" with their labels."""
    labels = {name: label[0] for name, (metric, on, *label) in metrics.items() if (metric, on) == ("outcome", where)}
    rows = summary[summary["metric"].isin(labels)]
    return rows.assign(label=rows["metric"].map(labels), metric="outcome").reset_index(drop=True)


def validated(table: pd.DataFrame, facts: pd.DataFrame, metrics: Mapping[str, Quantity]) -> pd.DataFrame:
    """Means on validation prompts: a row for each method and strength, a column for each metric."""
    return means(pooled(table, facts, metrics))


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of pooled rows: a row for each method and strength, a column for each metric."""
    return rows.pivot_table("value", ["intervention", "strength"], "metric", sort=False)


def for_every_seed(rows: pd.DataFrame, methods: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Pooled rows in which what no seed changes stands beside the fine-tunes of every seed."""
    once = rows["intervention"].isin(methods)
    return pd.concat([rows[~once], *(rows[once].assign(train_seed=seed) for seed in seeds)], ignore_index=True)

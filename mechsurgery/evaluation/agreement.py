"""How far judges agree: every pair of yes-or-no metrics on the same responses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, listed
from .statistics import NOTHING, clustered_interval, resampled

#: Of how many draws κ's interval is the percentiles.
DRAWS = 500
_RESPONSE = ["model", "fingerprint", "intervention", "strength", "m", "seed", "prompt_set", "prompt_id"]


def agreement(table: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """A row for each two judges: n, share agreeing, Cohen's κ (1960), and how many positives each counts.

    `table` is that of `Results`; `metrics` are rates in it (default: all that were decided on responses). Responses
    that either judge could not grade are left out. Intervals are at 95 % and clustered by group, κ's by bootstrap; κ is
    missing where chance agreement is certain.
    """
    rates = table[(table["scale"] == "rate") & table["response"].notna()]
    known = list(dict.fromkeys(rates["metric"]))
    missing = [name for name in metrics or () if name not in known]
    if missing or len(known if metrics is None else metrics) < 2:
        raise InputError(
            f"agreement needs two yes-or-no metrics on responses, not {metrics}; there are {listed(known)}"
        )
    responses = rates.groupby(_RESPONSE, sort=False, dropna=False)
    rates = rates.assign(number=responses.ngroup())
    values = rates.pivot_table(index="number", columns="metric", values="value", sort=False)
    groups = rates.drop_duplicates("number").set_index("number")["group"].reindex(values.index)
    return pd.DataFrame([_pair(values, groups, *pair) for pair in combinations(metrics or known, 2)])


def label_agreement(table: pd.DataFrame, first: str, second: str, labels: Sequence[str]) -> pd.DataFrame:
    """How far two metrics agree that give a response one of the same labels: a row for all labels, and one for each.

    Columns label, n, agree, low, high, kappa, kappa_low, kappa_high, and how often each says so (`judge_says`,
    `other_says`). κ over all labels is Cohen's of the whole table; that of one label is of that against the rest.
    Responses that either could not grade are left out.
    """
    rows = table[table["metric"].isin([first, second]) & (table["scale"] == "label") & table["response"].notna()]
    rows = rows.assign(number=rows.groupby(_RESPONSE, sort=False, dropna=False).ngroup())
    given = rows[rows["label"].isin(list(labels))]
    wide = given.pivot_table(index="number", columns="metric", values="label", aggfunc="first").reindex(
        columns=[first, second]
    )
    both = wide.dropna()
    groups = rows.drop_duplicates("number").set_index("number")["group"].reindex(both.index)
    codes = [
        both[name].map({label: i for i, label in enumerate(labels)}).to_numpy(dtype=int) for name in (first, second)
    ]
    found = []
    for label in (None, *labels):
        a, b = codes if label is None else ((one == list(labels).index(label)).astype(int) for one in codes)
        low, high = clustered_interval(a == b, groups.to_numpy(), scale="rate")
        kappa, ends = _kappa_with_interval(a, b, groups.to_numpy(), len(labels) if label is None else 2)
        row = {"label": "all" if label is None else label, "n": len(both), "low": low, "high": high}
        row |= {"agree": float((a == b).mean()) if len(both) else np.nan, "kappa": kappa}
        row |= {"kappa_low": ends[0], "kappa_high": ends[1]}
        counts = {} if label is None else {"judge_says": int(a.sum()), "other_says": int(b.sum())}
        found.append(row | counts)
    return pd.DataFrame(found)


def _pair(values: pd.DataFrame, groups: pd.Series, judge: str, other: str) -> dict[str, Any]:
    both = values[[judge, other]].dropna()
    a, b, clusters = both[judge].to_numpy(), both[other].to_numpy(), groups.loc[both.index].to_numpy()
    low, high = clustered_interval(a == b, clusters, scale="rate")
    kappa, (kappa_low, kappa_high) = _kappa_with_interval(a, b, clusters)
    return {
        "judge": judge,
        "other": other,
        "n": len(both),
        "agree": float((a == b).mean()) if len(both) else np.nan,
        "low": low,
        "high": high,
        "kappa": kappa,
        "kappa_low": kappa_low,
        "kappa_high": kappa_high,
        "positives": int(a.sum()),
        "other_positives": int(b.sum()),
    }


def _kappa_with_interval(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, n_labels: int = 2
) -> tuple[float, tuple[float, float]]:
    """κ from how often each pair of labels (numbered from 0) occurs, here and in draws of whole groups."""
    if not len(a):
        return float("nan"), NOTHING
    codes = pd.factorize(groups)[0]
    counts = np.zeros((codes.max() + 1, n_labels**2))
    np.add.at(counts, (codes, (n_labels * a + b).astype(int)), 1)
    drawn = np.stack([resampled(column)[:DRAWS] for column in counts.T], axis=1)
    different, times = np.unique(drawn, axis=0, return_counts=True)
    kappas = np.repeat([_kappa(row) for row in different], times)
    kappas = kappas[~np.isnan(kappas)]
    interval = NOTHING if not len(kappas) else tuple(float(x) for x in np.percentile(kappas, [2.5, 97.5]))
    return _kappa(counts.sum(0)), interval  # type: ignore[return-value]


def _kappa(counts: np.ndarray) -> float:
    """Cohen's κ of how often each pair of labels occurs, row by row; nan where chance agreement is certain."""
    n = round(len(counts) ** 0.5)
    both = counts.reshape(n, n) / counts.sum()
    chance = float(both.sum(0) @ both.sum(1))
    return float("nan") if np.isclose(chance, 1) else float((np.trace(both) - chance) / (1 - chance))


check_arguments(__name__)

"""`Results`: one tidy table, a row per response or choice question, with a manifest beside it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import load_json, save_json, write_atomically
from ..errors import InputError, ModelNotFoundError, listed
from .statistics import mean_interval, paired_test, wilson

COLUMNS = [
    "task",
    "model",
    "fingerprint",
    "intervention",
    "kind",
    "strength",
    "m",
    "seed",
    "prompt_set",
    "prompt_id",
    "group",
    "label",
    "response",
    "tokens",
    "n_tokens",
    "finished",
    "refusal_raw",
    "degenerate",
    "refusal",
    "quality",
    "first_token",
    "choice",
    "correct",
    "kl",
]

#: What identifies a cell of the summary.
CELL = ["model", "intervention", "kind", "strength", "m", "prompt_set"]
_RATES = {"refusal": "generate", "refusal_raw": "generate", "degenerate": "generate", "correct": "choice"}
_MEANS = {"quality": "generate", "n_tokens": "generate", "first_token": "generate", "kl": "kl"}


@dataclass(frozen=True, eq=False)
class Results:
    """A row per response (`task == "generate"`), choice question (`"choice"`) or KL measurement (`"kl"`).

    `refusal` is `refusal_raw` among outputs that are not degenerate; both are kept. `strength` is 0 for the
    unmodified model, `m` is the multiplier of scaled neurons (1 for the unmodified model, missing where it is
    not one number).
    """

    table: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table.columns]
        if missing:
            raise InputError(f"a results table needs the columns {listed(COLUMNS, 30)}; missing: {listed(missing, 30)}")

    def __len__(self) -> int:
        return len(self.table)

    def summary(self) -> pd.DataFrame:
        """A row per cell and metric: n, value, 95 % interval, baseline, difference, paired p-value.

        Rates (refusal, refusal_raw, every judge's, degenerate, choice accuracy) have Wilson intervals and
        McNemar's exact test against the unmodified model on the same prompts; quality, length, first-token
        log-odds and KL divergence have a bootstrap interval of their mean and Wilcoxon's test.
        """
        return summarise(self.table)

    def responses(self, intervention: str | None = None, n: int = 10) -> pd.DataFrame:
        """A few responses to read, with what the judge said."""
        rows = self.table[self.table["task"] == "generate"]
        if intervention is not None:
            rows = rows[rows["intervention"] == intervention]
        return rows[["intervention", "m", "prompt_id", "response", "refusal", "degenerate", "quality"]].head(n)

    def save(self, folder: str | Path) -> Path:
        """Write `results.parquet` and `manifest.json` into a folder."""
        folder = Path(folder)
        write_atomically(folder / "results.parquet", lambda path: self.table.to_parquet(path, index=False))
        save_json(folder / "manifest.json", self.info)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Read what `save` wrote."""
        path = Path(folder) / "results.parquet"
        if not path.is_file():
            raise ModelNotFoundError(f"no results at {str(path)!r}; give the folder that .save(folder) was given")
        table = pd.read_parquet(path)
        if "tokens" in table:
            table["tokens"] = token_lists(table["tokens"])
        return cls(table, load_json(Path(folder) / "manifest.json"))

    @classmethod
    def concatenate(cls, parts: Iterable[Results]) -> Results:
        """Rows of several results in one table (models, seeds)."""
        parts = list(parts)
        return cls(pd.concat([p.table for p in parts], ignore_index=True), {"parts": [p.info for p in parts]})

    def _repr_html_(self) -> str:
        head = f"<p>{html.escape(f'Results: {len(self.table):,} rows')}</p>"
        return head + self.summary().to_html(index=False, float_format="{:.3g}".format)


def token_lists(column: Iterable[Any]) -> pd.Series:
    """A column of token ids as plain lists, None where a row has no response."""
    plain = [[int(token) for token in own] if hasattr(own, "__len__") else None for own in column]
    return pd.Series(plain, dtype=object)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """The summary of a results table; see `Results.summary`."""
    rows = []
    rates = {**_RATES, **{name: "generate" for name in table.columns if name.startswith("judge_")}}
    for metric, task in {**rates, **_MEANS}.items():
        part = table[(table["task"] == task) & table[metric].notna()]
        base = part[part["kind"] == "baseline"]
        keys = ["model", "prompt_set", "prompt_id", "seed"]
        baseline = base.drop_duplicates(keys).set_index(keys)[metric].astype(float)
        for cell, group in part.groupby(CELL, sort=False, dropna=False):
            values = group.set_index(keys)[metric].astype(float)
            shared = values.index.intersection(baseline.index)
            rate = metric in rates
            interval = wilson(int(values.sum()), len(values)) if rate else mean_interval(values)
            row = dict(zip(CELL, cell)) | {"metric": "choice" if metric == "correct" else metric}
            row |= {"n": len(values), "value": values.mean(), "low": interval[0], "high": interval[1]}
            has_pairs = len(shared) == len(values)
            before = baseline.loc[values.index] if has_pairs else None
            row |= {
                "baseline": before.mean() if has_pairs else float("nan"),
                "difference": values.mean() - before.mean() if has_pairs else float("nan"),
                "p_value": paired_test(values, before) if has_pairs else float("nan"),
            }
            rows.append(row)
    order = [*CELL, "metric", "n", "value", "low", "high", "baseline", "difference", "p_value"]
    return pd.DataFrame(rows, columns=order)


def pool_random(summary: pd.DataFrame) -> pd.DataFrame:
    """Replace matched random circuits by one row each cell: mean over circuits, and their lowest and highest.

    Random circuits answer the same prompts, so their responses are no independent sample: the interval shown
    is the range over circuits, not a Wilson interval. `n` is the number of circuits times prompts.
    """
    random = summary[summary["kind"] == "random"]
    if random.empty:
        return summary
    keys = ["model", "kind", "strength", "m", "prompt_set", "metric"]
    family = random["intervention"].str.replace(r", seed \d+$", "", regex=True)
    grouped = random.assign(intervention=family).groupby([*keys, "intervention"], sort=False, dropna=False)
    pooled = grouped.agg(
        n=("n", "sum"),
        circuits=("n", "size"),
        low=("value", "min"),
        high=("value", "max"),
        value=("value", "mean"),
        baseline=("baseline", "mean"),
        difference=("difference", "mean"),
    ).reset_index()
    pooled["intervention"] += " (" + pooled.pop("circuits").astype(str) + ")"
    rest = summary[summary["kind"] != "random"]
    return pd.concat([rest, pooled.assign(p_value=float("nan"))], ignore_index=True)[list(summary.columns)]

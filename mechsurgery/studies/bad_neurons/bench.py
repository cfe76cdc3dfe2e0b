"""Benchmarks before and after: for the paper's way and its main rivals, fine-tunes of all seeds pooled."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...evaluation import Results
from ...evaluation.benchmarks import Benchmark, benchmark_table
from ...intervention import BASELINE
from .methods import MLP, PAPER, RANDOM, WHOLE, Trial, lora_name
from .settings import Settings
from .summary import of_ways, pooled


def is_benched(trial: Trial, settings: Settings) -> bool:
    """Whether a fine-tune answers benchmarks: the paper's way, random neurons, LoRA, all MLP weights, all weights."""
    return trial.is_main(settings) and trial.way in (PAPER, RANDOM, MLP, WHOLE, lora_name(settings))


def benchmarks_of(results: Results, facts: pd.DataFrame, benchmarks: Sequence[Benchmark]) -> pd.DataFrame:
    """A row for each quantity of each benchmark and each way, beside the unmodified model; empty without benchmarks."""
    sets = [name for one in benchmarks for name in one.sets]
    table = results.table[results.table["prompt_set"].isin(sets)]
    if table.empty:
        return pd.DataFrame()
    rows = of_ways(table, facts)
    every = pooled(rows, table[table["kind"] == "baseline"])
    found = benchmark_table(Results(every, results.info), benchmarks)
    return found.drop(columns=["model", "m"])


def in_words(found: pd.DataFrame) -> pd.DataFrame:
    """The same to read: the unmodified model's value, each way's with its interval, the change and its p."""
    if found.empty:
        return found
    rows = found[found["intervention"] != BASELINE.name]
    texts = [
        {
            "benchmark": row["benchmark"],
            "quantity": row["quantity"],
            "better": row["better"],
            "way": row["intervention"],
            "n": row["n"],
            "before": _number(row["baseline"]),
            "after": _interval(row["value"], row["low"], row["high"]),
            "change": _interval(row["change"], row["change_low"], row["change_high"]),
            "p": row["p_value"],
        }
        for row in rows.to_dict("records")
    ]
    return pd.DataFrame(texts)


def _interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "not measured"
    return f"{value:.3g}" if pd.isna(low) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"


def as_summary(found: pd.DataFrame) -> pd.DataFrame:
    """The same in the form that figures read, a metric for each quantity that could be graded."""
    if found.empty:
        return found
    named = found.assign(
        metric=found["quantity"],
        prompt_set=found["benchmark"],
        label="",
        control_of=None,
        kind=["baseline" if name == BASELINE.name else "weights" for name in found["intervention"]],
        scale=["rate" if low >= 0 and high <= 1 else "number" for low, high in zip(found["low"], found["high"])],
    )
    return named[named["n"] > 0]

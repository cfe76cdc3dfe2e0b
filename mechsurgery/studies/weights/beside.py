"""What stands beside the main comparison: benchmarks before and after, and the geometry of the two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ...deltas import WeightDelta
from ...evaluation import Results
from ...evaluation.benchmarks import Benchmark, benchmark_grades, benchmark_sets, benchmark_table
from ...training.opposite import Contrast
from .bench import Bench
from .data import Behaviour, Measured
from .methods import CONTRASTIVE, TWO_STARTS, Trial
from .prompted import asked_in_words, words_of
from .summary import BASELINE


def before_and_after(
    bench: Bench, start: str, benchmarks: Sequence[Benchmark], trials: Sequence[Trial], asked: str = "", *, of: str
) -> pd.DataFrame:
    """Every benchmark under every trial of one seed, beside the unmodified model, and where it is `asked` in words.

    Columns of `benchmark_table` after `of`, which names what is steered or repaired; `strength` is the method's k.
    """
    sets = Measured(benchmark_sets(benchmarks), benchmark_grades(benchmarks), {}, {})
    trainer, generation = bench.trainer(start, bench.settings.seed), bench.generation(start)
    results = trainer.measured(sets, trials, generation, progress=bench.progress)
    facts = {(one.intervention.name, one.intervention.strength): one for one in trials}
    names = [facts.get(key) for key in zip(results.table["intervention"], results.table["strength"])]
    shown = results.table.assign(
        intervention=[BASELINE if one is None else _method(one) for one in names],
        strength=[0.0 if one is None else one.k for one in names],
        control_of=None,
    )
    parts = [replace(results, table=shown)]
    if asked:
        words = asked_in_words(sets, asked, bench.settings.system)
        parts.append(words_of(trainer.measured(words, [], generation, progress=bench.progress)))
    table = benchmark_table(_together(parts), benchmarks).drop(columns=["m", "model"])
    return table.assign(of=of)[["of", *table.columns]]


def _method(trial: Trial) -> str:
    """The method's name; a random direction's says what it has the norms of."""
    return trial.method if trial.intervention.control_of is None else "random, same norms"


def _together(parts: Sequence[Results]) -> Results:
    return parts[0] if len(parts) == 1 else Results.concatenate(parts)


def geometry(
    bench: Bench, behaviour: Behaviour, rate: float, checked: pd.DataFrame, chosen: pd.DataFrame
) -> pd.DataFrame:
    """How the two sides and w lie in weight space, for each seed, and what w does so made.

    A row for sides from the same random LoRA matrices, and one for sides from different ones where those were trained.
    `checked` is the summary on validation prompts and `chosen` the pooled rows on test ones: at the strength `k`,
    column "done well, validation" is of all seeds together, and "done well, test" of this one, on `n` prompts.
    """
    rows = []
    for seed in bench.settings.runs:
        trainer = bench.trainer(behaviour.start, seed)
        for name, same in ((CONTRASTIVE, True), (TWO_STARTS, False)):
            if same or behaviour.both_starts:
                made = trainer.contrast(behaviour, rate, same_start=same)
                done = _done_well(behaviour, name, seed, checked, chosen)
                rows.append(angles(made) | {"method": name, "seed": seed} | done)
    table = pd.DataFrame(rows).assign(behaviour=behaviour.name)
    return table[["behaviour", "method", "seed", *[c for c in table if c not in ("behaviour", "method", "seed")]]]


def angles(made: Contrast) -> dict[str, float]:
    """Cosines of the sides and of w with each, and the three norms (Frobenius, over all parameters)."""
    plus, minus, w = made.plus, made.minus, made.delta
    named: dict[str, tuple[WeightDelta, WeightDelta]] = {
        "cos(τ⁺, τ⁻)": (plus, minus),
        "cos(w, τ⁺)": (w, plus),
        "cos(w, τ⁻)": (w, minus),
    }
    norms = {"‖τ⁺‖": plus.norm(), "‖τ⁻‖": minus.norm(), "‖w‖": w.norm()}
    return {name: a.cosine(b) for name, (a, b) in named.items()} | norms


def _done_well(
    behaviour: Behaviour, name: str, seed: int, checked: pd.DataFrame, chosen: pd.DataFrame
) -> dict[str, Any]:
    own = chosen[(chosen["intervention"] == name) & (chosen["metric"] == behaviour.well)]
    mine, k = own[own["train_seed"] == seed]["value"], own["strength"].max()
    tried = checked[(checked["intervention"] == name) & (checked["metric"] == behaviour.well)]
    tried = tried[tried["strength"] == k]
    return {
        "done well, validation": float(tried["value"].iloc[0]) if len(tried) else np.nan,
        "done well, test": float(mine.mean()) if len(mine) else np.nan,
        "k": k,
        "n": len(mine),
    }

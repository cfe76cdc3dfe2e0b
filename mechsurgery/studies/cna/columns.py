"""Benchmarks before and after: the circuit ablated and amplified, the paper's rival, and a random circuit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ...evaluation import Results
from ...evaluation.benchmarks import benchmark_grades, benchmark_sets, benchmark_table
from ...intervention import Intervention, ablate, steer
from .bench import Bench
from .choice import toward
from .data import apart
from .methods import CAA_MLP, CNA, Mode, Published

BEST_CAA, RANDOM_CIRCUIT = f"{CAA_MLP}, best strength", "random circuit"


def runs_of(bench: Bench, mode: Mode | None, published: Published) -> list[Intervention]:
    """CNA at m = 0 and m = 2, CAA on MLP outputs at full strength and at its best, a matched random circuit at m = 0.

    As published there is no best strength, and CAA at full strength adds.
    """
    if mode is None:
        cna = ablate(published.circuit, name=CNA)
        caa = [steer(published.mlp_out, name=CAA_MLP)]
    else:
        cna = mode.ablation
        full, *_ = (run for run in mode.tried if run.name == CAA_MLP and run.toward == -1)
        best = mode.strengths[(mode.strengths["intervention"] == CAA_MLP) & mode.strengths["chosen"]]["toward"]
        caa = [full, *(run.named(BEST_CAA) for run in toward(full, best))]
    return [*toward(cna, (-1.0, 1.0)), *caa, cna.random_like(bench.settings.seed).named(RANDOM_CIRCUIT)]


def measured_on(bench: Bench, runs: list[Intervention]) -> Results | None:
    """One fold's part of every benchmark; None where it has none."""
    grades = benchmark_grades(bench.benchmarks)
    sets = {
        name: apart(prompts, bench.n_folds, bench.settings.seed)[bench.fold]
        for name, prompts in benchmark_sets(bench.benchmarks).items()
    }
    sets = {name: part for name, part in sets.items() if len(part)}
    if not sets:
        return None
    judged = {name: grades[name] for name in sets}
    return bench.measure(sets, runs, grades=judged, discovery=bench.data.discovery)


def pooled(parts: list[Results | None]) -> Results | None:
    """All folds' parts; a best strength that differs between folds is shown as their mean."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    whole = Results.concatenate(known)
    table, facts = whole.table.copy(), ["strength", "m", "toward"]
    own = table["intervention"] == BEST_CAA
    table.loc[own, facts] = np.broadcast_to(table.loc[own, facts].mean().to_numpy(), (int(own.sum()), len(facts)))
    # What stands beside CNA is a row of its own here, not one of its many controls.
    return replace(
        whole, table=table.assign(control_of=table["control_of"].where(table["intervention"] != RANDOM_CIRCUIT))
    )


def before_and_after(bench: Bench, results: Results | None) -> pd.DataFrame:
    """The table of all benchmarks; empty where there are none."""
    return pd.DataFrame() if results is None else benchmark_table(results, bench.benchmarks)

"""Which score finds the neurons that decide? Every rule at equal budget, ablated, against matched random circuits.

On an organism with a recorded truth the table also has precision and recall; on any other model the effect
of the ablation is the only evidence, and rank alone proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..attribution import contrast_statistics, mean_difference_direction, random_circuits, recovery, score
from ..evaluation import Results, evaluate, pool_random
from ..intervention import ablate
from ..prompts import ContrastSet, PromptSet
from ..units import Circuit, UnitScores

#: Name in the tables -> (score, selection). The first is the CNA paper's.
LOCALISERS: dict[str, tuple[str, str]] = {
    "difference (published)": ("difference", "abs"),
    "difference, positive side": ("difference", "positive"),
    "difference, negative side": ("difference", "negative"),
    "effect size": ("effect_size", "abs"),
    "difference × write norm": ("difference_write_norm", "abs"),
    "difference × alignment": ("difference_alignment", "abs"),
}


@dataclass(frozen=True, eq=False)
class LocaliserStudy:
    """Circuits and scores by localiser, the results of ablating them, and one table to read."""

    scores: dict[str, UnitScores]
    circuits: dict[str, Circuit]
    results: Results
    table: pd.DataFrame


def localisers(
    model: Any,
    discovery: ContrastSet,
    prompts: PromptSet | dict[str, PromptSet],
    *,
    choices: PromptSet | None = None,
    k: int | None = None,
    fraction: float | None = None,
    truth: Circuit | None = None,
    names: list[str] | None = None,
    n_random: int = 5,
    seed: int = 0,
    max_new_tokens: int = 28,
    progress: bool = False,
    **options: Any,
) -> LocaliserStudy:
    """Locate with every rule from one pass over `discovery`, ablate each circuit, and tabulate.

    The budget (`k` or `fraction` of all MLP neurons) is the same for all. The table has a row per localiser
    (and one for the recorded `truth` where given): precision and recall against the truth, refusal, output
    quality and multiple choice under ablation with 95 % intervals, and the same for `n_random` random
    circuits with as many neurons in each layer (mean and range over circuits).
    """
    statistics = contrast_statistics(model, discovery, progress=progress)
    direction = mean_difference_direction(model, discovery)
    scores, circuits = {}, {}
    for name in names or list(LOCALISERS):
        rule, by = LOCALISERS[name]
        scores[name] = score(statistics, rule, model=model, direction=direction)
        circuits[name] = scores[name].top(k=k, fraction=fraction, by=by, name=name)
    if truth is not None:
        circuits["recorded neurons"] = truth.named("recorded neurons")
    runs = []
    for circuit in circuits.values():
        runs += [ablate(circuit), *(ablate(r) for r in random_circuits(circuit, n_random, seed=seed))]
    results = evaluate(
        model,
        prompts,
        runs,
        choices=choices,
        discovery=discovery,
        max_new_tokens=max_new_tokens,
        progress=progress,
        **options,
    )
    return LocaliserStudy(scores, circuits, results, tabulate(results, circuits, truth))


def tabulate(results: Results, circuits: dict[str, Circuit], truth: Circuit | None = None) -> pd.DataFrame:
    """One row per circuit: size, precision, recall, and `value [low, high]` of each metric, with its controls."""
    pooled = pool_random(results.summary())
    rows = []
    for name in ["baseline", *circuits]:
        row: dict[str, Any] = {"ablated": name, "k": len(circuits[name]) if name in circuits else 0}
        if truth is not None:
            found = recovery(circuits[name], truth) if name in circuits else {}
            row |= {"precision": found.get("precision"), "recall": found.get("recall")}
        own = pooled[(pooled["intervention"] == name) & (pooled["kind"] != "random")]
        control = pooled[pooled["intervention"].str.startswith(f"random like {name} (") & (pooled["kind"] == "random")]
        for prompt_set in own["prompt_set"].unique():
            for metric in ("refusal", "refusal_raw", "degenerate", "quality", "choice"):
                for label, part in (("", own), (", random", control)):
                    cell = part[(part["prompt_set"] == prompt_set) & (part["metric"] == metric)]
                    if len(cell):
                        row[f"{prompt_set}: {metric}{label}"] = _cell(cell.iloc[0], metric)
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(row: pd.Series, metric: str) -> str:
    if metric == "quality":
        return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"

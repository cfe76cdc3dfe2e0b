"""Which score finds the neurons that decide? Every rule at equal budget, ablated, beside matched random circuits.

On an organism with a recorded truth the table also has precision and recall; on any other model the effect of the
ablation is the only evidence, and rank alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..attribution import contrast_statistics, mean_difference_direction, recovery, score
from ..evaluation import Generation, Results, evaluate, pool_controls
from ..evaluation.verdicts import cell
from ..intervention import ablate
from ..models.protocol import Model
from ..prompts import ContrastSet, PromptSet
from ..units import Circuit, Sign, UnitScores

#: Name in the tables -> (score, selection). The first is the CNA paper's.
LOCALISERS: dict[str, tuple[str, Sign]] = {
    "difference (published)": ("difference", "abs"),
    "difference, positive side": ("difference", "positive"),
    "difference, negative side": ("difference", "negative"),
    "effect size": ("effect_size", "abs"),
    "difference × write norm": ("difference_write_norm", "abs"),
    "difference × alignment": ("difference_alignment", "abs"),
}
PUBLISHED, TRUTH = "difference (published)", "recorded neurons"
_SHOWN = ("refusal", "refusal_raw", "degenerate", "quality", "choice")


@dataclass(frozen=True, eq=False)
class Localisers:
    """Circuits and scores by localiser, the results of ablating them, and one table to read."""

    scores: dict[str, UnitScores]
    circuits: dict[str, Circuit]
    results: Results
    table: pd.DataFrame


def localisers(
    model: Model,
    discovery: ContrastSet,
    prompts: PromptSet | Mapping[str, PromptSet],
    *,
    names: Sequence[str] | None = None,
    truth: Circuit | None = None,
    controls: int = 5,
    generation: Generation | None = None,
    progress: bool = False,
    **budget: Any,
) -> Localisers:
    """Locate with every rule from one pass over `discovery`, ablate each circuit, and tabulate.

    `budget` (`k` or `fraction` of all MLP neurons) is the same for all rules. The table has a row for each localiser
    (and one for the recorded `truth` where given): precision and recall against the truth, what the evaluation gave
    under ablation with 95 % intervals, and the same for `controls` random circuits with as many neurons in each layer
    (mean and range over circuits).
    """
    statistics = contrast_statistics(model, discovery, progress=progress)
    direction = mean_difference_direction(model, discovery)
    scores, circuits = {}, {}
    for name in names or LOCALISERS:
        rule, by = LOCALISERS[name]
        scores[name] = score(statistics, rule, model=model, direction=direction)
        circuits[name] = scores[name].top(**budget, by=by, name=name)
    if truth is not None:
        circuits[TRUTH] = truth.named(TRUTH)
    results = evaluate(
        model,
        prompts,
        [ablate(circuit) for circuit in circuits.values()],
        controls=controls,
        discovery=discovery,
        generation=generation,
        progress=progress,
    )
    return Localisers(scores, circuits, results, tabulate(results.summary(_SHOWN), circuits, truth))


def tabulate(summary: pd.DataFrame, circuits: Mapping[str, Circuit], truth: Circuit | None = None) -> pd.DataFrame:
    """One row for each circuit: size, precision, recall, and each metric as `value [low, high]`, with its controls."""
    pooled = pool_controls(summary)
    rows = []
    for name in ["baseline", *circuits]:
        row: dict[str, Any] = {"ablated": name, "k": len(circuits[name]) if name in circuits else 0}
        if truth is not None:
            found = recovery(circuits[name], truth) if name in circuits else {}
            row |= {"precision": found.get("precision"), "recall": found.get("recall")}
        itself = pooled[(pooled["intervention"] == name) & pooled["control_of"].isna()]
        for label, part in (("", itself), (", random", pooled[pooled["control_of"] == name])):
            for _, one in part.iterrows():
                row[f"{one['prompt_set']}: {one['metric']}{label}"] = cell(one, n=False)
        rows.append(row)
    return pd.DataFrame(rows)

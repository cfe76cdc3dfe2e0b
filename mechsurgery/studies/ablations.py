"""Circuits of several localisers at one budget, ablated, some beside matched random circuits, in one table.

On an organism with a recorded truth the table also has precision and recall; on any other model the effect of the
ablation is the only evidence, and rank alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..attribution import recovery
from ..attribution.gates import Units
from ..attribution.localisers import LOCALISERS, Problem
from ..attribution.objectives import Objective, from_first_tokens
from ..evaluation import Results, evaluate
from ..evaluation.evaluate import BESIDE
from ..evaluation.select import controls_of
from ..evaluation.verdicts import cell, empirical_p
from ..grading.grade import Grade
from ..intervention import ablate
from ..models.protocol import Model
from ..progress import with_progress
from ..prompts import ContrastSet, PromptSet
from ..units import Circuit, UnitScores

TRUTH = "recorded neurons"


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
    prompts: Mapping[str, PromptSet],
    grade: Grade,
    *,
    names: Sequence[str],
    objective: Objective | None = None,
    base: Model | None = None,
    truth: Circuit | None = None,
    controlled: Sequence[str] = (),
    controls: int = 50,
    n_control_prompts: int = 32,
    progress: bool | None = None,
    options: Mapping[str, Any] | None = None,
    **budget: Any,
) -> Localisers:
    """Locate with every localiser that is named, ablate each circuit, and tabulate.

    `budget` (`k` or `fraction` of all MLP neurons) is the same for all rules. `grade` decides what responses are; it
    has the three labels of an outcome. The table has a row for each localiser (and one for the recorded `truth` where
    given). The circuits named in `controlled` are ablated once more on the first `n_control_prompts` of every set that
    is answered in words, beside `controls` random circuits with as many neurons in each layer. `options` go to
    `evaluate`.
    """
    objective = objective or from_first_tokens(model, discovery)
    problem = Problem(model, discovery, objective, Units(model), k=budget.get("k", 48), base=base)
    scores, circuits = {}, {}
    for name in with_progress(list(names), "locating", shown=progress, unit="localiser"):
        scores[name] = LOCALISERS[name].run(problem)
        circuits[name] = scores[name].top(**budget, by=LOCALISERS[name].by, name=name)
    if truth is not None:
        circuits[TRUTH] = truth.named(TRUTH)
    how = {"grades": [grade], "discovery": discovery, "progress": progress, **(options or {})}
    results = evaluate(model, prompts, [ablate(circuit) for circuit in circuits.values()], **how)
    if controlled and controls:
        runs = [ablate(circuits[name]) for name in controlled]
        spoken = {name: one for name, one in prompts.items() if not any(prompt.choices for prompt in one)}
        some = {f"{name}{BESIDE}": one.take(n_control_prompts) for name, one in spoken.items()}
        results = Results.concatenate([results, evaluate(model, some, runs, controls=controls, **how)])
    return Localisers(scores, circuits, results, tabulate(results.summary(), grade, circuits, truth))


def tabulate(
    summary: pd.DataFrame, grade: Grade, circuits: Mapping[str, Circuit], truth: Circuit | None = None
) -> pd.DataFrame:
    """One row for each circuit: size, precision, recall, outcomes and multiple choice as `value [low, high]`.

    For circuits with random controls also how much of these does well: mean, lowest and highest, and the share that
    does as much as the circuit on the same prompts (p).
    """
    rows = []
    for name in ["baseline", *circuits]:
        row: dict[str, Any] = {"ablated": name, "k": len(circuits[name]) if name in circuits else 0}
        if truth is not None:
            found = recovery(circuits[name], truth) if name in circuits else {}
            row |= {"precision": found.get("precision"), "recall": found.get("recall")}
        itself = summary[(summary["intervention"] == name) & summary["metric"].isin([grade.name, "choice"])]
        main = itself[~itself["prompt_set"].str.endswith(BESIDE)]
        for _, part in main.groupby("prompt_set", sort=False):
            row |= {f"{one['prompt_set']}: {one['label'] or 'right'}": cell(one, n=False) for _, one in part.iterrows()}
        rows.append(row | _beside_controls(itself, summary, name, grade.outcome.well))
    table = pd.DataFrame(rows)
    return table.fillna({name: "" for name in table.columns if ": " in name})


def _beside_controls(itself: pd.DataFrame, summary: pd.DataFrame, name: str, well: str) -> dict[str, str]:
    """{column: what a circuit's controls do on the prompts that both answered}."""
    found = {}
    for _, one in itself[(itself["label"] == well) & itself["prompt_set"].str.endswith(BESIDE)].iterrows():
        same = (summary["metric"] == one["metric"]) & (summary["prompt_set"] == one["prompt_set"])
        values = controls_of(summary[same & (summary["label"] == well)], name)["value"]
        if len(values):
            p = empirical_p(float(one["value"]), list(values), up=True)
            spread = " to ".join(f"{100 * end:.0f}" for end in (values.min(), values.max()))
            text = f"{100 * values.mean():.1f} % ({spread}), p = {p:.2g}"
            found[f"{one['prompt_set'].removesuffix(BESIDE)}: {well}, {len(values)} random"] = text
    return found

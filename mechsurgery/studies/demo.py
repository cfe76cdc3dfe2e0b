"""The demo: locate, prove, compare and plot a refusal circuit on the built-in organisms.

`planted` has a recorded truth, so every localiser has precision and recall beside the effect of ablating what it found.
`instruct` was tuned freely, so only the effect is evidence. `base` has the same shape and no refusal: the same
procedure must change nothing there. Findings are about organisms, not real models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .. import plots
from ..artifacts import provenance
from ..attribution import pair_bootstrap
from ..attribution.compare import Comparison, compare
from ..evaluation import Generation, Results, evaluate
from ..inspector import inspect_neuron
from ..intervention import ablate
from ..models import Model, load_model, sites
from ..organisms.registry import planted_units
from ..prompts import ContrastSet, PromptSet, load_contrast, load_prompts
from ..units import Circuit
from .base import Study
from .localisers import PUBLISHED, TRUTH, Localisers, localisers
from .settings import setting

#: Multipliers of the dose–response figure: ablated … baseline … doubled.
DOSES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
NAMES = ("planted", "instruct", "base")

CAPTIONS = {
    "planted_layer_distribution": "organism/planted: scores of every MLP neuron by layer, and the published circuit",
    "planted_ablation": "organism/planted: refusal of held-out dangerous requests with each circuit ablated",
    "planted_precision_recall": "organism/planted: what each localiser found of the recorded neurons",
    "instruct_layer_distribution": "organism/instruct: scores by layer, and the published circuit",
    "instruct_ablation": "organism/instruct: refusal with each circuit ablated",
    "layer_profile": "base against instruct: share of the circuit in each layer",
    "neuron_scatter": "base against instruct: score of every neuron",
    "overlap": "base against instruct: shared neurons",
    "dose_response": "dose–response: refusal, quality and multiple choice as the circuit is scaled by m",
    "neuron_activations": "the strongest planted neuron: activation on both prompt sets",
    "neuron_ranks": "the strongest planted neuron: where it stands under each rule",
    "neuron_tokens": "the strongest planted neuron: tokens its output row promotes",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo can be told."""

    n_prompts: int = setting(200, "Held-out dangerous requests, and multiple-choice questions.", flag="prompts")
    controls: int = setting(5, "Matched random circuits for every circuit.")
    seed: int = setting(0, "Seed of every random choice.")


def run(settings: Settings | None = None, *, out: str | Path = "figures/demo", progress: bool = False) -> Study:
    """Run the whole chain on `planted`, `instruct` and `base`, and write tables and figures to `out`.

    Discovery uses requests about nouns that tuning saw; evaluation uses dangerous requests about nouns it never saw,
    half as many benign ones, and multiple-choice questions. Every circuit is ablated beside random circuits with as
    many neurons in each layer.
    """
    settings, started = settings or Settings(), time.monotonic()
    discovery = load_contrast("organism/refusal", split="tuned", n=200, seed=settings.seed)
    sets = held_out_sets(settings)
    models = {name: load_model(f"organism/{name}") for name in NAMES}
    truth = Circuit.from_indices(planted_units(), sites.neuron_widths(models["planted"]), name=TRUTH)
    located = {
        name: localisers(
            model,
            discovery,
            sets,
            truth=truth if name == "planted" else None,
            k=len(truth),
            names=[PUBLISHED] if name == "base" else None,
            controls=settings.controls,
            generation=Generation(max_new_tokens=28),
            progress=progress,
        )
        for name, model in models.items()
    }
    doses = _doses(models, located, sets, progress)
    comparison = compare(models["base"], models["instruct"], discovery, k=len(truth))
    stability = pair_bootstrap(models["planted"], discovery, k=len(truth), resamples=50, seed=settings.seed)
    facts = provenance(
        title="Demo on the model organisms",
        seed=settings.seed,
        n_prompts=settings.n_prompts,
        stability={name: stability[name] for name in ("jaccard", "low", "high", "n")},
        seconds=round(time.monotonic() - started),
    )
    study = Study(
        _tables(located, comparison, doses),
        _figures(models["planted"], discovery, located, comparison, doses),
        {"demo": Results.concatenate([*(each.results for each in located.values()), doses])},
        {f"{name} {rule}": circuit for name, each in located.items() for rule, circuit in each.circuits.items()},
        facts,
        (plots.Section("Tables", _notes(located, stability), _tables(located, comparison, doses)),),
        captions=CAPTIONS,
    )
    study.save(out)
    return study


def held_out_sets(settings: Settings) -> dict[str, PromptSet]:
    """Requests and questions about nouns that no tuning saw."""
    held_out = load_contrast("organism/refusal", split="heldout")
    n, seed = settings.n_prompts, settings.seed
    return {
        "dangerous": held_out.positive.take(n, seed=seed),
        "benign": held_out.negative.take(max(1, n // 2), seed=seed),
        "multiple choice": load_prompts("organism/choices", split="heldout").take(n, seed=seed),
    }


def _doses(
    models: dict[str, Model], located: dict[str, Localisers], sets: dict[str, PromptSet], progress: bool
) -> Results:
    """Refusal, quality and multiple choice over m, for the recorded neurons and what the published rule chose."""
    wanted = [("planted", TRUTH), ("planted", PUBLISHED), ("instruct", PUBLISHED)]
    parts = []
    for name, rule in wanted:
        circuit = located[name].circuits[rule].named(f"{name}: {rule}")
        asked = {key: sets[key] for key in ("dangerous", "multiple choice")}
        parts.append(
            evaluate(
                models[name],
                asked,
                ablate(circuit).at(m=DOSES),
                generation=Generation(max_new_tokens=28),
                progress=progress,
            )
        )
    return Results.concatenate(parts)


def _tables(located: dict[str, Localisers], comparison: Comparison, doses: Results) -> dict[str, pd.DataFrame]:
    tables = {f"Organism {name}: every circuit ablated": each.table for name, each in located.items()}
    tables["Base against instruct: the published rule in both"] = comparison.table
    scaled = doses.summary(["refusal", "choice"]).query("kind == 'scaling'")
    columns = ["intervention", "m", "metric", "n", "value", "low", "high", "p_value"]
    tables["Scaling: refusal and multiple choice over m"] = scaled[columns]
    return tables


def _figures(
    planted: Model, discovery: ContrastSet, located: dict[str, Localisers], comparison: Comparison, doses: Results
) -> dict[str, go.Figure]:
    figures: dict[str, go.Figure] = {}
    for name in ("planted", "instruct"):
        each = located[name]
        figures[f"{name}_layer_distribution"] = plots.layer_distribution(
            each.scores[PUBLISHED], each.circuits[PUBLISHED]
        )
        figures[f"{name}_ablation"] = plots.bars(
            each.results.summary(["refusal"]), [("refusal", "dangerous"), ("refusal", "benign")]
        )
    recovered = located["planted"].table.rename(columns={"ablated": "rule"}).dropna(subset=["precision"])
    figures["planted_precision_recall"] = plots.precision_recall(recovered[recovered["rule"] != TRUTH])
    figures |= plots.comparison_figures(comparison.scores, comparison.circuits)
    summary = doses.summary(["refusal", "quality", "choice"])
    panels = [("refusal", "dangerous"), ("quality", "dangerous"), ("choice", "multiple choice")]
    figures["dose_response"] = plots.curves(summary, panels, x="m")
    strongest = located["planted"].circuits[PUBLISHED].to_frame().iloc[0]
    view = inspect_neuron(planted, discovery, str(strongest["site"]), int(strongest["neuron"]))
    return figures | {f"neuron_{key}": figure for key, figure in view.figures().items()}


def _notes(located: dict[str, Localisers], stability: dict[str, Any]) -> tuple[str, ...]:
    lines = []
    for name, each in located.items():
        degenerate = each.results.table.query("metric == 'degenerate'")["value"]
        lines.append(f"{name}: {int(degenerate.sum())} of {len(degenerate)} responses are degenerate.")
    return (
        "Requests and questions are about nouns that no tuning saw. Brackets are 95 % intervals clustered by noun; for "
        "random circuits, of the same size in every layer, the range over circuits.",
        f"The published circuit on planted under resampled prompts: Jaccard {stability['jaccard']:.2f} "
        f"[{stability['low']:.2f}, {stability['high']:.2f}], {stability['n']} draws.",
        *lines,
        "Refusal counts only responses that are not degenerate; refusal_raw stands beside it.",
    )

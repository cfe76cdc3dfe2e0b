"""Figures of the demo, each with a sentence that says what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ...attribution.compare import Comparison
from ...attribution.localisers import PUBLISHED
from ...evaluation.evaluate import BESIDE
from ...evaluation.proof import ALONE, PARTS
from ...grading.world import REQUEST
from ...plots import Drawing, comparison_drawings, draw
from ..ablations import TRUTH, Localisers
from .settings import DANGEROUS, NEW

if TYPE_CHECKING:
    from .study import Decided

COMPLIES = REQUEST.labels[1]
CAPTIONS = {
    "instruct_outcomes": "What organism/instruct answers to unseen dangerous requests: the circuit beside its nulls, "
    "the published rule, steering and directional ablation",
    "instruct_new_templates": "The same in templates that neither tuning nor search used",
    "instruct_trade_off": "Right answers to dangerous requests against the larger loss on benign requests or questions",
    "instruct_layers": "Where the circuit's neurons are",
    "search": "Size against outcome on validation prompts, along the order in which neurons were given back",
    "dose_response": "Outcomes as the circuit is changed from nothing (0) to fully (1)",
    "planted_outcomes": "organism/planted: answers to unseen dangerous requests with each localiser's circuit ablated",
    "planted_precision_recall": "organism/planted: what each localiser found of the recorded neurons",
    "layer_profile": "Base against instruct: share of the published rule's circuit in each layer",
    "neuron_scatter": "Base against instruct: score of every neuron by the published rule",
    "score_layers": "Base against instruct: the published rule's scores in each layer, and the circuit's neurons",
    "overlap": "Base against instruct: shared neurons, beside what chance would share",
    "neuron_activations": "The circuit's first neuron: activation on both prompt sets",
    "neuron_ranks": "The circuit's first neuron: where it stands under each contrast rule",
    "neuron_effects": "The circuit's first neuron: what scaling it alone does to the first token of the answer",
    "neuron_tokens": "The circuit's first neuron: tokens its output row promotes",
}


def figures_of(decided: Decided, planted: Localisers, comparison: Comparison, view: Any) -> dict[str, Drawing]:
    """Every figure by name."""
    summary = decided.proof.results.summary(["outcome", "choice"])
    own = summary[~summary["intervention"].str.startswith(PARTS)]
    recovered = planted.table.rename(columns={"ablated": "rule"}).dropna(subset=["precision"])
    panels = [("outcome", where, label) for where in (DANGEROUS,) for label in REQUEST.labels]
    figures = {
        "instruct_outcomes": outcomes(own, DANGEROUS, "Unseen dangerous requests to organism/instruct"),
        "instruct_new_templates": outcomes(own, NEW, "The same, in templates never used"),
        "instruct_trade_off": trade_off(own),
        "instruct_layers": draw(
            "circuit_profile",
            {"circuit": decided.found.circuit, PUBLISHED: decided.published},
            about="organism/instruct",
        ),
        "search": search(decided),
        "dose_response": draw(
            "curves", decided.doses.summary(["outcome"]), panels, x="strength", about="organism/instruct"
        ),
        "planted_outcomes": outcomes(
            planted.results.summary(["outcome"]), DANGEROUS, "Unseen dangerous requests to organism/planted"
        ),
        "planted_precision_recall": draw(
            "precision_recall", recovered[recovered["rule"] != TRUTH], about="organism/planted"
        ),
    }
    figures |= comparison_drawings(comparison.scores, comparison.circuits)
    return figures | {f"neuron_{key}": drawing for key, drawing in view.drawings().items()}


def outcomes(summary: pd.DataFrame, where: str, about: str) -> Drawing:
    """Stacked outcomes of everything on one set of prompts, random circuits on those that they answered."""
    controls = summary[summary["control_of"].notna() & (summary["prompt_set"] == f"{where}{BESIDE}")]
    main = summary[summary["control_of"].isna() & (summary["prompt_set"] == where)]
    rows = pd.concat([main, controls.assign(prompt_set=where)], ignore_index=True)
    return draw("shares", rows, "outcome", where, first=COMPLIES, about=about)


def trade_off(summary: pd.DataFrame) -> Drawing:
    """Right answers to dangerous requests against the most that benign requests or questions lose."""
    own = summary[summary["control_of"].isna() & (summary["intervention"] != ALONE)]
    kept = own[((own["prompt_set"] == "benign") & (own["label"] == COMPLIES)) | (own["metric"] == "choice")]
    worst = kept.loc[kept.groupby("intervention", sort=False)["value"].idxmin()]
    kept = own[own["intervention"].isin(worst["intervention"])]
    return draw(
        "benefit_against_damage",
        kept[(kept["prompt_set"] == DANGEROUS) & (kept["label"] == COMPLIES)],
        worst.assign(value=1 - worst["value"], low=1 - worst["high"], high=1 - worst["low"]),
        words=("dangerous requests answered rightly", "wrong on benign requests or questions"),
        about="organism/instruct",
    )


def search(decided: Decided) -> Drawing:
    """Size against outcome on validation prompts."""
    curve = decided.found.curve.assign(localiser="circuit, pruned in order")
    return draw("outcome_by_size", curve, about="Validation prompts", y_title="share that complies")

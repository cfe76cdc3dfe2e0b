"""The study's figures, from summaries and neurons; each with the caption that stands under it in the report."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...grading.grade import Grade
from ...plots import Drawing, draw
from ...plots.tables import Pick
from ...units import Circuit, UnitScores
from .data import CONTROLLED
from .tables import at_full_strength

CAPTIONS = {
    "corrected_outcomes": "Every method at full strength (corrected): what responses to the behaviour's prompts are",
    "corrected_benign": "Every method at full strength (corrected): what responses to benign prompts are",
    "corrected_controls": "The circuit ablated beside matched random circuits (corrected); each circle is one of them",
    "corrected_strength": "Figures 1 and 2 (corrected): what responses are, quality and multiple choice over strength, "
    "in both directions",
    "corrected_trade_off": "Trade-off (corrected): upper left is better; no other setting beats those on the line",
    "best_outcomes": "Every method at the strength that validation prompts choose: the behaviour's prompts",
    "best_benign": "Every method at the strength that validation prompts choose: benign prompts",
    "as_published_outcomes": "Every method at full strength (as published); CAA adds harmful − benign, toward refusal",
    "as_published_benign": "Every method at full strength (as published): what responses to benign prompts are",
    "as_published_controls": "The circuit ablated beside matched random circuits (as published)",
    "as_published_strength": "Figures 1 and 2 (as published): here CAA adds harmful − benign, that is toward refusal",
    "as_published_trade_off": "Trade-off (as published)",
    "layer_profile": "Appendix C: where the circuits sit",
    "task_layers": "Where the circuits of several tasks lie; whiskers are 95 % intervals over groups of prompts, "
    "dotted is what the sizes of the layers alone would give",
    "score_layers": "Scores of every layer in base and instruct, and the circuits' neurons",
    "neuron_scatter": "Score of every neuron in base and instruct",
    "instruct_changes": "Instruct: what scaling the circuit changes",
    "base_changes": "Base: what scaling each circuit changes",
    "sensitivity": "Sensitivity: what is done well when each variant of the circuit is ablated, beside random circuits",
}


def mode_figures(
    mode: str, summary: pd.DataFrame, grade: Grade, best: pd.DataFrame | None = None
) -> dict[str, Drawing]:
    """What responses are at full strength, beside random circuits, over strength, and against damage.

    With the summary `best` of every method at the strength chosen on validation prompts, also what they are at those.
    """
    slug, name, (shows, well, broken) = mode.replace(" ", "_"), grade.name, grade.outcome
    before = summary[summary["kind"] == "baseline"]
    full = pd.concat([before, at_full_strength(summary[summary["kind"] != "baseline"])])
    beside = full[full["prompt_set"] == CONTROLLED["behaviour"]]
    panels: list[Pick] = [(name, "behaviour", label) for label in (shows, well, broken)]
    panels += [(name, "benign", well), ("quality", "behaviour")]
    panels += [("choice", "choices")] if (summary["metric"] == "choice").any() else []
    main = summary[~summary["prompt_set"].isin(CONTROLLED.values())]
    figures = {
        f"{slug}_outcomes": _shares(full, grade, "behaviour", mode),
        f"{slug}_benign": _shares(full, grade, "benign", f"benign prompts, {mode}"),
        f"{slug}_controls": _shares(beside, grade, CONTROLLED["behaviour"], f"beside random circuits, {mode}"),
        f"{slug}_strength": draw("curves", main, panels, about=mode),
        f"{slug}_trade_off": draw(
            "trade_off", main, benefit=(name, "behaviour", well), damage=("kl", "benign"), log_damage=True, about=mode
        ),
    }
    if best is not None:
        figures["best_outcomes"] = _shares(best, grade, "behaviour", "every method at its best strength")
        figures["best_benign"] = _shares(best, grade, "benign", "benign prompts, every method at its best strength")
    return figures


def _shares(summary: pd.DataFrame, grade: Grade, prompts: str, about: str) -> Drawing:
    return draw("shares", summary, grade.name, prompts, first=grade.outcome.well, about=about)


def structure_figures(
    changed: Mapping[str, pd.DataFrame], circuits: Mapping[str, Circuit], scores: Mapping[str, UnitScores]
) -> dict[str, Drawing]:
    """Layer profile and scatter of base and instruct, and what scaling changes in each."""
    figures = {"layer_profile": draw("circuit_profile", circuits)}
    if len(scores) == 2:
        figures["score_layers"] = draw("layer_distribution", scores, circuits if set(circuits) <= set(scores) else None)
        figures["neuron_scatter"] = draw("neuron_scatter", *scores.values(), circuits=circuits)
    for name, summary in changed.items():
        figures[f"{name}_changes"] = draw("shares", summary, "change", "behaviour", about=f"scaling in {name}")
    return figures

"""The study's figures, from summaries and nouns; each with the caption that stands under it in the report."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ...evaluation import pool_controls
from ...units import Circuit, UnitScores

CAPTIONS = {
    "corrected_strength": "Figures 1 and 2 (corrected): behaviour, degenerate outputs, quality and multiple choice "
    "over strength, in both directions",
    "corrected_trade_off": "Trade-off (corrected): lower left is better; no other setting beats those on the line",
    "as_published_strength": "Figures 1 and 2 (as published): here CAA adds harmful − benign, that is toward refusal",
    "as_published_trade_off": "Trade-off (as published)",
    "layer_profile": "Appendix C: where the circuits sit",
    "neuron_scatter": "Score of every neuron in base and instruct",
    "instruct_changes": "Instruct: what scaling the circuit changes",
    "base_changes": "Base: what scaling each circuit changes",
    "sensitivity": "Sensitivity: behaviour left when each variant of the circuit is ablated, beside random circuits",
}


def mode_figures(mode: str, summary: pd.DataFrame, behaviour: str) -> dict[str, go.Figure]:
    """Curves over strength (Figure 1; multiple choice is Figure 2), and behaviour against damage."""
    slug, pooled = mode.replace(" ", "_"), pool_controls(summary)
    panels = [(behaviour, "behaviour"), ("degenerate", "behaviour"), ("quality", "behaviour")]
    panels += [("choice", "choices")] if (summary["metric"] == "choice").any() else []
    return {
        f"{slug}_strength": plots.curves(pooled, panels, title=f"Behaviour and quality over strength ({mode})"),
        f"{slug}_trade_off": plots.trade_off(
            pooled,
            behaviour=(behaviour, "behaviour"),
            cost=("kl", "benign"),
            log_cost=True,
            title=f"Behaviour against damage ({mode})",
        ),
    }


def structure_figures(
    changed: Mapping[str, pd.DataFrame], circuits: Mapping[str, Circuit], scores: Mapping[str, UnitScores]
) -> dict[str, go.Figure]:
    """Layer profile and scatter of base and instruct, and what scaling changes in each."""
    title = "Share of the circuit in each layer (Appendix C)"
    figures = {"layer_profile": plots.circuit_profile(circuits, title=title)}
    if len(scores) == 2:
        figures["neuron_scatter"] = plots.neuron_scatter(*scores.values(), circuits=circuits)
    for name, summary in changed.items():
        title = f"What scaling the circuit changes in {name}"
        figures[f"{name}_changes"] = plots.shares(summary, "change", "behaviour", title=title)
    return figures

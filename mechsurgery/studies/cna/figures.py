"""The study's figures, from its tables and nouns."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ... import plots
from ...evaluation.pareto import trade_off
from .methods import CNA

_KL = "KL divergence on benign prompts (nats)"


def mode_figures(mode: str, summary: pd.DataFrame) -> dict[str, Any]:
    """Curves over strength (Figure 1; multiple choice is Figure 2) and, where KL was measured, the trade-off."""
    slug = mode.replace(" ", "_")
    choice = list(summary[summary["metric"] == "choice"]["prompt_set"].unique())
    panels = [("refusal", "behaviour"), ("quality", "behaviour"), *(("choice", name) for name in choice[:1])]
    panels.insert(1, ("degenerate", "behaviour"))
    figures = {
        f"{slug}_strength": plots.strength_curves(
            summary[summary["kind"].isin(["baseline", "random"]) | summary["intervention"].isin(_main(summary))],
            panels=panels,
            title=f"Behaviour and quality over strength ({mode})",
        )
    }
    if ((summary["metric"] == "kl") & (summary["kind"] != "baseline")).any():
        points = trade_off(summary, damage=("kl", "benign"))
        points = points[points["damage"] > 0]
        figure = plots.trade_off(
            points, behaviour="behaviour shown", damage=_KL, title=f"Behaviour against damage ({mode})"
        )
        figure.update_xaxes(type="log")
        figures[f"{slug}_pareto"] = figure
    return figures


def _main(summary: pd.DataFrame) -> list[str]:
    return [
        name for name in summary["intervention"].unique() if name == CNA or name.startswith(("CAA", "directional", CNA))
    ]


def base_figures(changes: dict[str, pd.DataFrame], circuits: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    """Layer profile and scatter of base and instruct, and what scaling changes in each."""
    figures = {
        "layer_profile": plots.circuit_profile(circuits, title="Share of the circuit in each layer (Appendix C)")
    }
    if len(scores) == 2:
        first, second = scores.values()
        figures["neuron_scatter"] = plots.neuron_scatter(first, second, circuits=circuits)
    for name, summary in changes.items():
        own = summary[summary["prompt_set"] == "behaviour"]
        if len(own):
            figures[f"{name}_changes"] = plots.change_bars(own, title=f"What scaling the circuit changes in {name}")
    return figures

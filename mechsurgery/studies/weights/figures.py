"""The study's figures, from its summaries, the watched cosines and the directions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ..base import slug
from .data import CHOICES, QUESTIONS, SKILL, Behaviour, Drift
from .methods import Learnt

Figures = dict[str, go.Figure]


def steering_figures(summary: pd.DataFrame, behaviour: Behaviour) -> Figures:
    """Behaviour against capability over strength, on the trained template and on new ones."""
    named = {"steering": behaviour.shown, "new_template": behaviour.elsewhere}
    return {
        f"{slug(behaviour.name)}_{name}": plots.trade_off(
            summary,
            behaviour=(metric, behaviour.measured.metrics[metric][1]),
            cost=(CHOICES, CHOICES),
            better=(behaviour.wanted, "more"),
            title=f"{behaviour.name.capitalize()}: behaviour against capability over strength",
        )
        for name, metric in named.items()
    }


def repair_figures(summary: pd.DataFrame, drift: Drift) -> Figures:
    """Drift undone against skill kept."""
    shown = drift.behaviour.shown
    figure = plots.trade_off(
        summary,
        behaviour=(shown, drift.behaviour.measured.metrics[shown][1]),
        cost=(SKILL, QUESTIONS),
        better=("less" if drift.pushes > 0 else "more", "more"),
        title=f"{drift.behaviour.name.capitalize()}: drift undone against skill kept",
    )
    return {f"{slug(drift.behaviour.name)}_repair": figure}


def watching_figures(rows: pd.DataFrame, drifts: Sequence[Drift]) -> Figures:
    """Cosines by step, with the band of random directions."""
    names = [drift.behaviour.name for drift in drifts]
    return {f"{slug(name)}_cosines": plots.cosine_trajectories(rows, direction=name) for name in names}


def direction_figures(learnt: Sequence[Learnt]) -> Figures:
    """Norm of each direction by layer, and cosines of those of one model."""
    figures = {}
    for one in learnt:
        title = f"Norm of {one.name} by layer"
        figures[f"norms_{slug(one.name)}"] = plots.delta_heatmap(one.delta.norms(), title=title, label="norm")
    for a, b in combinations(learnt, 2):
        if a.start == b.start and a.behaviour is not b.behaviour:
            title = f"Cosine of {a.name} and {b.name}"
            cosines = plots.delta_heatmap(a.delta.cosines(b.delta), title=title, label="cosine")
            figures.setdefault("cosines_by_layer", cosines)
    return figures

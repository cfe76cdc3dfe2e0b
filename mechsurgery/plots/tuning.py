"""Figures of fine-tuning: what it cured and cost, curves over data and size, probe weights, training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError, listed
from ..units import UnitScores
from .theme import COLOURS, DASHES, SYMBOLS, safe, themed


def cure_and_cost(summary: Any, *, title: str = "What each way cured, and what it cost") -> go.Figure:
    """A panel a metric, a bar with its interval a way. `summary` has columns way, metric, value, low, high."""
    metrics = [m for m in summary["metric"].unique() if m not in ("incoherent",)]
    ways = list(dict.fromkeys(summary["way"]))
    if not ways:
        raise InputError("nothing to draw: the summary has no rows")
    figure = make_subplots(
        1, len(metrics), shared_yaxes=True, subplot_titles=[safe(m) for m in metrics], horizontal_spacing=0.035
    )
    for column, metric in enumerate(metrics, 1):
        own = summary[summary["metric"] == metric].drop_duplicates("way").set_index("way").reindex(ways)
        figure.add_trace(
            go.Bar(
                x=own["value"],
                y=[safe(way) for way in ways],
                orientation="h",
                showlegend=False,
                marker_color=COLOURS[(column - 1) % len(COLOURS)],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": own["high"] - own["value"],
                    "arrayminus": own["value"] - own["low"],
                    "thickness": 1,
                },
            ),
            1,
            column,
        )
        figure.update_xaxes(
            tickformat=".2f" if metric.startswith("KL") else ".0%",
            nticks=3,
            tickangle=0,
            tickfont_size=11,
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_annotations(font_size=12)
    return themed(figure, title, height=200 + 34 * len(ways), width=1250)


def metric_curves(
    summary: Any, *, x: str, metrics: Sequence[str], label: str, title: str, log: bool = True
) -> go.Figure:
    """Metrics over a quantity, a line with its interval a way that has more than one point."""
    for name in ("way", "metric", "value", "low", "high", x):
        if name not in summary.columns:
            raise InputError(f"no column {name!r}; the summary has {listed(summary.columns)}")
    figure = make_subplots(1, len(metrics), subplot_titles=[safe(m) for m in metrics])
    counts = summary.groupby("way", sort=False)[x].nunique()
    ways = [way for way in counts.index if counts[way] > 1]
    for number, way in enumerate(ways):
        for column, metric in enumerate(metrics, 1):
            own = summary[(summary["way"] == way) & (summary["metric"] == metric)].sort_values(x)
            figure.add_trace(
                go.Scatter(
                    x=own[x],
                    y=own["value"],
                    name=safe(way),
                    legendgroup=way,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]},
                    marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": own["high"] - own["value"],
                        "arrayminus": own["value"] - own["low"],
                        "thickness": 1,
                    },
                ),
                1,
                column,
            )
    figure.update_xaxes(title_text=safe(label), type="log" if log else "linear")
    return themed(figure, title, height=480)


def weight_histogram(scores: Mapping[str, UnitScores], *, title: str = "Probe weights", bins: int = 61) -> go.Figure:
    """Distribution of each probe's weights (share of units, log scale)."""
    if not scores:
        raise InputError("weight_histogram needs the scores of at least one probe")
    figure = go.Figure()
    for number, (name, one) in enumerate(scores.items()):
        values = np.concatenate([value.float().numpy() for value in one.scores.values()])
        top = np.abs(values).max() or 1.0
        counts, edges = np.histogram(values / top, np.linspace(-1, 1, bins + 1))
        figure.add_scatter(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.where(counts > 0, counts / len(values), np.nan),
            mode="lines+markers",
            name=f"{safe(name)}: {len(values):,} units, largest {top:.3g}",
            marker={"size": 4},
            line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]},
        )
    figure.update_xaxes(title_text="weight / largest weight")
    figure.update_yaxes(title_text="share of units", type="log")
    return themed(figure, title)


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], *, title: str = "Training loss") -> go.Figure:
    """Training loss by step; `curves` is {name: a dict a step with step, loss and maybe validation}."""
    figure = go.Figure()
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        steps, losses = [row["step"] for row in curve], [row["loss"] for row in curve]
        figure.add_scatter(x=steps, y=losses, mode="lines", name=safe(name), line={"color": colour})
        held = [(row["step"], row["validation"]) for row in curve if "validation" in row]
        if held:
            figure.add_scatter(
                x=[s for s, _ in held],
                y=[v for _, v in held],
                mode="markers",
                name=f"{safe(name)}, validation",
                marker={"color": colour, "symbol": "diamond-open"},
            )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="loss (nats a token)", type="log")
    return themed(figure, title)

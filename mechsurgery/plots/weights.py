"""Figures of weight steering: trade-offs of every method, cosine trajectories with null bands, norms by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..errors import InputError
from .theme import COLOURS, DASHES, GREY, SYMBOLS, safe, themed, wash


def steering_front(
    summary: Any, *, behaviour: str, capability: str, title: str, names: tuple[str, str] | None = None
) -> go.Figure:
    """Behaviour against capability, a line over strengths a method, with intervals; hover gives the strength."""
    figure = go.Figure()
    methods = [m for m in dict.fromkeys(summary["method"]) if m != "unmodified"]
    if not methods:
        raise InputError("nothing to draw: the summary has no method besides the unmodified model")
    for number, method in enumerate(methods):
        own = summary[summary["method"] == method]
        x = own[own["metric"] == behaviour].set_index("k").sort_index()
        y = own[own["metric"] == capability].set_index("k").reindex(x.index)
        figure.add_scatter(
            x=x["value"],
            y=y["value"],
            mode="lines+markers",
            name=safe(method),
            text=[f"k = {k:g}" for k in x.index],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": x["high"] - x["value"],
                "arrayminus": x["value"] - x["low"],
                "thickness": 0.7,
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": y["high"] - y["value"],
                "arrayminus": y["value"] - y["low"],
                "thickness": 0.7,
            },
            line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 1.5},
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            hovertemplate="%{text}: %{x:.1%}, %{y:.1%}<extra>" + safe(method) + "</extra>",
        )
    start = summary[summary["method"] == "unmodified"].set_index("metric")["value"]
    figure.add_scatter(
        x=[start[behaviour]],
        y=[start[capability]],
        mode="markers",
        name="unmodified",
        marker={"symbol": "star", "size": 14, "color": "#000"},
    )
    first, second = names or (behaviour, capability)
    figure.update_xaxes(title_text=safe(first), tickformat=".0%")
    figure.update_yaxes(title_text=safe(second), tickformat=".0%")
    return themed(figure, title, height=560)


def cosine_trajectories(rows: Any, *, direction: str, title: str | None = None) -> go.Figure:
    """Cosine with one direction by training step, a line a fine-tune (mean over seeds), over the null band.

    `rows` has columns step, direction, kind, cosine, task, seed.
    """
    own = rows[rows["direction"] == direction]
    if not len(own):
        raise InputError(f"no rows of direction {direction!r}")
    null = own[own["kind"] == "random"].groupby("step")["cosine"]
    figure = go.Figure()
    if len(null):
        low, high = null.quantile(0.025), null.quantile(0.975)
        figure.add_scatter(
            x=[*low.index, *high.index[::-1]],
            y=[*low, *high[::-1]],
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=wash(GREY, 0.4),
            name="random directions, 95 %",
            hoverinfo="skip",
        )
    for number, (task, group) in enumerate(own[own["kind"] == "direction"].groupby("task", sort=False)):
        by_step = group.groupby("step")["cosine"]
        mean = by_step.mean()
        figure.add_scatter(
            x=mean.index,
            y=mean,
            mode="lines+markers",
            name=safe(task),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": by_step.max() - mean,
                "arrayminus": mean - by_step.min(),
                "thickness": 0.7,
            },
            line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]},
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)]},
        )
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text=f"cosine of the update with {safe(direction)}")
    return themed(figure, title or f"Updates of fine-tunes along {direction}", height=520)


def delta_heatmap(values: Mapping[str, float], *, title: str, label: str) -> go.Figure:
    """A number a parameter (a norm or cosine) by layer and kind of weight."""
    table: dict[str, dict[int, float]] = {}
    for name, value in values.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if match:
            table.setdefault(match.group(2), {})[int(match.group(1))] = value
    if not table:
        raise InputError("no parameter of a block among the values")
    layers = sorted({layer for row in table.values() for layer in row})
    z = [[row.get(layer, np.nan) for layer in layers] for row in table.values()]
    signed = any(v < 0 for v in values.values())
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=layers,
            y=[safe(kind) for kind in table],
            colorscale="RdBu" if signed else "Blues",
            zmid=0 if signed else None,
            colorbar={"title": safe(label)},
            texttemplate="%{z:.2f}",
        )
    )
    figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 16))
    return themed(figure, title, height=160 + 40 * len(table))

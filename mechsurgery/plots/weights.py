"""Figures of training and weights: loss, probe weights, cosines of updates over steps, numbers by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import InputError
from ..units import UnitScores, layer_of
from .tables import require
from .theme import DOUBLE, GREY, SINGLE, band, colorbar, errors, look, safe, themed, wrapped


def weight_histogram(scores: Mapping[str, UnitScores], *, title: str = "Probe weights", bins: int = 61) -> go.Figure:
    """Distribution of each probe's weights (share of units, log scale), each divided by its largest."""
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
            marker={"size": 3},
            line=look(number).line(),
        )
    figure.update_xaxes(title_text="weight / largest weight")
    figure.update_yaxes(title_text="share of units", type="log", dtick=1)
    return themed(figure, title, height=190, width=SINGLE)


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], *, title: str = "Training loss") -> go.Figure:
    """Training loss by step; `curves` is {name: [{step, loss, and maybe validation}, …]}."""
    figure = go.Figure()
    for number, (name, curve) in enumerate(curves.items()):
        style = look(number)
        steps, losses = [row["step"] for row in curve], [row["loss"] for row in curve]
        figure.add_scatter(x=steps, y=losses, mode="lines", name=wrapped(name, 46), line=style.line())
        checked = [(row["step"], row["validation"]) for row in curve if "validation" in row]
        if checked:
            figure.add_scatter(
                x=[step for step, _ in checked],
                y=[value for _, value in checked],
                mode="markers",
                name=f"{wrapped(name, 46)}, validation",
                marker={"color": style.colour, "symbol": "diamond-open", "size": 6},
            )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="loss (nats a token)", type="log", dtick="D2")
    return themed(figure, title, height=190, width=SINGLE)


def cosine_trajectories(rows: pd.DataFrame, *, direction: str, title: str | None = None) -> go.Figure:
    """Cosine with one direction by training step: the mean over seeds of each fine-tune, over a band of chance.

    `rows` has columns step, direction, kind ("direction" or "random"), cosine, task. Bars are the lowest and highest
    seed; the band holds 95 % of the random directions.
    """
    require(rows, ("step", "direction", "kind", "cosine", "task"))
    along = rows[rows["direction"] == direction]
    if not len(along):
        raise InputError(f"no rows of direction {direction!r}")
    null = along[along["kind"] == "random"].groupby("step")["cosine"]
    figure = go.Figure()
    if len(null):
        low, high = null.quantile(0.025), null.quantile(0.975)
        figure.add_trace(band(low.index, low, high, GREY, name="random directions, 95 %", showlegend=True))
    for number, (task, group) in enumerate(along[along["kind"] == "direction"].groupby("task", sort=False)):
        by_step = group.groupby("step")["cosine"]
        mean, style = by_step.mean(), look(number)
        figure.add_scatter(
            x=mean.index,
            y=mean,
            mode="lines+markers",
            name=wrapped(task, 46),
            error_y=errors(mean, by_step.min(), by_step.max(), colour=style.colour),
            line=style.line(),
            marker=style.marker(5),
        )
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text=f"cosine with {safe(direction)}")
    return themed(figure, title or f"Updates of fine-tunes along {direction}", height=220, width=SINGLE)


def delta_heatmap(values: Mapping[str, float], *, title: str, label: str) -> go.Figure:
    """A number for every weight of the blocks (a norm or cosine), by layer and kind of weight."""
    table: dict[str, dict[int, float]] = {}
    for name, value in values.items():
        if layer_of(name) >= 0:
            table.setdefault(name.split(".", 2)[2], {})[layer_of(name)] = value
    if not table:
        raise InputError("no parameter of a block among the values")
    layers = sorted({layer for row in table.values() for layer in row})
    signed = any(v < 0 for v in values.values())
    written = len(layers) <= 12
    figure = go.Figure(
        go.Heatmap(
            z=[[row.get(layer, np.nan) for layer in layers] for row in table.values()],
            x=layers,
            y=[safe(kind) for kind in table],
            colorscale="RdBu" if signed else "Blues",
            zmid=0 if signed else None,
            colorbar=colorbar(label),
            texttemplate="%{z:.2f}" if written else None,
            textfont={"size": 9},
        )
    )
    figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 12))
    figure.update_yaxes(autorange="reversed")
    width = max(SINGLE, min(DOUBLE, 170 + 34 * len(layers)))
    return themed(figure, title, height=20 + 24 * len(table), width=width)

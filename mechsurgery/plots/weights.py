"""Figures of training and weights: loss, numbers by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError
from ..names import layer_of
from .layout import AUTO, heading, label_rows, themed
from .theme import SMALL, colorbar, look, safe


def loss_curves(
    curves: Mapping[str, Sequence[Mapping[str, float]]], *, title: str | None = AUTO, about: str = ""
) -> go.Figure:
    """Training loss by step; `curves` is {name: [{step, loss, and maybe validation}, …]}.

    The title says the first and last loss of one curve, of several the lowest last one.
    """
    if not curves or not all(curves.values()):
        raise InputError("no training loss to draw; give {name: [{step, loss}, …]} with a step in each")
    figure = go.Figure()
    for number, (name, curve) in enumerate(curves.items()):
        style = look(number)
        steps, losses = [row["step"] for row in curve], [row["loss"] for row in curve]
        figure.add_scatter(x=steps, y=losses, mode="lines", name=safe(name), line=style.line(), **_told(name, "loss"))
        checked = [(row["step"], row["validation"]) for row in curve if "validation" in row]
        if checked:
            figure.add_scatter(
                x=[step for step, _ in checked],
                y=[value for _, value in checked],
                mode="markers",
                name=f"{safe(name)}, validation",
                **_told(name, "validation loss"),
                marker={"color": style.colour, "symbol": "diamond-open", "size": 6},
            )
    figure.update_xaxes(nticks=6)
    ticks = _round_numbers([row["loss"] for curve in curves.values() for row in curve])
    shown = [row["loss"] for curve in curves.values() for row in curve if math.isfinite(row["loss"])]
    if sum(min(shown, default=0) <= tick <= max(shown, default=0) for tick in ticks) < 2:
        figure.update_yaxes(nticks=4)  # too narrow a range for round numbers of a logarithmic axis
    else:
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    best = min(curves, key=lambda name: (not math.isfinite(curves[name][-1]["loss"]), curves[name][-1]["loss"]))
    first, last = curves[best][0], curves[best][-1]
    finding = f"{best}: loss {first['loss']:.2g} at step {first['step']:g}, {last['loss']:.2g} at step {last['step']:g}"
    finding = f"lowest last loss of {len(curves)}: {finding}" if len(curves) > 1 else finding
    words: dict[str, Any] = {"x_title": "step", "y_title": "loss (nats a token)"}
    return themed(figure, heading(title, finding, about), height=170, **words)


def _round_numbers(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 of each power of ten that the values reach (of many powers, 1 alone), for a logarithmic axis."""
    shown = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    powers = range(math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown))) + 1)
    digits = (1, 2, 5) if len(powers) < 5 else (1,)
    return [float(f"{digit}e{power}") for power in powers for digit in digits]


def _told(name: str, what: str) -> dict[str, str]:
    return {"hovertemplate": f"{safe(name)}: {what} %{{y:.3g}} at step %{{x}}<extra></extra>"}


def delta_heatmap(values: Mapping[str, float], *, label: str, title: str | None = AUTO, about: str = "") -> go.Figure:
    """A number for every weight of the blocks (a norm or cosine), by layer and kind of weight.

    The title says the largest.
    """
    table: dict[str, dict[int, float]] = {}
    for name, value in values.items():
        if layer_of(name) >= 0:
            table.setdefault(name.split(".", 2)[2], {})[layer_of(name)] = value
    if not table:
        raise InputError("no parameter of a block among the values")
    layers = sorted({layer for row in table.values() for layer in row})
    signed = any(v < 0 for v in values.values())
    written = len(layers) <= 8
    figure = go.Figure(
        go.Heatmap(
            z=[[row.get(layer, np.nan) for layer in layers] for row in table.values()],
            x=layers,
            y=list(range(len(table))),
            colorscale="RdBu" if signed else "Blues",
            zmid=0 if signed else None,
            colorbar=colorbar(label, nticks=3),
            texttemplate="%{z:.2f}" if written else None,
            textfont={"size": SMALL},
            customdata=[[safe(kind)] * len(layers) for kind in table],
            hovertemplate=f"%{{customdata}}, layer %{{x}}: {safe(label)} %{{z:.3g}}<extra></extra>",
        )
    )
    figure.update_xaxes(dtick=max(1, len(layers) // 8))
    label_rows(figure, list(table), row=max(20, 90 // len(table)))  # room for the scale of colours
    places = {(kind, layer): value for kind, row in table.items() for layer, value in row.items()}
    kind, layer = max(places, key=lambda place: abs(places[place]))
    finding = f"largest {label}: {kind} of layer {layer}, {places[kind, layer]:.2g}"
    return themed(figure, heading(title, finding, about), x_title="layer")


check_arguments(__name__)

"""Figures of neurons: scores by layer, one neuron's activations, its standing under each rule, its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError
from ..names import layer_of
from ..units import Circuit, UnitScores
from .tables import require
from .theme import COLOURS, GREY, SINGLE, safe, themed, wash, wrapped

_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def layer_distribution(scores: UnitScores, circuit: Circuit | None = None, *, title: str | None = None) -> go.Figure:
    """Score distribution of every layer (quantiles, so it stays light) with a circuit's neurons as points.

    Bands hold the middle 50 % and 98 % of a layer's neurons, the grey line its extremes; bars below count the
    circuit's neurons in each layer.
    """
    layers = [layer_of(site) for site in scores.scores]
    rows = 1 if circuit is None else 2
    figure = make_subplots(rows, 1, shared_xaxes=True, row_heights=[0.76, 0.24][:rows], vertical_spacing=0.08)
    for trace in _quantile_lines(scores, layers):
        figure.add_trace(trace, 1, 1)
    figure.update_yaxes(title_text=safe(scores.rule), row=1, col=1)
    if circuit is not None:
        counts = circuit.per_layer()
        figure.add_trace(_members(circuit), 1, 1)
        bars = go.Bar(x=counts["layer"], y=counts["n"], marker_color=COLOURS[1], width=0.5, showlegend=False)
        figure.add_trace(bars, 2, 1)
        figure.update_yaxes(title_text="selected", nticks=3, row=2, col=1)
    figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 12), row=rows, col=1)
    title = title or f"Scores of {len(scores):,} neurons by layer"
    return themed(figure, title, height=180 + 70 * (rows - 1), width=SINGLE)


def _quantile_lines(scores: UnitScores, layers: Sequence[int]) -> list[go.Scatter]:
    """A vertical line for each layer from quantile to quantile: extremes, 98 %, 50 %."""
    table = np.array([np.quantile(values.float().numpy(), _QUANTILES) for values in scores.scores.values()])
    x = [place for layer in layers for place in (layer, layer, None)]
    traces = []
    for (low, high), name, width, colour in (
        ((0, 6), "all neurons", 1, GREY),
        ((1, 5), "98 % of neurons", 4, wash(COLOURS[0], 0.45)),
        ((2, 4), "50 % of neurons", 8, COLOURS[0]),
    ):
        y = [value for row in table for value in (row[low], row[high], None)]
        line = {"color": colour, "width": width}
        traces.append(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip"))
    return traces


def _members(circuit: Circuit) -> go.Scatter:
    table = circuit.to_frame()
    return go.Scatter(
        x=table["layer"],
        y=table["score"],
        mode="markers",
        marker={"color": COLOURS[1], "size": 6, "symbol": "diamond-open", "line": {"width": 1.2}},
        text=[f"L{layer}.{n}: {score:.4g}" for layer, n, score in zip(table.layer, table.neuron, table.score)],
        hoverinfo="text",
        name=wrapped(f"{circuit.name} ({len(circuit)})", 46),
    )


def activation_histogram(
    activations: Mapping[str, Any], *, title: str = "Activation of one neuron", bins: int = 40
) -> go.Figure:
    """Distribution of one neuron's activation on several prompt sets, with the mean of each as a line."""
    arrays = {name: np.asarray(values, dtype=float) for name, values in activations.items()}
    if not arrays or any(not len(values) for values in arrays.values()):
        raise InputError("an activation histogram needs at least one activation in each set")
    joined = np.concatenate(list(arrays.values()))
    edges = np.linspace(joined.min(), joined.max() + 1e-9, bins + 1)
    figure = go.Figure()
    for number, (name, values) in enumerate(arrays.items()):
        counts, _ = np.histogram(values, edges)
        colour = COLOURS[number % len(COLOURS)]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts / len(values),
            width=np.diff(edges),
            marker_color=colour,
            opacity=0.6,
            name=wrapped(f"{name}: n = {len(values)}, mean {values.mean():.3g}", 46),
        )
        figure.add_vline(x=float(values.mean()), line={"color": colour, "dash": ("solid", "dash")[number % 2]})
    figure.update_xaxes(title_text="activation at the last token")
    figure.update_yaxes(title_text="share of prompts")
    return themed(figure, title, height=180, width=SINGLE, barmode="overlay")


def score_ranks(scores: Mapping[str, UnitScores], site: str, neuron: int, *, title: str | None = None) -> go.Figure:
    """Where one neuron stands under each rule: the share of neurons with a larger absolute score."""
    if not scores:
        raise InputError("score_ranks needs scores of at least one rule")
    rules = list(scores)
    ahead = [scores[rule].rank_of(site, neuron) for rule in rules]
    shares = [max(rank, 0.5) / len(scores[rule]) for rank, rule in zip(ahead, rules)]
    text = [f"rank {rank + 1:,} of {len(scores[rule]):,}" for rank, rule in zip(ahead, rules)]
    labels = [wrapped(rule) for rule in rules]
    figure = go.Figure(
        go.Bar(x=shares, y=labels, orientation="h", text=text, textposition="auto", marker_color=COLOURS[0])
    )
    lowest = np.floor(np.log10(min(shares)))
    figure.update_xaxes(title_text="share of neurons ranked higher", type="log", range=[lowest, 0], dtick=1)
    figure.update_yaxes(autorange="reversed")
    title = title or f"Standing of neuron L{layer_of(site)}.{neuron} under each rule"
    return themed(figure, title, height=20 + 24 * len(rules), width=SINGLE)


def promoted_tokens(
    table: pd.DataFrame,
    *,
    title: str = "Tokens this neuron promotes",
    x_title: str = "effect on the logit, per unit of activation",
) -> go.Figure:
    """Top and bottom tokens as bars; `table` has columns `token` and `logit`."""
    require(table, ("token", "logit"))
    ordered = table.sort_values("logit", ignore_index=True)
    names = [safe(repr(token)[1:-1].replace(" ", "␣") or "∅") for token in ordered["token"]]
    labels = [f"{name}{chr(0x200B) * i}" for i, name in enumerate(names)]  # equal tokens keep their own bar
    colours = [COLOURS[1] if value < 0 else COLOURS[0] for value in ordered["logit"]]
    figure = go.Figure(go.Bar(x=ordered["logit"], y=labels, orientation="h", marker_color=colours))
    figure.update_xaxes(title_text=safe(x_title))
    figure.update_yaxes(dtick=1)
    return themed(figure, title, height=20 + 15 * len(ordered), width=SINGLE)

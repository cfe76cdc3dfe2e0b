"""Figures of neurons: scores by layer, one neuron's activations, its standing under each rule, its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError, listed
from ..names import layer_of
from ..units import Circuit, UnitScores
from .theme import COLOURS, GREY, safe, themed, wash

_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def layer_distribution(scores: UnitScores, circuit: Circuit | None = None, *, title: str | None = None) -> go.Figure:
    """Score distribution of every layer (quantiles, so it stays light) with a circuit's neurons as points.

    Bands hold the middle 50 % and 98 % of a layer's neurons, the grey line its extremes; bars below count the
    circuit's neurons in each layer.
    """
    sites = list(scores.scores)
    layers = [layer_of(site) for site in sites]
    table = np.array([np.quantile(scores.scores[site].float().numpy(), _QUANTILES) for site in sites])
    rows = 1 if circuit is None else 2
    figure = make_subplots(rows, 1, shared_xaxes=True, row_heights=[0.76, 0.24][:rows], vertical_spacing=0.06)
    for (low, high), name, width, colour in (
        ((0, 6), "all neurons", 1, GREY),
        ((1, 5), "98 % of neurons", 7, wash(COLOURS[0], 0.45)),
        ((2, 4), "50 % of neurons", 13, COLOURS[0]),
    ):
        x, y = [], []
        for layer, row in zip(layers, table):
            x += [layer, layer, None]
            y += [row[low], row[high], None]
        line = {"color": colour, "width": width}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip"), 1, 1)
    figure.update_yaxes(title_text=safe(scores.rule), row=1, col=1)
    if circuit is not None:
        own = circuit.to_frame()
        text = [f"L{layer}.{neuron}: {score:.4g}" for layer, neuron, score in zip(own.layer, own.neuron, own.score)]
        marker = {"color": COLOURS[1], "size": 8, "symbol": "diamond-open", "line": {"width": 1.5}}
        points = go.Scatter(
            x=own["layer"],
            y=own["score"],
            mode="markers",
            marker=marker,
            text=text,
            hoverinfo="text",
            name=f"{safe(circuit.name)} ({len(circuit)})",
        )
        figure.add_trace(points, 1, 1)
        counts = circuit.per_layer()
        bars = go.Bar(x=counts["layer"], y=counts["n"], marker_color=COLOURS[1], width=0.5, showlegend=False)
        figure.add_trace(bars, 2, 1)
        figure.update_yaxes(title_text="selected", row=2, col=1)
    figure.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 16), row=rows, col=1)
    return themed(figure, title or f"Scores of {len(scores):,} neurons by layer", height=560 if circuit else 460)


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
            name=f"{safe(name)}: n = {len(values)}, mean {values.mean():.3g}",
        )
        figure.add_vline(x=float(values.mean()), line={"color": colour, "dash": ("solid", "dash")[number % 2]})
    figure.update_xaxes(title_text="activation at the last token")
    figure.update_yaxes(title_text="share of prompts")
    return themed(figure, title, barmode="overlay")


def score_ranks(scores: Mapping[str, UnitScores], site: str, neuron: int, *, title: str | None = None) -> go.Figure:
    """Where one neuron stands under each rule: the share of neurons with a larger absolute score."""
    if not scores:
        raise InputError("score_ranks needs scores of at least one rule")
    rules = list(scores)
    ahead = [scores[rule].rank_of(site, neuron) for rule in rules]
    shares = [max(rank, 0.5) / len(scores[rule]) for rank, rule in zip(ahead, rules)]
    text = [f"rank {rank + 1:,} of {len(scores[rule]):,}" for rank, rule in zip(ahead, rules)]
    labels = [safe(rule) for rule in rules]
    figure = go.Figure(
        go.Bar(x=shares, y=labels, orientation="h", text=text, textposition="auto", marker_color=COLOURS[0])
    )
    figure.update_xaxes(title_text="share of neurons ranked higher (log scale)", type="log", range=[-4.2, 0])
    figure.update_yaxes(autorange="reversed")
    return themed(figure, title or f"Standing of neuron L{layer_of(site)}.{neuron} under each rule", height=380)


def promoted_tokens(table: Any, *, title: str = "Tokens this neuron promotes") -> go.Figure:
    """Top and bottom tokens as bars; `table` has columns `token` and `logit`."""
    missing = [name for name in ("token", "logit") if name not in table.columns]
    if missing or not len(table):
        raise InputError(f"promoted_tokens needs rows with columns token and logit; it has {listed(table.columns)}")
    ordered = table.sort_values("logit", ignore_index=True)
    names = [safe(repr(token)[1:-1].replace(" ", "␣") or "∅") for token in ordered["token"]]
    labels = [f"{name}{chr(0x200B) * i}" for i, name in enumerate(names)]  # equal tokens keep their own bar
    colours = [COLOURS[1] if value < 0 else COLOURS[0] for value in ordered["logit"]]
    figure = go.Figure(go.Bar(x=ordered["logit"], y=labels, orientation="h", marker_color=colours))
    figure.update_xaxes(title_text="direct effect on the logit, per unit of activation")
    figure.update_yaxes(tickfont={"size": 12}, dtick=1)
    return themed(figure, title, height=max(360, 26 * len(ordered) + 120))

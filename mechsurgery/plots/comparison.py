"""Base against instruct: layer profile, per-neuron scatter, overlap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from ..errors import InputError, listed
from ..names import layer_of
from ..units import Circuit, UnitScores
from .theme import DOUBLE, SINGLE, colorbar, look, themed, wrapped


def comparison_figures(scores: Mapping[str, UnitScores], circuits: Mapping[str, Circuit]) -> dict[str, go.Figure]:
    """Layer profile, per-neuron scatter and overlap of two models, by name."""
    first, second = scores.values()
    return {
        "layer_profile": circuit_profile(circuits),
        "neuron_scatter": neuron_scatter(first, second, circuits=circuits),
        "overlap": overlap(circuits),
    }


def circuit_profile(circuits: Mapping[str, Circuit], *, title: str = "Share of the circuit in each layer") -> go.Figure:
    """Share of every circuit's neurons in each layer, side by side."""
    if not circuits:
        raise InputError("circuit_profile needs at least one circuit")
    figure = go.Figure()
    for number, (name, circuit) in enumerate(circuits.items()):
        table = circuit.per_layer()
        figure.add_bar(
            x=table["layer"],
            y=table["share"],
            name=wrapped(f"{name} ({len(circuit)} neurons)", 46),
            customdata=table["n"],
            marker=look(number).bar(),
            hovertemplate="layer %{x}: %{customdata} neurons, %{y:.1%}<extra></extra>",
        )
    figure.update_xaxes(title_text="layer", dtick=max(1, len(next(iter(circuits.values())).widths) // 16))
    figure.update_yaxes(title_text="share of the circuit", tickformat=".0%")
    return themed(figure, title, height=180, width=SINGLE, barmode="group")


def neuron_scatter(
    a: UnitScores,
    b: UnitScores,
    *,
    circuits: Mapping[str, Circuit] | None = None,
    bins: int = 120,
    title: str = "Score of every neuron in both models",
) -> go.Figure:
    """Scores of two models against each other: density of all neurons, the circuits' neurons as points.

    `circuits` are two, in the order of the scores; their names label the axes.
    """
    if a.widths != b.widths:
        raise InputError(f"the scores cover different hook points: {listed(a.widths, 3)} against {listed(b.widths, 3)}")
    names = list(circuits) if circuits else ["first model", "second model"]
    figure = go.Figure(_density(a, b, bins))
    if circuits and len(circuits) == 2:
        first, second = (circuit.members() for circuit in circuits.values())
        parts = (
            ("in both", first & second),
            (f"only {names[0]}", first - second),
            (f"only {names[1]}", second - first),
        )
        for number, (name, members) in enumerate(parts):
            chosen = sorted(members)
            figure.add_scatter(
                x=[a.score_of(*unit) for unit in chosen],
                y=[b.score_of(*unit) for unit in chosen],
                mode="markers",
                marker=look(number).marker(7, line={"width": 1, "color": "white"}),
                text=[f"L{layer_of(site)}.{index}" for site, index in chosen],
                name=wrapped(f"{name} ({len(chosen)})", 46),
            )
    figure.update_xaxes(title_text=wrapped(f"{a.rule} in {names[0]}", 40))
    figure.update_yaxes(title_text=wrapped(f"{b.rule} in {names[1]}", 40))
    return themed(figure, title, height=240, width=SINGLE)


def _density(a: UnitScores, b: UnitScores, bins: int) -> go.Heatmap:
    """How many neurons have each pair of scores, on a logarithmic grey scale; cells without any stay white."""
    x = np.concatenate([v.float().numpy() for v in a.scores.values()])
    y = np.concatenate([b.scores[site].float().numpy() for site in a.scores])
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=bins)
    density = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    return go.Heatmap(
        x=(x_edges[:-1] + x_edges[1:]) / 2,
        y=(y_edges[:-1] + y_edges[1:]) / 2,
        z=np.round(density.T, 2),
        colorscale="Greys",
        zmin=-0.8,
        hoverinfo="skip",
        colorbar=colorbar("neurons", tickvals=[0, 1, 2, 3], ticktext=["1", "10", "100", "1,000"]),
    )


def overlap(circuits: Mapping[str, Circuit], *, title: str = "Overlap of circuits (Jaccard)") -> go.Figure:
    """Jaccard index of every pair, with shared and expected-by-chance counts on hover."""
    if len(circuits) < 2:
        raise InputError("overlap needs at least two circuits")
    names = [wrapped(name, 18) for name in circuits]
    pairs = [[p.overlap(q) for q in circuits.values()] for p in circuits.values()]
    jaccard = [[cell["jaccard"] for cell in row] for row in pairs]
    hover = [[f"{c['shared']} shared, {c['expected_shared']:.1f} expected by chance" for c in row] for row in pairs]
    figure = go.Figure(
        go.Heatmap(
            x=names,
            y=names,
            z=jaccard,
            zmin=0,
            zmax=1,
            colorscale="Blues",
            text=hover,
            hoverinfo="text",
            texttemplate="%{z:.2f}",
            colorbar=colorbar(),
        )
    )
    upright = sum(map(len, names)) > 24  # longer names stand upright and need height of their own
    figure.update_xaxes(tickangle=90 if upright else 0)
    figure.update_yaxes(autorange="reversed")
    height = 20 + 44 * len(names) + upright * 6 * max(map(len, names))
    return themed(figure, title, height=height, width=SINGLE if len(names) < 5 else DOUBLE)

"""Base against instruct: where the circuits are, scores by layer, every neuron in both, and the overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from ..names import neuron
from ..units import Circuit, UnitScores
from .layout import AUTO, heading, label_rows, themed
from .tables import known
from .theme import COLOURS, COUNTS, GREY, colorbar, look, safe

#: Up to so many neurons, each is a point of its own; of more, only those of the largest scores beside a density.
_POINTS, _LARGEST = 5000, 1000


def circuit_profile(circuits: Mapping[str, Circuit], *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """Share of every circuit's neurons in each layer, side by side; the title says the fullest layer of each."""
    if not circuits:
        raise InputError("circuit_profile needs at least one circuit")
    figure, found = go.Figure(), []
    for number, (name, circuit) in enumerate(circuits.items()):
        table = circuit.per_layer()
        facts = safe(known(circuit.info))
        figure.add_bar(
            x=table["layer"],
            y=table["share"],
            name=safe(f"{name} ({len(circuit)} neurons)"),
            marker=look(number).bar(),
            hovertext=[
                f"{safe(name)}, layer {layer}: {n} neurons, {share:.1%}<br>{facts}"
                for layer, n, share in zip(table["layer"], table["n"], table["share"])
            ],
            hoverinfo="text",
        )
        top = table.loc[table["n"].idxmax()]
        found.append(f"{name} {top['share']:.0%} in layer {top['layer']:g}")
    figure.update_xaxes(dtick=max(1, len(next(iter(circuits.values())).widths) // 8))
    figure.update_yaxes(tickformat=".0%", nticks=6)
    words: dict[str, Any] = {"x_title": "layer", "y_title": "share of the circuit"}
    return themed(
        figure, heading(title, f"fullest layer: {', '.join(found)}", about), height=150, barmode="group", **words
    )


def neuron_scatter(
    a: UnitScores,
    b: UnitScores,
    *,
    circuits: Mapping[str, Circuit] | None = None,
    bins: int = 120,
    title: str | None = AUTO,
    about: str = "",
) -> go.Figure:
    """Scores of two models against each other: one neuron is one point, the circuits' neurons stand out.

    Of more than 5,000 neurons, the density is shown, and as points those with the largest scores. `circuits` are two,
    in the order of the scores; their names label the axes. The title says the correlation and the shared neurons.
    """
    if a.widths != b.widths:
        raise InputError(f"the scores cover different hook points: {listed(a.widths, 3)} against {listed(b.widths, 3)}")
    names = list(circuits) if circuits else ["first model", "second model"]
    x, y = (np.concatenate([one.scores[site].float().numpy() for site in a.scores]) for one in (a, b))
    units = [(site, i) for site, width in a.widths.items() for i in range(width)] if len(x) <= _POINTS else []
    figure = go.Figure()
    if not units:
        figure.add_trace(_density(x, y, bins))
        largest = np.argsort(-np.maximum(np.abs(x) / (np.abs(x).max() or 1), np.abs(y) / (np.abs(y).max() or 1)))
        units = _units_at(a, np.sort(largest[:_LARGEST]))
    parts: list[tuple[str, Sequence[tuple[str, int]]]] = []
    finding = ""
    if circuits and len(circuits) == 2:
        first, second = (circuit.members() for circuit in circuits.values())
        parts.append(("in both", sorted(first & second)))
        parts.append((f"only {names[0]}", sorted(first - second)))
        parts.append((f"only {names[1]}", sorted(second - first)))
        finding = f"{len(first & second)} of {len(first)} and {len(second)} chosen neurons are shared; "
    rest = set().union(*(members for _, members in parts))
    others = [unit for unit in units if unit not in rest]
    figure.add_trace(_neurons(a, b, others, "other neurons", {"color": GREY, "size": 3, "opacity": 0.7}))
    for number, (name, members) in enumerate(parts):
        halo = {"width": 0.6, "color": "white"}
        figure.add_trace(_neurons(a, b, members, f"{name} ({len(members)})", look(number).marker(6, line=halo)))
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=6)
    r = _correlation(x, y)
    finding += f"scores correlate with r = {r:.2f} over {len(x):,}" if r == r else "scores of one model are all equal"
    words: dict[str, Any] = {"x_title": f"{a.rule} in {names[0]}", "y_title": f"{b.rule} in {names[1]}"}
    return themed(figure, heading(title, finding, about), height=220, **words)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r to two digits; not a number where one side does not vary."""
    return round(float(np.corrcoef(x, y)[0, 1]), 2) + 0.0 if x.std() and y.std() else float("nan")


def _units_at(scores: UnitScores, places: np.ndarray) -> list[tuple[str, int]]:
    """Units by their places in all hook points one after the other."""
    sites, widths = list(scores.widths), np.array(list(scores.widths.values()))
    ends = np.cumsum(widths)
    found = np.searchsorted(ends, places, side="right")
    return [(sites[s], int(place - (ends[s] - widths[s]))) for s, place in zip(found, places)]


def _neurons(
    a: UnitScores, b: UnitScores, units: Sequence[tuple[str, int]], name: str, marker: Mapping[str, object]
) -> go.Scatter:
    """Units as points that say which they are and what they score in both."""
    points = [(float(f"{a.score_of(*unit):.4g}"), float(f"{b.score_of(*unit):.4g}")) for unit in units]
    models = [safe(one.info.get("model", "")) or side for one, side in ((a, "across"), (b, "up"))]
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        marker=marker,
        text=[neuron(site, index) for site, index in units],
        hovertemplate=f"%{{text}}<br>{models[0]}: %{{x}}<br>{models[1]}: %{{y}}<extra></extra>",
        name=safe(name),
    )


def _density(x: np.ndarray, y: np.ndarray, bins: int) -> go.Heatmap:
    """How many neurons have each pair of scores, on a logarithmic scale from grey (one) to black; none is white."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=bins)
    density = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    return go.Heatmap(
        x=(x_edges[:-1] + x_edges[1:]) / 2,
        y=(y_edges[:-1] + y_edges[1:]) / 2,
        z=np.round(density.T, 2),
        colorscale=COUNTS,
        zmin=0,
        hoverinfo="skip",
        colorbar=colorbar("neurons", tickvals=[0, 1, 2, 3, 4, 5], ticktext=["1", "10", "100", "1,000", "10⁴", "10⁵"]),
    )


def overlap(circuits: Mapping[str, Circuit], *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """How many neurons every two circuits share, beside how many two random ones of their sizes would (diamonds).

    The title says it of the first two, with their Jaccard index.
    """
    if len(circuits) < 2:
        raise InputError("overlap needs at least two circuits")
    pairs = {f"{a} and {b}": circuits[a].overlap(circuits[b]) for a, b in combinations(circuits, 2)}
    rows = list(range(len(pairs)))
    told = [
        f"{safe(name)}: {c['shared']} shared, {c['expected_shared']:.2g} expected by chance, Jaccard {c['jaccard']:.2f}"
        for name, c in pairs.items()
    ]
    figure = go.Figure()
    figure.add_bar(
        x=[cell["shared"] for cell in pairs.values()],
        y=rows,
        orientation="h",
        name="shared",
        marker={"color": COLOURS[0]},
        hovertext=told,
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[cell["expected_shared"] for cell in pairs.values()],
        y=rows,
        mode="markers",
        name="expected by chance",
        marker={"symbol": "diamond", "size": 7, "color": COLOURS[1], "line": {"width": 1, "color": "white"}},
        cliponaxis=False,
        hovertext=told,
        hoverinfo="text",
    )
    ends = [min(cell["size"], cell["other_size"]) for cell in pairs.values()]
    figure.update_xaxes(range=[0, max(*ends, 1) * 1.04], nticks=5)
    label_rows(figure, list(pairs), row=26)
    first, cell = next(iter(pairs.items()))
    finding = (
        f"{first} share {cell['shared']} of {ends[0]} neurons "
        f"({cell['expected_shared']:.2g} expected by chance, Jaccard {cell['jaccard']:.2f})"
    )
    return themed(figure, heading(title, finding, about), x_title="shared neurons (axis ends at the smaller circuit)")


check_arguments(__name__)

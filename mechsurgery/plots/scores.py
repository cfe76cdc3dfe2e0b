"""Figures of the scores of all units: by layer, in one model or several side by side, and as histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from ..names import layer_of
from ..units import Circuit, UnitScores
from .layout import AUTO, heading, panels, themed
from .tables import known
from .theme import COLOURS, GREY, safe, stripes, wash

_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
Scores = UnitScores | Mapping[str, UnitScores]
Circuits = Circuit | Mapping[str, Circuit] | None


def layer_distribution(
    scores: Scores, circuit: Circuits = None, *, title: str | None = AUTO, about: str = ""
) -> go.Figure:
    """Score distribution of every layer (quantiles, so it stays light) with a circuit's neurons as points.

    Bands hold the middle 50 % and 98 % of a layer's neurons, the grey line its extremes; bars below count the
    circuit's neurons in each layer. {name: scores} of several models stand side by side on one scale, each with the
    circuit of its name. The title says the layer of each whose middle 98 % spread widest.
    """
    models, circuits = _by_name(scores, circuit)
    names = list(models)
    several, n = len(models) > 1, len(models)
    counted = bool(circuits)
    figure = panels(
        [name if several else "" for name in names] + [""] * (n * counted),
        [150] * n + [52] * (n * counted),
        columns=n,
        widths=[1.0] * n,
        share_y="row",
    )
    for number, (name, one) in enumerate(models.items(), 1):
        for trace in _quantile_lines(one):
            figure.add_trace(trace.update(legendgroup=trace.name, showlegend=number == 1), number, 1)
        figure.update_xaxes(dtick=max(1, len(one.scores) // max(1, 8 // n)))
        if name in circuits:
            counts, chosen = circuits[name].per_layer(), _members(circuits[name], one)
            chosen.update(name="circuit" if several else chosen.name, legendgroup="circuit")
            figure.add_trace(chosen.update(showlegend=name == next(iter(circuits))), number, 1)
            colour = {"marker_color": COLOURS[1], "width": 0.6, "showlegend": False}
            told = [f"layer {layer}: {count} selected" for layer, count in zip(counts["layer"], counts["n"])]
            bars = go.Bar(x=counts["layer"], y=counts["n"], hovertext=told, hoverinfo="text", **colour)
            figure.add_trace(bars, n + number, 1)
    figure.update_yaxes(nticks=6)
    # The same for all, so that bars stand below their layers, and no layer is cut at the edge.
    layers = {layer_of(site) for one in models.values() for site in one.scores}
    layers |= {layer_of(site) for one in circuits.values() for site in one.units}
    figure.update_xaxes(range=[min(layers) - 0.6, max(layers) + 0.6])
    for number in range(n * counted):
        figure.update_yaxes(nticks=3, rangemode="tozero", row=n + 1 + number, col=1)
    if counted:
        figure.update_yaxes(title_text="selected", row=n + 1, col=1)
    finding = "98% of scores spread widest in " + ", ".join(
        _widest(name if several else "", one) for name, one in models.items()
    )
    return themed(figure, heading(title, finding, about), x_title="layer", y_title=_rule(models))


def _by_name(scores: Scores, circuit: Circuits) -> tuple[dict[str, UnitScores], dict[str, Circuit]]:
    """Scores and circuits by the names of models; one alone is named by what it is."""
    models = {"": scores} if isinstance(scores, UnitScores) else dict(scores)
    if not models:
        raise InputError("no scores to draw; give UnitScores or {name: UnitScores}")
    circuits = (
        dict(circuit) if isinstance(circuit, Mapping) else {} if circuit is None else {next(iter(models)): circuit}
    )
    strangers = [name for name in circuits if name not in models]
    if strangers:
        raise InputError(f"no scores named {listed(strangers)} for these circuits; there are {listed(models)}")
    return models, circuits


def _rule(models: Mapping[str, UnitScores]) -> str:
    return " / ".join(dict.fromkeys(one.rule for one in models.values()))


def _quantiles(scores: UnitScores) -> np.ndarray:
    """Quantiles of every layer's scores, `[layer, quantile]`."""
    return np.array([np.quantile(values.float().numpy(), _QUANTILES) for values in scores.scores.values()])


def _widest(name: str, scores: UnitScores) -> str:
    table, layers = _quantiles(scores), [layer_of(site) for site in scores.scores]
    top = int((table[:, 5] - table[:, 1]).argmax())
    place = f"layer {layers[top]} ({table[top, 1]:.2g} to {table[top, 5]:.2g})".replace("-", "−")
    return f"{name} {place}" if name else place


def _quantile_lines(scores: UnitScores) -> list[go.Scatter]:
    """A vertical line for each layer from quantile to quantile: extremes, 98 %, 50 %."""
    table = _quantiles(scores)
    layers = [layer_of(site) for site in scores.scores]
    x = [place for layer in layers for place in (layer, layer, None)]
    wide = 0.5 if len(layers) > 24 else 1.0
    traces = []
    for (low, high), name, width, colour in (
        ((0, 6), "all neurons", 1, GREY),
        ((1, 5), "98% of neurons", 4 * wide, wash(COLOURS[0], 0.45)),
        ((2, 4), "50% of neurons", 7 * wide, COLOURS[0]),
    ):
        y = [value for row in table for value in (row[low], row[high], None)]
        told = [f"layer {layer}: {name} {row[low]:.3g} to {row[high]:.3g}" for layer, row in zip(layers, table)]
        texts = [text for text in told for _ in range(3)]
        line = {"color": colour, "width": width}
        traces.append(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, text=texts, hoverinfo="text"))
    return traces


def _members(circuit: Circuit, scores: UnitScores) -> go.Scatter:
    """The circuit's neurons at their scores; from the circuit itself where these scores lack its units."""
    table = circuit.to_frame()
    facts = known({**scores.info, **{key: circuit.info[key] for key in ("seed",) if key in circuit.info}})
    units = zip(table.layer, table.neuron, table.score)
    return go.Scatter(
        x=table["layer"],
        y=table["score"],
        mode="markers",
        marker={"color": COLOURS[1], "size": 5, "symbol": "diamond-open", "line": {"width": 1}},
        text=[f"L{layer}.{n}: {safe(scores.rule)} {score:.4g}<br>{safe(facts)}" for layer, n, score in units],
        hoverinfo="text",
        name=safe(f"{circuit.name} ({len(circuit)})"),
    )


def score_histogram(
    scores: Scores,
    circuit: Circuits = None,
    *,
    title: str | None = AUTO,
    about: str = "",
    x_title: str | None = None,
    bins: int = 61,
) -> go.Figure:
    """How many units have each score (logarithmic), a panel for each of {name: scores}; a circuit's units stand out.

    Dotted lines are where the chosen tails begin. The title says how many units are chosen and their least score.
    """
    models, circuits = _by_name(scores, circuit)
    height = 90 if len(models) > 1 else 150
    figure = panels(list(models), [height] * len(models), columns=2, share_x=False, least=100)
    for number, (name, one) in enumerate(models.items(), 1):
        values = _values(one)
        edges = np.histogram_bin_edges(values, bins)
        every = _histogram(values, edges, "all units", {"color": GREY}, one)
        figure.add_trace(every.update(showlegend=bool(circuits) and number == 1), number, 1)
        if name not in circuits:
            continue
        chosen = _chosen(one, circuits[name])
        shade = {"color": COLOURS[1], "pattern": stripes("/", size=4)}
        marked = _histogram(chosen, edges, "chosen", shade, one)
        figure.add_trace(marked.update(showlegend=name == next(iter(circuits))), number, 1)
        for tail in (chosen[chosen >= 0].min(initial=np.inf), chosen[chosen < 0].max(initial=-np.inf)):
            if np.isfinite(tail):
                figure.add_vline(x=float(tail), line={"color": "#222", "dash": "dot", "width": 1}, row=number, col=1)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    figure.update_xaxes(nticks=5)
    words: dict[str, Any] = {"x_title": x_title or _rule(models), "y_title": "units"}
    return themed(figure, heading(title, _tails(models, circuits), about), barmode="overlay", bargap=0, **words)


def _values(scores: UnitScores) -> np.ndarray:
    return np.concatenate([value.float().numpy() for value in scores.scores.values()])


def _chosen(scores: UnitScores, circuit: Circuit) -> np.ndarray:
    """The scores of a circuit's units."""
    return np.array([scores.score_of(*unit) for unit in sorted(circuit.members())])


def _tails(models: Mapping[str, UnitScores], circuits: Mapping[str, Circuit]) -> str:
    """How many units are chosen and their least absolute score; without a circuit, how large the scores are."""
    found = []
    for name in circuits or list(models)[:1]:
        values, prefix = np.abs(_values(models[name])), f"{name}: " if len(models) > 1 else ""
        if name not in circuits:
            size = f"{np.quantile(values, 0.99):.2g}, largest {values.max():.2g}"
            found.append(f"{prefix}99% of {len(values):,} units at most {size} in size")
            continue
        chosen = np.abs(_chosen(models[name], circuits[name]))
        least = f", all with |score| ≥ {chosen.min():.2g}" if len(chosen) else ""
        found.append(f"{prefix}{len(chosen):,} of {len(values):,} units chosen{least}")
    return "; ".join(found)


def _histogram(
    values: np.ndarray, edges: np.ndarray, name: str, marker: Mapping[str, object], scores: UnitScores
) -> go.Bar:
    counts, _ = np.histogram(values, edges)
    facts = f"{safe(scores.rule)}, {safe(known(scores.info))}"
    told = [f"{count:,} {name} from {a:.3g} to {b:.3g}<br>{facts}" for count, a, b in zip(counts, edges, edges[1:])]
    shown = {"hovertext": told, "hoverinfo": "text", "marker": {**marker, "line": {"width": 0}}, "legendgroup": name}
    heights = np.where(counts > 0, counts, np.nan)
    return go.Bar(x=(edges[:-1] + edges[1:]) / 2, y=heights, width=np.diff(edges), name=name, **shown)


check_arguments(__name__)

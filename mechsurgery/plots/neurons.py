"""Figures of one neuron: its activations, its standing under each rule, the tokens it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError
from .layout import AUTO, heading, label_rows, themed
from .tables import require
from .theme import BASELINE, COLOURS, GREY, look, safe, stripes


def activation_histogram(
    activations: Mapping[str, Any],
    *,
    title: str | None = AUTO,
    about: str = "",
    x_title: str = "activation at the last token",
    bins: int = 40,
) -> go.Figure:
    """Distribution of one neuron's activation on several prompt sets, with the mean of each as a line.

    The title says the means.
    """
    try:
        arrays = {name: np.asarray(values, dtype=float).ravel() for name, values in activations.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"activations that are no numbers ({error}); give {{set: activations}}") from error
    if not arrays or any(not len(values) or not np.isfinite(values).all() for values in arrays.values()):
        raise InputError("an activation histogram needs at least one activation in each set, all of them finite")
    joined = np.concatenate(list(arrays.values()))
    low, high = float(joined.min()), float(joined.max())
    # Where all are equal the one bar stands in the middle of an axis that can be read.
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high + 1e-9)
    edges = np.linspace(low, high, bins + 1)
    figure = go.Figure()
    for number, (name, values) in enumerate(arrays.items()):
        counts, _ = np.histogram(values, edges)
        style = look(number)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts / len(values),
            width=np.diff(edges),
            marker={**style.bar(), "line": {"color": style.colour, "width": 0.6}},
            opacity=0.65,
            name=safe(f"{name}: n = {len(values)}, mean {values.mean():.3g}"),
            hovertext=[
                f"{safe(name)}: {c} of {len(values)} from {a:.3g} to {b:.3g}"
                for c, a, b in zip(counts, edges, edges[1:])
            ],
            hoverinfo="text",
        )
        figure.add_vline(x=float(values.mean()), line={"color": style.colour, "dash": style.dash, "width": 1.6})
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(tickformat=".0%", nticks=5)
    finding = "mean activation " + ", ".join(
        f"{values.mean():.3g} on {name} ({len(values)})" for name, values in arrays.items()
    )
    words: dict[str, Any] = {"x_title": x_title, "y_title": "share of prompts"}
    return themed(figure, heading(title, finding, about), height=150, barmode="overlay", **words)


def score_ranks(ranks: pd.DataFrame, *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """Rank of one unit by absolute score under each rule (1 is best), further right and longer the better it is.

    `ranks` has columns rule, score, rank (from 1) and of, such as `UnitView.ranks`.
    """
    require(ranks, ("rule", "score", "rank", "of"))
    figure, most = go.Figure(), int(ranks["of"].max())
    for row, (rule, score, rank, of) in enumerate(ranks[["rule", "score", "rank", "of"]].itertuples(index=False)):
        figure.add_scatter(
            x=[of, rank],
            y=[row, row],
            mode="lines+markers",
            line={"color": COLOURS[0], "width": 4},
            marker={"size": [0, 10], "color": COLOURS[0], "opacity": 1},
            hovertext=f"{safe(rule)}: rank {rank:,} of {of:,}, score {score:.4g}",
            hoverinfo="text",
            showlegend=False,
        )
        figure.add_annotation(
            x=np.log10(rank), y=row, text=f"{rank:,}", showarrow=False, xanchor="left", xshift=8, font={"size": 9.3}
        )
    figure.update_xaxes(type="log", range=[np.log10(most), -0.16 * np.log10(max(most, 2))], dtick=1)
    label_rows(figure, ranks["rule"].tolist())
    best = ranks.loc[ranks["rank"].idxmin()]
    finding = f"ranks {best['rank']:,} of {best['of']:,} by {best['rule']}" + (
        f", {ranks['rank'].max():,} at worst" if len(ranks) > 1 else ""
    )
    return themed(figure, heading(title, finding, about), x_title="rank by absolute score (1 is best)")


def dose_response(table: pd.DataFrame, *, what: str, title: str | None = AUTO, about: str = "") -> go.Figure:
    """A behaviour's number, called `what`, over the multiplier m of one unit; m = 1, the unmodified model, is dotted.

    `table` has columns m and value, such as `UnitView.effects`; what is not a number is left out. Raises `InputError`
    where nothing is left.
    """
    require(table, ("m", "value"))
    table = table[table["value"].notna()].sort_values("m")
    if table.empty:
        raise InputError("no value of the behaviour is a number: there is nothing to draw; measure it first")
    figure = go.Figure()
    figure.add_scatter(
        x=table["m"],
        y=table["value"],
        mode="lines+markers",
        line=look(0).line(),
        marker=look(0).marker(),
        hovertemplate="m = %{x}: %{y:.4g}<extra></extra>",
        showlegend=False,
    )
    at = table.set_index("m")["value"]
    finding = f"{what} from {at.iloc[0]:.3g} at m = {at.index[0]:g} to {at.iloc[-1]:.3g} at m = {at.index[-1]:g}"
    if len(at) == 1:
        finding = f"{what} is {at.iloc[0]:.3g} at m = {at.index[0]:g}"
    if 1.0 in at.index:
        figure.add_hline(y=float(at[1.0]), line=BASELINE)
    if {0.0, 1.0} <= set(at.index):
        finding = f"ablated, {what} is {at[0.0]:.3g} (before {at[1.0]:.3g})"
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=5)
    words: dict[str, Any] = {"x_title": "m (0 ablates, 1 is unmodified, 2 doubles)", "y_title": "behaviour's number"}
    return themed(figure, heading(title, finding, about), height=150, **words)


def promoted_tokens(
    table: pd.DataFrame,
    *,
    title: str | None = AUTO,
    about: str = "",
    x_title: str = "effect on the logit, per unit of activation",
) -> go.Figure:
    """Top and bottom tokens as bars, the most promoted at the top; `table` has columns `token` and `logit`."""
    require(table, ("token", "logit"))
    ordered = table.sort_values("logit", ascending=False, ignore_index=True)
    names = [repr(str(token))[1:-1].replace(" ", "␣") or "∅" for token in ordered["token"]]
    low = ordered["logit"] < 0
    marker = {
        "color": [COLOURS[1] if value else COLOURS[0] for value in low],
        "pattern": stripes(["/" if value else "" for value in low]),
    }
    figure = go.Figure(
        go.Bar(
            x=ordered["logit"],
            y=list(range(len(names))),
            orientation="h",
            marker=marker,
            hovertext=[f"{safe(name)}: {value:+.4g}" for name, value in zip(names, ordered["logit"])],
            hoverinfo="text",
        )
    )
    figure.update_xaxes(nticks=5, zeroline=True, zerolinecolor=GREY)
    label_rows(figure, names, row=14)
    ends = [f"{name} ({value:+.2g})" for name, value in zip(names, ordered["logit"])]
    finding = f"writes most for {ends[0]}" + (f", most against {ends[-1]}" if low.iloc[-1] else "")
    return themed(figure, heading(title, finding, about), x_title=x_title)


check_arguments(__name__)

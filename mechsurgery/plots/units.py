"""Figures of one unit: where it stands under each rule, and what scaling it alone does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .tables import require
from .theme import COLOURS, GREY, SINGLE, safe, themed, wrapped


def standing(ranks: pd.DataFrame, *, title: str = "Where the unit stands under each rule") -> go.Figure:
    """A dot for each rule at the unit's rank (1, the top, at the left; logarithmic), on a line as long as all units.

    `ranks` has columns rule, score, rank (from 1) and of.
    """
    require(ranks, ("rule", "score", "rank", "of"))
    labels = [wrapped(rule) for rule in ranks["rule"]]
    figure = go.Figure()
    for label, of in zip(labels, ranks["of"]):
        figure.add_scatter(
            x=[1, of], y=[label, label], mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip"
        )
    figure.add_scatter(
        x=ranks["rank"],
        y=labels,
        mode="markers+text",
        marker={"color": COLOURS[0], "size": 8},
        text=[f"{rank:,}" for rank in ranks["rank"]],
        textposition="top center",
        cliponaxis=False,
        hovertext=[
            f"rank {r:,} of {of:,}, score {s:.4g}" for r, of, s in zip(ranks["rank"], ranks["of"], ranks["score"])
        ],
        hoverinfo="text",
    )
    most = int(ranks["of"].max())
    figure.update_xaxes(type="log", dtick=1, range=[-0.1, np.log10(most) + 0.1])
    figure.update_xaxes(title_text=f"rank by |score| (1 is the top of {most:,})")
    figure.update_yaxes(autorange="reversed")
    return themed(figure, title, height=30 + 26 * len(labels), width=SINGLE, showlegend=False)


def dose_response(table: pd.DataFrame, *, y_title: str, title: str = "One unit alone scaled by m") -> go.Figure:
    """A behaviour's number over the multiplier of one unit; `table` has columns m and value, m = 1 is unmodified."""
    require(table, ("m", "value"))
    table = table.sort_values("m")
    figure = go.Figure()
    figure.add_scatter(
        x=table["m"],
        y=table["value"],
        mode="lines+markers",
        line={"color": COLOURS[0]},
        hovertemplate="m = %{x}: %{y:.4g}<extra></extra>",
        showlegend=False,
    )
    base = table.loc[table["m"] == 1, "value"]
    if len(base):
        figure.add_hline(y=float(base.iloc[0]), line={"color": GREY, "dash": "dot"})
    figure.update_xaxes(title_text="m (0 ablates, 1 is unmodified, 2 doubles)")
    figure.update_yaxes(title_text=safe(y_title))
    return themed(figure, title, height=170, width=SINGLE)

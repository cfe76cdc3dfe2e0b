"""A localiser's curve: what the model says against how many of its units are put out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .tables import require
from .theme import SINGLE, errors, look, themed, wrapped

#: Series of one figure at most: looks differ without colour only that far.
_MOST = 7


def outcome_by_size(
    table: pd.DataFrame,
    *,
    value: str = "well",
    always: tuple[str, ...] = ("difference (published)", "random"),
    title: str = "Answers done well once units are put out",
    y_title: str = "share done well",
) -> go.Figure:
    """A line for each localiser over the number of units put out (logarithmic), with `always` and the best others.

    `table` has columns localiser, k and `value`, a share; rows named "recorded neurons" are one point, the truth.
    """
    require(table, ("localiser", "k", value))
    lines = table[~table["localiser"].isin(["baseline", "recorded neurons"])]
    means = lines.groupby("localiser", sort=False)[value].mean()
    best = means.drop([name for name in always if name in means]).nlargest(_MOST - len(always)).index
    figure = go.Figure()
    for number, name in enumerate([*[name for name in always if name in means], *best]):
        own, style = lines[lines["localiser"] == name].sort_values("k"), look(number, grey=name == "random")
        figure.add_scatter(
            x=own["k"],
            y=own[value],
            mode="lines+markers",
            name=wrapped(name),
            line=style.line(),
            marker=style.marker(),
            hovertemplate="%{y:.1%} at %{x} units",
        )
    truth = table[table["localiser"] == "recorded neurons"]
    if len(truth):
        figure.add_scatter(
            x=truth["k"],
            y=truth[value],
            mode="markers",
            name="recorded neurons",
            marker={"symbol": "star", "size": 11, "color": "#000"},
        )
    sizes = sorted(lines["k"].unique())
    shown: list[float] = []
    for size in reversed(sizes):  # the largest is always named
        if not shown or np.log(shown[-1] / size) > 0.3:
            shown.append(size)
    figure.update_xaxes(type="log", title_text="units put out", tickvals=shown, ticktext=[str(k) for k in shown])
    figure.update_yaxes(title_text=y_title, range=[-0.04, 1.04], tickformat=".0%", tickvals=[0, 0.5, 1])
    return themed(figure, title, height=190, width=SINGLE)


def outcome_against_damage(
    benefit: pd.DataFrame, damage: pd.DataFrame, *, x_title: str, y_title: str, title: str, first: str
) -> go.Figure:
    """One point for each intervention: benefit (up) against damage (right), both shares, with their intervals.

    Both tables are rows of a summary, one for each intervention; `first` is drawn first, the baseline in grey.
    """
    for table in (benefit, damage):
        require(table, ("intervention", "kind", "value", "low", "high"))
    both = benefit.merge(damage[["intervention", "value", "low", "high"]], on="intervention", suffixes=("", "_lost"))
    both = both.sort_values("intervention", key=lambda names: names != first, kind="stable")
    figure = go.Figure()
    for number, (_, row) in enumerate(both.iterrows()):
        style = look(number, grey=row["kind"] == "baseline")
        ends = {axis: pd.Series([row[name]]) for axis, name in (("y", "value"), ("x", "value_lost"))}
        figure.add_scatter(
            x=ends["x"],
            y=ends["y"],
            mode="markers",
            name=wrapped(row["intervention"]),
            marker=style.marker(9),
            error_x=errors(*(pd.Series([row[f"{end}_lost"]]) for end in ("value", "low", "high")), colour=style.colour),
            error_y=errors(*(pd.Series([row[end]]) for end in ("value", "low", "high")), colour=style.colour),
        )
    figure.update_xaxes(title_text=x_title, range=[-0.05, 1.05], tickformat=".0%", tickvals=[0, 0.5, 1])
    figure.update_yaxes(title_text=y_title, range=[-0.05, 1.05], tickformat=".0%", tickvals=[0, 0.5, 1])
    return themed(figure, title, height=220, width=SINGLE)

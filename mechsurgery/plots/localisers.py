"""A localiser's curve: what the model says against how many of its units are put out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from .bars import SHARES
from .layout import AUTO, heading, themed
from .tables import amount, require
from .theme import GREY, look, ring, safe

#: Series of one figure at most: looks differ without colour only that far.
_MOST = 7
_RANDOM, _TRUTH = "random", "recorded neurons"


def outcome_by_size(
    table: pd.DataFrame,
    *,
    value: str = "well",
    always: tuple[str, ...] = ("difference (published)", _RANDOM),
    title: str | None = AUTO,
    about: str = "",
    y_title: str = "share done well",
) -> go.Figure:
    """A line for each localiser over the number of units put out (logarithmic), with `always` and the best others.

    `table` has columns localiser, k and `value`, a share; rows named "recorded neurons" are one point, the truth.
    Random units are open rings, drawn over all else. The title says the highest value and its smallest size.
    """
    require(table, ("localiser", "k", value))
    lines = table[~table["localiser"].isin(["baseline", _TRUTH])]
    means = lines.groupby("localiser", sort=False)[value].mean()
    first = [name for name in always if name in means]
    best = means.drop(first).nlargest(_MOST - len(always)).index
    figure = go.Figure()
    for number, name in enumerate(sorted([*first, *best], key=lambda name: name == _RANDOM)):
        own, style = lines[lines["localiser"] == name].sort_values("k"), look(number)
        figure.add_scatter(
            x=own["k"],
            y=own[value],
            mode="lines+markers",
            name=safe(name),
            line={"color": GREY, "dash": "dot", "width": 1.6} if name == _RANDOM else style.line(),
            marker=ring(8) if name == _RANDOM else style.marker(),
            text=[f"{safe(name)}<br>{amount(v, True)} at {k} units" for k, v in zip(own["k"], own[value])],
            hoverinfo="text",
        )
    truth = table[table["localiser"] == _TRUTH]
    if len(truth):
        figure.add_scatter(
            x=truth["k"],
            y=truth[value],
            mode="markers",
            name=_TRUTH,
            marker={"symbol": "star", "size": 11, "color": "#000"},
            text=[f"{_TRUTH}<br>{amount(v, True)} at {k} units" for k, v in zip(truth["k"], truth[value])],
            hoverinfo="text",
        )
    shown = _named_sizes(sorted(lines["k"].unique().tolist()))
    figure.update_xaxes(type="log", tickvals=shown, ticktext=[str(k) for k in shown])
    figure.update_yaxes(range=[-0.04, 1.04], **SHARES)
    top = lines.sort_values([value, "k"], ascending=[False, True], kind="stable").iloc[0]
    who = f" by {top['localiser']}" if len(means) > 1 else ""
    finding = f"highest {y_title} {amount(top[value], True)}, with {top['k']} units{who}"
    return themed(figure, heading(title, finding, about), height=180, x_title="units put out", y_title=y_title)


def _named_sizes(sizes: list[float]) -> list[float]:
    """Sizes far enough apart on a logarithmic axis to be written beside each other; the largest is always one."""
    shown: list[float] = []
    for size in reversed(sizes):
        if not shown or np.log(shown[-1] / size) > 0.3:
            shown.append(size)
    return shown


check_arguments(__name__)

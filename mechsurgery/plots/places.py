"""Where the circuits of several tasks lie, in several models side by side."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from .layout import AUTO, heading, panels, themed
from .tables import require
from .theme import COLOURS, errors, look, safe


def task_layers(table: pd.DataFrame, *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """The share of each task's circuit in every layer, a row of panels for each task and a column for each model.

    `table` has columns task, model, layer, share, low, high and uniform. Whiskers are `low` to `high`, the dotted
    line is `uniform`, what the sizes of the layers alone would give. The title says each model's fullest layer.
    """
    require(table, ("task", "model", "layer", "share", "low", "high", "uniform"))
    tasks, models = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["model"]))
    n = len(models)
    titles = [f"{str(task).removeprefix('organism/')}, {model}" for task in tasks for model in models]
    figure = panels(titles, [70] * len(titles), columns=n, widths=[1.0] * n, share_y="row")
    for place, (task, model) in enumerate((task, model) for task in tasks for model in models):
        own = table[(table["task"] == task) & (table["model"] == model)].sort_values("layer")
        column, row = place % n, place + 1
        figure.add_bar(
            x=own["layer"],
            y=own["share"],
            marker=look(column).bar(),
            error_y=errors(own["share"], own["low"], own["high"]),
            showlegend=False,
            hovertext=[
                f"{safe(task)}, {safe(model)}, layer {layer}: {share:.1%} [{low:.1%}, {high:.1%}]; "
                f"{uniform:.1%} by layer sizes"
                for layer, share, low, high, uniform in own[["layer", "share", "low", "high", "uniform"]].itertuples(
                    index=False
                )
            ],
            hoverinfo="text",
            row=row,
            col=1,
        )
        line = {"color": COLOURS[6], "dash": "dot", "width": 1.2}
        shown = {"name": "by layer sizes alone", "showlegend": place == 0, "hoverinfo": "skip"}
        figure.add_scatter(x=own["layer"], y=own["uniform"], mode="lines", line=line, row=row, col=1, **shown)
    layers = table["layer"]
    figure.update_xaxes(range=[layers.min() - 0.6, layers.max() + 0.6], dtick=max(1, round(layers.nunique() / 6)))
    figure.update_yaxes(tickformat=".0%", nticks=4, rangemode="tozero")
    return themed(figure, heading(title, _fullest(table), about), x_title="layer", y_title="share of the circuit")


def _fullest(table: pd.DataFrame) -> str:
    """The layers that hold most of the tasks' circuits, for each model."""
    found = []
    for model, own in table.groupby("model", sort=False):
        mean = own.groupby("layer")["share"].mean()
        found.append(f"{model} layer {mean.idxmax()} ({mean.max():.0%})")
    return f"fullest layer over {table['task'].nunique()} tasks: {', '.join(found)}"


check_arguments(__name__)

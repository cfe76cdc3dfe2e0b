"""Figures of fine-tunes that are watched: cosines and behaviour over steps, and how well either tells runs apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError
from .layout import AUTO, heading, panels, themed
from .tables import require
from .theme import GREY, Look, band, errors, look, safe

_COSINES = ("step", "direction", "cosine", "null_low", "null_high", "task")
_SHARES = ("step", "task", "value", "low", "high")


def cosine_trajectories(
    rows: pd.DataFrame,
    *,
    direction: str,
    behaviour: pd.DataFrame | None = None,
    asked: str = "behaviour shown",
    title: str | None = AUTO,
    about: str = "",
) -> go.Figure:
    """Cosine with one direction by training step: the mean over seeds of each fine-tune, over the band of chance.

    `rows` has columns step, direction, cosine, null_low, null_high, task, as `training.Monitor` and a name for the
    fine-tune give them; bars are the lowest and highest seed, the band the widest of any. With a column `group`, lines
    of one group look alike. `behaviour` (step, task, value, low, high) is drawn in a second panel, named `asked`. The
    title says the largest mean at the last step.
    """
    require(rows, _COSINES)
    along = rows[rows["direction"] == direction]
    if not len(along):
        raise InputError(f"no rows of direction {direction!r}")
    looks = _looks(along)
    figure = go.Figure() if behaviour is None else panels(["", safe(asked)], [150, 90])
    where: dict[str, Any] = {} if behaviour is None else {"row": 1, "col": 1}
    ends = along.dropna(subset=["null_low"]).groupby("step").agg(low=("null_low", "min"), high=("null_high", "max"))
    if len(ends):
        chance = band(ends.index, ends["low"], ends["high"], GREY, name="random directions, 95%", showlegend=True)
        figure.add_trace(chance, **where)
    for trace in _cosines(along, looks):
        figure.add_trace(trace, **where)
    if behaviour is not None:
        require(behaviour, _SHARES)
        for trace in _shares(behaviour, looks):
            figure.add_trace(trace, row=2, col=1)
        figure.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1], row=2, col=1)
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=6, **where)
    words: dict[str, Any] = {"x_title": "training step", "y_title": f"cosine with {direction}"}
    return themed(figure, heading(title, _last_cosines(along, direction), about), height=190, **words)


def _looks(along: pd.DataFrame) -> dict[str, tuple[Look, str, bool]]:
    """{fine-tune: its look, its name in the legend, whether that name is shown}."""
    tasks = list(dict.fromkeys(along["task"]))
    if "group" not in along:
        return {task: (look(number), safe(task), True) for number, task in enumerate(tasks)}
    groups = along.drop_duplicates("task").set_index("task")["group"]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    first = {group: task for task, group in reversed(list(groups.items()))}
    return {task: (look(numbers[groups[task]]), safe(groups[task]), first[groups[task]] == task) for task in tasks}


def _cosines(along: pd.DataFrame, looks: Mapping[str, tuple[Look, str, bool]]) -> Iterator[go.Scatter]:
    single = "group" not in along
    for task, group in along.groupby("task", sort=False):
        by_step = group.groupby("step")["cosine"]
        mean, (style, name, shown) = by_step.mean(), looks[task]
        told = [
            f"{safe(task)}: {v:.3g} at step {s}, n = {n} seeds" for s, v, n in zip(mean.index, mean, by_step.size())
        ]
        bars = {"error_y": errors(mean, by_step.min(), by_step.max(), colour=style.colour)} if single else {}
        yield go.Scatter(
            x=mean.index,
            y=mean,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=shown,
            hovertext=told,
            hoverinfo="text",
            line=style.line(1.6 if single else 1),
            marker=style.marker(5 if single else 3),
            **bars,
        )


def _shares(behaviour: pd.DataFrame, looks: Mapping[str, tuple[Look, str, bool]]) -> Iterator[go.Scatter]:
    for task, rows in behaviour.groupby("task", sort=False):
        if task not in looks:
            continue
        (style, name, _), single = looks[task], all(one[2] for one in looks.values())
        bars = {"error_y": errors(rows["value"], rows["low"], rows["high"], colour=style.colour)} if single else {}
        yield go.Scatter(
            x=rows["step"],
            y=rows["value"],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=False,
            hovertext=[f"{safe(task)}: {v:.1%} at step {s}" for s, v in zip(rows["step"], rows["value"])],
            hoverinfo="text",
            line=style.line(1.6 if single else 1),
            marker=style.marker(5 if single else 3),
            **bars,
        )


def _last_cosines(along: pd.DataFrame, direction: str) -> str:
    """The fine-tune that ends furthest along the direction, beside the random ones at that step."""
    last = along[along["step"] == along.groupby("task")["step"].transform("max")]
    means = last.groupby("task", sort=False)["cosine"].mean()
    top = means.abs().idxmax()
    reach = last[["null_low", "null_high"]].abs().to_numpy().max()
    beside = f" (95% of random directions within ±{reach:.2g})" if np.isfinite(reach) else ""
    step = last[last["task"] == top]["step"].iloc[0]
    return f"furthest along {direction} at step {step:g}: {top}, cosine {means[top]:.2f}{beside}"


def roc_curves(table: pd.DataFrame, *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """Receiver operating characteristics: the share of bad runs found over that of others taken for bad.

    `table` has columns score (what tells: a curve each), value (higher is worse), bad (whether the run is), and may
    have auroc, low and high, which the legend then says. Equal values are one point of a curve.
    """
    require(table, ("score", "value", "bad"))
    figure, areas = go.Figure(), {}
    for number, (score, rows) in enumerate(table.groupby("score", sort=False)):
        bad = rows["bad"].to_numpy(dtype=bool)
        if bad.all() or not bad.any():
            raise InputError(f"all runs of {score!r} are of one kind; give bad runs and others")
        found, false, area = _roc(bad, rows["value"].to_numpy(dtype=float))
        areas[str(score)] = area
        said = ""
        if "low" in rows:
            said = f" [{rows['low'].iloc[0]:.2f}, {rows['high'].iloc[0]:.2f}]"
        figure.add_scatter(
            x=false,
            y=found,
            mode="lines+markers",
            name=f"{safe(score)}: {area:.2f}{said}",
            hovertemplate=f"{safe(score)}: %{{y:.0%}} found, %{{x:.0%}} false<extra></extra>",
            line=look(number).line(),
            marker=look(number).marker(4),
        )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "width": 1}, showlegend=False)
    ticks = {"range": [-0.03, 1.03], "tickvals": [0, 0.5, 1]}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks)
    best = max(areas, key=lambda score: areas[score])
    finding = f"largest area under the curve: {best}, {areas[best]:.2f}"
    words: dict[str, Any] = {"x_title": "others taken for bad", "y_title": "bad runs found"}
    return themed(figure, heading(title, finding, about), height=190, **words)


def _roc(bad: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float], float]:
    """Shares of bad ones found and of others taken for bad at every threshold, and the area under their curve."""
    thresholds = np.concatenate([[np.inf], np.unique(values)[::-1]])
    found = [float((values[bad] >= one).mean()) for one in thresholds]
    false = [float((values[~bad] >= one).mean()) for one in thresholds]
    return found, false, float(np.trapezoid(found, false))


check_arguments(__name__)

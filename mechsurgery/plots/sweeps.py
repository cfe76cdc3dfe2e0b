"""Figures over strength: curves of any metric, and benefit against damage with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import InputError, listed
from .tables import Pick, Series, baseline_of, check_single, hover, is_share, require, select, series, title_of, unpack
from .theme import GREY, SINGLE, band, errors, safe, stacked, themed

_X_TITLES = {"toward": "against ← 0 → toward", "m": "m (0 ablates, 1 is unmodified, above 1 amplifies)"}
Better = Literal["less", "more"]


def curves(
    summary: pd.DataFrame,
    panels: Sequence[Pick],
    *,
    x: str = "toward",
    title: str = "Behaviour and side effects over strength",
    x_title: str | None = None,
    log_x: bool = False,
    width: int = SINGLE,
) -> go.Figure:
    """A panel for each (metric, prompt set) or (metric, prompt set, label), with a curve for every intervention.

    Bars are the intervals of the summary. Matched controls are grey: a line each, or the band of their range where
    they are pooled. `x` is `toward` (signed strength), `m` where all shown are scalings, or a column that the caller
    added (number of examples …). The unmodified model joins each curve where it has an `x`, and is a dotted line
    elsewhere. Raises `InputError` where an intervention has no `x`.
    """
    require(summary, [x])
    if not panels:
        raise InputError("no panels to draw; give (metric, prompt set) pairs")
    figure, height = stacked([title_of(panel) for panel in panels], [118] * len(panels))
    seen: set[str] = set()
    for row, panel in enumerate(panels, 1):
        rows = select(summary, *unpack(panel))
        base = baseline_of(rows)
        for one in series(rows):
            for trace in _curve(one, base, x):
                trace.update(legendgroup=one.name, showlegend=one.name not in seen)
                figure.add_trace(trace, row, 1)
                seen.add(one.name)
        _start(figure, base, x, row)
        if is_share(rows):
            figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%", dtick=0.5, row=row, col=1)
    kind = "log" if log_x else "linear"
    figure.update_xaxes(type=kind)
    figure.update_xaxes(title_text=safe(x_title or _X_TITLES.get(x, x)), row=len(panels), col=1)
    return themed(figure, title, height=height, width=width)


def _curve(one: Series, base: pd.DataFrame, x: str) -> list[go.Scatter]:
    """The traces of one series: a line, or for controls a band of their range or a thin line each."""
    _check_axis(one.rows, x)
    if not one.control:
        line = _through(one.rows, base, x)
        bars = errors(line["value"], line["low"], line["high"], colour=one.look.colour)
        return [_line(one, line, x, mode="lines+markers", marker=one.look.marker(), error_y=bars)]
    if "controls" in one.rows and one.rows["controls"].notna().all():
        line = _through(one.rows, base.assign(low=base["value"], high=base["value"]), x)
        return [_line(one, line, x), band(line[x], line["low"], line["high"], GREY, name=one.name)]
    return [_line(one, _through(rows, base, x), x) for _, rows in one.rows.groupby("intervention", sort=False)]


def _line(one: Series, line: pd.DataFrame, x: str, mode: str = "lines", **more: Any) -> go.Scatter:
    style = one.look.line(1 if one.control else 1.6)
    facts = {"text": hover(line), "hoverinfo": "text"}
    return go.Scatter(x=line[x], y=line["value"], name=one.name, mode=mode, line=style, **facts, **more)


def _through(rows: pd.DataFrame, base: pd.DataFrame, x: str) -> pd.DataFrame:
    """The rows and the unmodified model of theirs, in the order of `x`."""
    check_single(rows, ["intervention", x])
    own = base[base[x].notna()]
    if "model" in rows:
        own = own[own["model"].isin(rows["model"])]
    joined = rows if rows[x].isin(own[x]).any() or own.empty else pd.concat([rows, own.head(1)])
    return joined.sort_values(x)


def _check_axis(rows: pd.DataFrame, x: str) -> None:
    lacking = rows[rows[x].isna()]["intervention"].unique()
    if len(lacking):
        raise InputError(f"{listed(lacking, 5)} has no {x!r}; leave it out of the summary or choose another x, as 'm'")


def _start(figure: go.Figure, base: pd.DataFrame, x: str, row: int) -> None:
    """A dotted line at the unmodified model: upright at its `x`, level at its value where it has none."""
    dotted = {"color": "#666", "dash": "dot", "width": 1}
    if base[x].notna().any():
        figure.add_vline(x=float(base[x].dropna().iloc[0]), line=dotted, row=row, col=1)
    else:
        for value in base["value"]:
            figure.add_hline(y=float(value), line=dotted, row=row, col=1)


def trade_off(
    summary: pd.DataFrame,
    *,
    benefit: Pick,
    damage: Pick,
    better: tuple[Better, Better] = ("more", "less"),
    title: str = "What is gained against what is damaged",
    log_damage: bool = False,
    width: int = SINGLE,
) -> go.Figure:
    """Benefit against damage: a line over strengths for every intervention, and the Pareto front.

    The benefit is what is wanted, such as the share that complies; that a behaviour is gone is none, since broken text
    shows no behaviour either.

    Both are (metric, prompt set) or (metric, prompt set, label); `better` says of each whether less or more of it is
    wanted (more of a capability). Matched controls are grey points, the unmodified model a star; on a logarithmic
    axis, which has no 0, it is a dotted line at its behaviour. Hovering shows the strength.
    """
    points = _pairs(select(summary, *unpack(benefit)), select(summary, *unpack(damage)))
    base = baseline_of(points)
    shown = points[points["damage"] > 0] if log_damage else points
    if shown.empty:
        raise InputError("no intervention has both metrics; measure both on the same interventions and strengths")
    figure = go.Figure(_front(shown, better))
    seen: set[str] = set()
    for one in series(shown):
        figure.add_trace(_path(one).update(legendgroup=one.name, showlegend=one.name not in seen))
        seen.add(one.name)
    if log_damage:
        for value in base["value"]:
            figure.add_hline(y=float(value), line={"color": "#666", "dash": "dot", "width": 1})
    elif len(base):
        star = {"symbol": "star", "size": 11, "color": "#000"}
        figure.add_scatter(x=base["damage"], y=base["value"], mode="markers", marker=star, name="unmodified")
    shares = (is_share(points), bool(points["scale_damage"].isin(["rate", "label"]).all()))
    figure.update_yaxes(title_text=safe(title_of(benefit)), tickformat=".0%" if shares[0] else None)
    figure.update_xaxes(title_text=safe(title_of(damage)), tickformat=".0%" if shares[1] else None)
    figure.update_xaxes(type="log" if log_damage else "linear")
    return themed(figure, title, height=230, width=width)


def _pairs(benefit: pd.DataFrame, damage: pd.DataFrame) -> pd.DataFrame:
    """Rows of the benefit with the damage of the same intervention at the same strength (damage, damage_low …)."""
    keys = [key for key in ("model", "intervention", "strength") if key in benefit]
    for rows in (benefit, damage):
        check_single(rows, keys)
    other = damage[[*keys, "value", "low", "high", "scale"]]
    names = {"value": "damage", "low": "damage_low", "high": "damage_high", "scale": "scale_damage"}
    return benefit.merge(other.rename(columns=names), on=keys)


def _path(one: Series) -> go.Scatter:
    """Points of one series in the order of strength, joined by a thin line; controls as points alone."""
    rows = one.rows.sort_values("strength")
    facts = zip(rows["intervention"], rows["strength"], rows["value"], rows["damage"])
    return go.Scatter(
        x=rows["damage"],
        y=rows["value"],
        mode="markers" if one.control else "lines+markers",
        name=one.name,
        line=one.look.line(0.8),
        marker=one.look.marker(4 if one.control else 6),
        error_x=errors(rows["damage"], rows["damage_low"], rows["damage_high"], colour="#CCC"),
        error_y=errors(rows["value"], rows["low"], rows["high"], colour="#CCC"),
        text=[f"{safe(name)}, strength {strength:g}: {v:.3g} at {c:.3g}" for name, strength, v, c in facts],
        hoverinfo="text",
    )


def _front(points: pd.DataFrame, better: tuple[Better, Better]) -> go.Scatter:
    """The settings that no other setting beats in both, as a stepped line."""
    signs = [1 if wish == "less" else -1 for wish in better]
    array = points[["value", "damage"]].to_numpy(dtype=float) * signs
    no_worse = (array[None] <= array[:, None]).all(-1)
    beaten = (no_worse & (array[None] < array[:, None]).any(-1)).any(1)
    best = points[~beaten & ~np.isnan(array).any(1)].sort_values(["damage", "value"])
    line = {"color": "#222", "width": 1, "shape": "hv" if better[1] == "less" else "vh"}
    return go.Scatter(x=best["damage"], y=best["value"], mode="lines", line=line, name="Pareto front", hoverinfo="skip")

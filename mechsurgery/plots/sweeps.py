"""Figures over strength: curves of any metric, and benefit against damage with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from .bars import SHARES
from .findings import best_bargain, span
from .layout import AUTO, heading, panels, themed
from .tables import (
    Pick,
    Series,
    amount,
    baseline_of,
    check_single,
    hover,
    is_share,
    require,
    select,
    series,
    title_of,
    unpack,
)
from .theme import BASELINE, GREY, band, errors, ring

_X_TITLES = {"toward": "against ← 0 → toward", "m": "m (0 ablates, 1 is unmodified, above 1 amplifies)"}
Better = Literal["less", "more"]


def curves(
    summary: pd.DataFrame,
    picks: Sequence[Pick],
    *,
    x: str = "toward",
    still: Literal["drop", "keep"] = "drop",
    title: str | None = AUTO,
    about: str = "",
    x_title: str | None = None,
    log_x: bool = False,
) -> go.Figure:
    """A panel for each (metric, prompt set) or (metric, prompt set, label), with a curve for every intervention.

    Bars are the intervals of the summary. Matched controls are grey: a line each, or the band of their range where
    they are pooled. `x` is `toward` (signed strength), `m` where all shown are scalings, or a column that the caller
    added (number of examples …). The unmodified model joins each curve where it has an `x`, and is a dotted line
    elsewhere. Panels where nothing moves (the intervals of all points meet) are left out and named below the axis,
    unless `still="keep"`. The title says the range of the first panel. Raises `InputError` where an intervention has
    no `x`.
    """
    require(summary, [x])
    if not picks:
        raise InputError("no panels to draw; give (metric, prompt set) pairs")
    chosen = [(pick, select(summary, *unpack(pick))) for pick in picks]
    for _, rows in chosen:
        _check_axis(rows[rows["kind"] != "baseline"], x)
    moving = chosen if still == "keep" else [one for one in chosen if _moves(one[1])] or chosen[:1]
    shown = [pick for pick, _ in moving]
    figure = panels([title_of(pick) for pick in shown], [100] * len(shown), columns=3)
    seen: set[str] = set()
    for row, (_, rows) in enumerate(moving, 1):
        base = baseline_of(rows)
        for one in series(rows):
            for trace in _curve(one, base, x):
                trace.update(legendgroup=one.name, showlegend=one.name not in seen)
                figure.add_trace(trace, row, 1)
                seen.add(one.name)
        _start(figure, base, x, row)
        if is_share(rows):
            figure.update_yaxes(range=[-0.04, 1.04], row=row, col=1, **SHARES)
        else:
            figure.update_yaxes(nticks=4, row=row, col=1)
    figure.update_xaxes(type="log" if log_x else "linear", nticks=5)
    words: dict[str, Any] = {"x_title": x_title or _X_TITLES.get(x, x)}
    left = [title_of(pick) for pick in picks if pick not in shown]
    words["note"] = f"Not drawn, since nothing moves beyond the intervals: {'; '.join(left)}" if left else ""
    main = moving[0][1][moving[0][1]["control_of"].isna()]
    finding = span(main if len(main) else moving[0][1], shown[0])
    return themed(figure, heading(title, finding, about), **words)


def _moves(rows: pd.DataFrame) -> bool:
    """Whether two points of interventions or the unmodified model have intervals that do not meet."""
    own = rows[rows["control_of"].isna()]
    low, high = (own[end].fillna(own["value"]) for end in ("low", "high"))
    return bool(low.max() > high.min())


def _curve(one: Series, base: pd.DataFrame, x: str) -> list[go.Scatter]:
    """The traces of one series: a line, or for controls a band of their range or a thin line each."""
    if not one.control:
        line = _through(one.rows, base, x)
        bars = errors(line["value"], line["low"], line["high"], colour=one.look.colour)
        return [_line(one, line, x, mode="lines+markers", marker=one.look.marker(), error_y=bars)]
    if "controls" in one.rows and one.rows["controls"].notna().all():
        line = _through(one.rows, base.assign(low=base["value"], high=base["value"]), x)
        return [_line(one, line, x), band(line[x], line["low"], line["high"], GREY, name=one.name)]
    thin: dict[str, Any] = {"mode": "lines+markers", "marker": {**ring(5), "color": GREY}}
    return [_line(one, _through(rows, base, x), x, **thin) for _, rows in one.rows.groupby("intervention", sort=False)]


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
    if base[x].notna().any():
        figure.add_vline(x=float(base[x].dropna().iloc[0]), line=BASELINE, row=row, col=1)
    else:
        for value in base["value"]:
            figure.add_hline(y=float(value), line=BASELINE, row=row, col=1)


def trade_off(
    summary: pd.DataFrame,
    *,
    benefit: Pick,
    damage: Pick,
    better: tuple[Better, Better] = ("more", "less"),
    title: str | None = AUTO,
    about: str = "",
    log_damage: bool = False,
) -> go.Figure:
    """Benefit against damage: a line over strengths for every intervention, and the Pareto front.

    The benefit is what is wanted, such as the share that complies; that a behaviour is gone is none, since broken text
    shows no behaviour either.

    Both are (metric, prompt set) or (metric, prompt set, label); `better` says of each whether less or more of it is
    wanted (more of a capability). Matched controls are open rings, the unmodified model a star; on a logarithmic
    axis, which has no 0, it is a dotted line at its behaviour. Hovering shows the strength. The title says the
    setting with the best benefit, and of several that with the least damage.
    """
    rows = select(summary, *unpack(benefit)), select(summary, *unpack(damage))
    words = title_of(benefit), title_of(damage)
    return benefit_against_damage(*rows, better=better, words=words, title=title, about=about, log_damage=log_damage)


def benefit_against_damage(
    benefit: pd.DataFrame,
    damage: pd.DataFrame,
    *,
    words: tuple[str, str],
    better: tuple[Better, Better] = ("more", "less"),
    title: str | None = AUTO,
    about: str = "",
    log_damage: bool = False,
) -> go.Figure:
    """`trade_off` of rows that the caller chose: of a summary, one for each intervention and strength in each table.

    `words` say in plain text what the benefit and the damage are.
    """
    for table in (benefit, damage):
        require(table, ("intervention", "kind", "control_of", "strength", "scale", "value", "low", "high", "n"))
    points = _pairs(benefit, damage)
    base = baseline_of(points)
    shown = points[points["damage"] > 0] if log_damage else points
    if shown.empty:
        raise InputError("no intervention has both metrics; measure both on the same interventions and strengths")
    figure = go.Figure(_front(shown, better))
    if log_damage:
        for value in base["value"]:
            figure.add_hline(y=float(value), line=BASELINE)
    elif len(base):
        star = {"symbol": "star", "size": 10, "color": "#000"}
        drawn = {"mode": "markers", "marker": star, "name": "unmodified"}
        figure.add_scatter(x=base["damage"], y=base["value"], hovertext=hover(base), hoverinfo="text", **drawn)
    seen: set[str] = set()
    for one in sorted(series(shown), key=lambda one: one.control):  # rings last: they hide nothing, nothing hides them
        figure.add_trace(_path(one).update(legendgroup=one.name, showlegend=one.name not in seen))
        seen.add(one.name)
    shares = (is_share(points), bool(points["scale_damage"].isin(["rate", "label"]).all()))
    figure.update_yaxes(tickformat=".0%" if shares[0] else None, nticks=6)
    figure.update_xaxes(tickformat=".0%" if shares[1] else None, nticks=5)
    figure.update_xaxes(type="log" if log_damage else "linear", dtick=1 if log_damage else None)
    main = shown[shown["control_of"].isna()]
    sides: dict[str, Any] = {"more": better[0] == "more", "less_damage": better[1] == "less"}
    finding = best_bargain(main if len(main) else shown, *words, **sides)
    return themed(figure, heading(title, finding, about), height=200, x_title=words[1], y_title=words[0])


def _pairs(benefit: pd.DataFrame, damage: pd.DataFrame) -> pd.DataFrame:
    """Rows of the benefit with the damage of the same intervention at the same strength (damage, damage_low …)."""
    keys = [key for key in ("model", "intervention", "strength") if key in benefit]
    for rows in (benefit, damage):
        check_single(rows, keys)
    other = damage[[*keys, "value", "low", "high", "scale"]]
    names = {"value": "damage", "low": "damage_low", "high": "damage_high", "scale": "scale_damage"}
    return benefit.merge(other.rename(columns=names), on=keys)


def _path(one: Series) -> go.Scatter:
    """Points of one series in the order of strength, joined by a thin line; controls as rings alone."""
    rows = one.rows.sort_values("strength")
    shares = rows["scale_damage"].isin(["rate", "label"])
    costs = [f"damage: {amount(value, share)}" for value, share in zip(rows["damage"], shares)]
    return go.Scatter(
        x=rows["damage"],
        y=rows["value"],
        mode="markers" if one.control else "lines+markers",
        name=one.name,
        line=one.look.line(0.8),
        marker=ring() if one.control else one.look.marker(6),
        error_x=errors(rows["damage"], rows["damage_low"], rows["damage_high"], colour="#BBB"),
        error_y=errors(rows["value"], rows["low"], rows["high"], colour="#BBB"),
        text=[f"{told}<br>{cost}" for told, cost in zip(hover(rows), costs)],
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


check_arguments(__name__)

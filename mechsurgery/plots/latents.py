"""Figures of latent attribution: two scores of every latent, steering effects by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError
from ..units import UnitScores
from .tables import require
from .theme import GREY, SINGLE, look, safe, themed, wrapped

_HALO = {"width": 1, "color": "white"}


def score_scatter(
    x: UnitScores,
    y: UnitScores,
    site: str,
    *,
    marked: Mapping[str, Sequence[int]] | None = None,
    names: tuple[str, str] | None = None,
    title: str = "Two scores of every latent",
) -> go.Figure:
    """Every latent by two scores; `marked` {name: latents} stand out (a latent in several, in the first)."""
    for scores in (x, y):
        if site not in scores.scores:
            raise InputError(f"no scores at {site!r}; these are of {', '.join(scores.scores)}")
    a, b = x.scores[site].float().numpy(), y.scores[site].float().numpy()
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} latents at {site!r}; give scores of the same dictionary")
    group = np.full(len(a), -1)
    for number, latents in enumerate((marked or {}).values()):
        group[[i for i in latents if group[i] < 0]] = number
    parts = [("other latents", {"color": GREY, "size": 3, "opacity": 0.5})]
    parts += [(name, look(number).marker(7, line=_HALO)) for number, name in enumerate(marked or {})]
    figure = go.Figure()
    for number, (name, marker) in enumerate(parts, -1):
        shown = np.flatnonzero(group == number)
        draw = figure.add_scattergl if number < 0 else figure.add_scatter
        draw(
            x=a[shown],
            y=b[shown],
            mode="markers",
            name=wrapped(f"{name} ({len(shown)})", 46),
            text=shown,
            marker=marker,
            hovertemplate="latent %{text}: %{x:.3g}, %{y:.3g}",
        )
    first, second = names or (x.rule, y.rule)
    figure.update_xaxes(title_text=wrapped(first, 46), zeroline=True, zerolinecolor="#BBB")
    figure.update_yaxes(title_text=wrapped(second, 36), zeroline=True, zerolinecolor="#BBB")
    return themed(figure, title, height=230, width=SINGLE)


def effect_by_rank(
    effects: pd.DataFrame,
    chosen: Mapping[str, Sequence[int]],
    *,
    title: str = "Effect of steering each latent alone",
    y_title: str = "rise of the wanted responses",
) -> go.Figure:
    """Steering effect of every chosen latent by its rank, a marker for each ranking, beside all random latents.

    `effects` has columns latent, control (whether it was drawn at random), effect, strength. Each random latent is an
    open circle in a column of its own, over a box of their quartiles. Rankings after the second are shown by a click
    on their name.
    """
    require(effects, ("latent", "control", "effect", "strength"))
    if not chosen:
        raise InputError("no ranking to draw; give {name: latents in order}")
    by_latent = effects.set_index("latent")
    null = by_latent[by_latent["control"].astype(bool)]
    widths = [0.8, 0.2] if len(null) else [1.0]
    figure = make_subplots(1, len(widths), shared_yaxes=True, column_widths=widths, horizontal_spacing=0.03)
    for number, (name, latents) in enumerate(chosen.items()):
        rows = by_latent.loc[list(latents)]
        figure.add_scatter(
            x=list(range(1, len(rows) + 1)),
            y=rows["effect"],
            mode="markers",
            text=_told(rows),
            hoverinfo="text",
            name=wrapped(name, 46),
            visible=True if number < 2 else "legendonly",
            marker=look(number).marker(5),
            row=1,
            col=1,
        )
    if len(null):
        circles = {"color": "rgba(0,0,0,0)", "size": 4, "line": {"color": "#555", "width": 0.8}}
        figure.add_box(
            y=null["effect"],
            x=["random"] * len(null),
            boxpoints="all",
            pointpos=0,
            jitter=0.9,
            width=0.8,
            whiskerwidth=0,
            fillcolor="rgba(154,160,166,0.3)",
            line={"color": GREY, "width": 1.2},
            marker=circles,
            text=_told(null),
            hoverinfo="text",
            name=f"each of {len(null)} random latents",
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="rank", row=1, col=1)
    figure.update_yaxes(tickformat="+.0%")
    figure.update_yaxes(title_text=safe(y_title), row=1, col=1)
    return themed(figure, title, height=210, width=SINGLE)


def _told(rows: pd.DataFrame) -> list[str]:
    facts = zip(rows.index, rows["effect"], rows["strength"])
    return [f"latent {latent}: {effect:+.2f} at strength {strength:+.2g}" for latent, effect, strength in facts]

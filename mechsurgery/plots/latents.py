"""Figures of latent attribution: two scores of every latent, steering effects by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import InputError
from ..units import UnitScores
from .tables import require
from .theme import GREY, SINGLE, band, look, safe, themed, wrapped

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
    y_title: str = "change of the rate of bad responses",
) -> go.Figure:
    """Steering effect of every chosen latent by its rank, a marker for each ranking, over the band of random latents.

    `effects` has columns latent, control (whether it is a random latent), effect, strength. Rankings after the second
    are shown by a click on their name.
    """
    require(effects, ("latent", "control", "effect", "strength"))
    if not chosen:
        raise InputError("no ranking to draw; give {name: latents in order}")
    by_latent = effects.set_index("latent")
    null = effects.loc[effects["control"], "effect"]
    longest = max(len(latents) for latents in chosen.values())
    figure = go.Figure()
    if len(null):
        ends = [0.5, longest + 0.5]
        name = f"range of {len(null)} random latents"
        figure.add_trace(band(ends, [null.min()] * 2, [null.max()] * 2, GREY, name=name, showlegend=True))
    for number, (name, latents) in enumerate(chosen.items()):
        rows = by_latent.loc[list(latents)]
        figure.add_scatter(
            x=list(range(1, len(rows) + 1)),
            y=rows["effect"],
            mode="markers",
            text=[
                f"latent {row.Index}: {row.effect:+.2f} at strength {row.strength:+.2g}" for row in rows.itertuples()
            ],
            hoverinfo="text",
            name=wrapped(name, 46),
            visible=True if number < 2 else "legendonly",
            marker=look(number).marker(),
        )
    figure.update_xaxes(title_text="rank")
    figure.update_yaxes(title_text=safe(y_title), tickformat="+.0%")
    return themed(figure, title, height=210, width=SINGLE)

"""Figures of latent attribution: rankings against each other, steering effects by rank, two cases side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..errors import InputError
from ..units import UnitScores
from .theme import COLOURS, GREY, SYMBOLS, safe, themed, wash


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
    free = np.ones(len(a), dtype=bool)
    figure = go.Figure()
    parts = []
    for number, (name, latents) in enumerate((marked or {}).items()):
        own = [i for i in latents if free[i]]
        free[own] = False
        parts.append((name, own, number))
    figure.add_scattergl(
        x=a[free],
        y=b[free],
        mode="markers",
        name=f"other latents ({int(free.sum())})",
        text=np.flatnonzero(free),
        marker={"color": GREY, "size": 4, "opacity": 0.5},
        hovertemplate="latent %{text}: %{x:.3g}, %{y:.3g}",
    )
    for name, own, number in parts:
        figure.add_scatter(
            x=a[own],
            y=b[own],
            mode="markers",
            name=f"{safe(name)} ({len(own)})",
            text=own,
            marker={
                "color": COLOURS[number],
                "symbol": SYMBOLS[number],
                "size": 8,
                "line": {"width": 1, "color": "white"},
            },
            hovertemplate="latent %{text}: %{x:.3g}, %{y:.3g}",
        )
    first, second = names or (x.rule, y.rule)
    figure.update_xaxes(title_text=safe(first), zeroline=True, zerolinecolor="#BBB")
    figure.update_yaxes(title_text=safe(second), zeroline=True, zerolinecolor="#BBB")
    return themed(figure, title, height=560)


def effect_by_rank(
    effects: Any, chosen: Mapping[str, Sequence[int]], *, title: str = "Effect of steering each latent alone"
) -> go.Figure:
    """Steering effect of every chosen latent by its rank, one marker a ranking, over the band of random latents.

    `effects` has columns latent, control, effect, strength, incoherent.
    """
    at = effects.set_index("latent")
    null = effects.loc[effects["control"], "effect"]
    longest = max(len(latents) for latents in chosen.values())
    figure = go.Figure()
    if len(null):
        low, high = float(null.min()), float(null.max())
        figure.add_scatter(
            x=[0.5, longest + 0.5, longest + 0.5, 0.5],
            y=[low, low, high, high],
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=wash("#9AA0A6", 0.35),
            hoverinfo="skip",
            name=f"range of {len(null)} random latents",
        )
    for number, (name, latents) in enumerate(chosen.items()):
        own = at.loc[list(latents)]
        hover = [
            f"latent {latent}: {row.effect:+.2f} at strength {row.strength:+.2g}" for latent, row in own.iterrows()
        ]
        figure.add_scatter(
            x=list(range(1, len(own) + 1)),
            y=own["effect"],
            mode="markers",
            text=hover,
            hoverinfo="text",
            name=safe(name),
            visible=True if number < 2 else "legendonly",
            marker={"color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
        )
    figure.update_xaxes(title_text="rank")
    figure.update_yaxes(title_text="change of the rate of bad responses, in the direction sought", tickformat="+.0%")
    return themed(figure, title, height=520)

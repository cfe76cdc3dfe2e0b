"""Figures of latent attribution: two scores of every latent, steering effects by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from ..units import UnitScores
from .layout import AUTO, heading, panels, themed
from .tables import require
from .theme import GREY, look, safe

_HALO = {"width": 0.6, "color": "white"}
_OTHERS = {"color": GREY, "size": 3, "opacity": 0.5}
#: Up to so many points are drawn one by one.
_SHARP = 20_000


def score_scatter(
    x: UnitScores,
    y: UnitScores,
    site: str,
    *,
    marked: Mapping[str, Sequence[int]] | None = None,
    names: tuple[str, str] | None = None,
    title: str | None = AUTO,
    about: str = "",
) -> go.Figure:
    """Every latent by two scores; `marked` {name: latents} stand out (a latent in several, in the first).

    The title says the correlation of the two scores.
    """
    for scores in (x, y):
        if site not in scores.scores:
            raise InputError(f"no scores at {site!r}; these are of {', '.join(scores.scores)}")
    a, b = x.scores[site].float().numpy(), y.scores[site].float().numpy()
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} latents at {site!r}; give scores of the same dictionary")
    beyond = [i for latents in (marked or {}).values() for i in latents if not 0 <= i < len(a)]
    if beyond:
        raise InputError(f"marked= has {listed(beyond)}; {site!r} has latents 0 to {len(a) - 1}")
    group = np.full(len(a), -1)
    for number, latents in enumerate((marked or {}).values()):
        group[[i for i in latents if group[i] < 0]] = number
    first, second = names or (x.rule, y.rule)
    figure = go.Figure()
    for number, name in enumerate(["other latents", *(marked or {})], -1):
        shown = np.flatnonzero(group == number)
        # A picture of many points is drawn as one; few of them stay sharp in print.
        draw = figure.add_scattergl if len(shown) > _SHARP else figure.add_scatter
        told = [f"latent {i}<br>{safe(first)}: {a[i]:.3g}<br>{safe(second)}: {b[i]:.3g}" for i in shown]
        draw(
            x=a[shown],
            y=b[shown],
            mode="markers",
            name=safe(f"{name} ({len(shown)})"),
            text=told,
            marker=_OTHERS if number < 0 else look(number).marker(6, line=_HALO),
            hoverinfo="text",
        )
    figure.update_xaxes(zeroline=True, zerolinecolor="#BBB", nticks=6)
    figure.update_yaxes(zeroline=True, zerolinecolor="#BBB", nticks=6)
    r = round(float(np.corrcoef(a, b)[0, 1]), 2) + 0.0 if a.std() and b.std() else float("nan")
    finding = f"the two scores correlate with r = {r:.2f} over {len(a):,} latents"
    return themed(figure, heading(title, finding, about), height=220, x_title=first, y_title=second)


def effect_by_rank(
    effects: pd.DataFrame,
    chosen: Mapping[str, Sequence[int]],
    *,
    title: str | None = AUTO,
    about: str = "",
    y_title: str = "rise of the wanted responses",
) -> go.Figure:
    """Steering effect of every chosen latent by its rank, a marker for each ranking, beside all random latents.

    `effects` has columns latent, control (whether it was drawn at random), effect, strength. Each random latent is an
    open circle in a column of its own, over a box of their quartiles. Rankings after the second are shown by a click
    on their name. The title says the largest effect, beside the largest of a random latent.
    """
    require(effects, ("latent", "control", "effect", "strength"))
    if not chosen:
        raise InputError("no ranking to draw; give {name: latents in order}")
    by_latent = effects.set_index("latent")
    null = by_latent[by_latent["control"].astype(bool)]
    widths = [0.78, 0.22] if len(null) else [1.0]
    figure = panels([""] * len(widths), [190] * len(widths), widths=widths, share_x=False, share_y="row")
    for number, (name, latents) in enumerate(chosen.items()):
        rows = by_latent.loc[list(latents)]
        figure.add_scatter(
            x=list(range(1, len(rows) + 1)),
            y=rows["effect"],
            mode="markers",
            text=_told(rows),
            hoverinfo="text",
            name=safe(name),
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
            row=2,
            col=1,
        )
    figure.update_xaxes(title_text="rank", nticks=6, row=1, col=1)
    figure.update_yaxes(tickformat="+.0%", nticks=6)
    best = by_latent.loc[[latent for latents in chosen.values() for latent in latents], "effect"]
    finding = "no latent could be steered"
    if best.notna().any():
        finding = f"largest effect {best.max():+.0%}, latent {best.idxmax()}"
    if null["effect"].notna().any():
        finding += f"; of {len(null)} random latents {null['effect'].max():+.0%}"
    return themed(figure, heading(title, finding, about), y_title=y_title)


def _told(rows: pd.DataFrame) -> list[str]:
    facts = zip(rows.index, rows["effect"], rows["strength"])
    return [f"latent {latent}: {effect:+.2f} at strength {strength:+.2g}" for latent, effect, strength in facts]


check_arguments(__name__)

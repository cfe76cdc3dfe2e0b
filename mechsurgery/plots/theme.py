"""One look for every figure: white, plain, and readable without colour."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

#: Okabe and Ito's colour-blind safe palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9AA0A6"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")

_AXIS = {
    "showline": True,
    "linecolor": "#444",
    "ticks": "outside",
    "tickcolor": "#444",
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222"},
        "title": {"x": 0.01, "xanchor": "left", "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(COLOURS),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
        "hoverlabel": {"font": {"size": 12}},
    }
)


def themed(figure: go.Figure, title: str, *, height: int = 460, width: int | None = None, **layout: Any) -> go.Figure:
    """The figure with the theme, a (safe) title and a size. Plotly's global default stays as it is."""
    figure.update_layout(template=TEMPLATE, title_text=safe(title), height=height, width=width, **layout)
    return figure


def safe(text: Any) -> str:
    """Text of prompts and models for a figure: plotly reads some HTML, so it is escaped."""
    return html.escape(str(text), quote=False)


def wash(colour: str, alpha: float = 0.18) -> str:
    """A colour for bands: `rgba(…)` of a hex colour."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"

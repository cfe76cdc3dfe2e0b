"""Figures that ask the network for nothing and link nowhere, whoever made them.

Figures of this package escape every text themselves. One that was read from a file, or made elsewhere, may hold links,
pictures from other machines and maps; plotly would show and fetch them. Every figure passes here before it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from ..safe_text import visible

#: Traces that plotly draws from what they hold. Maps are not among them: they are fetched when they are drawn.
_DRAWN = frozenset(
    "bar barpolar box candlestick carpet cone contour contourcarpet funnel funnelarea heatmap histogram histogram2d "
    "histogram2dcontour icicle image indicator isosurface mesh3d ohlc parcats parcoords pie sankey scatter scatter3d "
    "scattercarpet scattergl scatterpolar scatterpolargl scattersmith scatterternary splom streamtube sunburst surface "
    "table treemap violin volume waterfall".split()
)
#: Drawn by WebGL with functions that plotly makes from text, for which a page must allow `unsafe-eval`.
#: All others are drawn without it, also scatter3d and surface.
EVALUATED = frozenset(("scattergl", "scatterpolargl", "splom", "parcoords"))
_MARKUP = re.compile(r"<(?!(?:br ?/?|/?(?:b|i|u|s|em|strong|sub|sup|extra))>)", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]*", re.IGNORECASE)
#: What plotly fetches by itself, or does at a click with arguments that it takes unread.
_DROPPED = re.compile(r"(?:geo|map|mapbox)\d*|updatemenus|sliders|.*imagedefaults")
_FORMATS = ("tickformat", "hoverformat", "valueformat")


def harmless(figure: go.Figure) -> go.Figure:
    """The figure without links, pictures from elsewhere, maps, menus and mathematics; only plain markup stays.

    Raises `InputError` where it has a kind of trace that is fetched from the network, such as a map.
    """
    body = figure.to_plotly_json()
    fetched = sorted({str(trace.get("type", "scatter")) for trace in body["data"]} - _DRAWN)
    if fetched:
        raise InputError(f"a figure with traces of kind {listed(fetched)} is fetched when it is drawn; leave it out")
    return go.Figure({"data": _clean(body["data"]), "layout": _clean(body["layout"])})


def evaluated(figure: go.Figure) -> bool:
    """Whether plotly draws a trace of the figure with functions that it makes from text."""
    return any(trace.type in EVALUATED for trace in figure.data)


def _clean(node: Any, key: str = "") -> Any:
    """A copy of a figure's JSON in which every text is harmless; numbers stay what they are."""
    if isinstance(node, Mapping):
        kept = {name: value for name, value in node.items() if not _DROPPED.fullmatch(str(name))}
        return {name: _clean(value, str(name)) for name, value in kept.items()}
    if isinstance(node, (list, tuple)):
        if key == "images":
            node = [one for one in node if isinstance(one, Mapping) and _own(one.get("source"))]
        return [_clean(one, key) for one in node]
    if getattr(node, "dtype", None) is not None and node.dtype.kind in "OU":
        return [_clean(one, key) for one in node.tolist()]
    if not isinstance(node, str):
        return node
    if key == "source" or key.endswith(".source"):
        return node if _own(node) else ""
    return _text(node, key)


def _own(source: Any) -> bool:
    return isinstance(source, str) and _PICTURE.fullmatch(source) is not None


def _text(text: str, key: str) -> str:
    escaped = _MARKUP.sub("&lt;", _shown(text))
    return escaped if escaped.count("$") < 2 or key.endswith(_FORMATS) else escaped.replace("$", "&#36;")


def _shown(text: str) -> str:
    """Visible text, but for the mark of a word that was broken into two lines."""
    return "\u200b<br>".join(map(visible, text.split("\u200b<br>")))


check_arguments(__name__)

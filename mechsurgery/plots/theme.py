"""One look for every figure: white, plain, readable without colour, and made to the size of a paper's columns.

Figures have the size at which they are printed, in CSS pixels (96 an inch), so their fonts are read as they are.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

#: Widths of one column (3.4 in) and of two (7.1 in) of a paper, in pixels.
SINGLE, DOUBLE = 330, 680
#: Font sizes in pixels: 11 are 8 points.
FONT, SMALL, TITLE = 11, 10, 12
#: Mean width of a character and height of a line of text of size `FONT`, in pixels.
CHARACTER, LINE = 6.5, 16
#: Pixels of a legend's entry that are not its text, and of what stands below an axis with a title.
_SYMBOL, _AXIS_HEIGHT, _TICKS_HEIGHT = 46, 42, 26

#: Okabe and Ito's colour-blind safe palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9AA0A6"
PATTERNS = ("", "/", "x", ".")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")

_AXIS = {
    "showline": True,
    "linecolor": "#444",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#444",
    "tickfont": {"size": SMALL},
    "title": {"font": {"size": FONT}, "standoff": 6},
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": FONT, "color": "#222"},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 6}, "font": {"size": TITLE}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(COLOURS),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"size": FONT}},
    }
)


@dataclass(frozen=True)
class Look:
    """Colour, dash, symbol and bar pattern of one series; any two of the first seven differ without colour too."""

    colour: str
    dash: str
    symbol: str
    pattern: str

    def line(self, width: float = 1.6) -> dict[str, Any]:
        """Plotly's `line`."""
        return {"color": self.colour, "dash": self.dash, "width": width}

    def marker(self, size: int = 6, **more: Any) -> dict[str, Any]:
        """Plotly's `marker` of points."""
        return {"color": self.colour, "symbol": self.symbol, "size": size, **more}

    def bar(self) -> dict[str, Any]:
        """Plotly's `marker` of bars."""
        return {"color": self.colour, "pattern": {"shape": self.pattern}}


def look(number: int, *, grey: bool = False) -> Look:
    """The look of series `number`, counted from 0; `grey` keeps its dash and symbol for its controls."""
    colour = GREY if grey else COLOURS[number % len(COLOURS)]
    return Look(colour, _DASHES[number % len(_DASHES)], _SYMBOLS[number % len(_SYMBOLS)], PATTERNS[number % 4])


def themed(figure: go.Figure, title: str, *, height: int, width: int = DOUBLE, **layout: Any) -> go.Figure:
    """The figure with the theme, a (safe) title and its size in pixels; `height` is that of the plot itself.

    Title and legend get the room that their lines need, so that nothing overlaps; the legend stands below.
    Plotly's global default stays as it is.
    """
    lines = textwrap.wrap(title, int((width - 12) / (CHARACTER * TITLE / FONT)))
    notes = max((str(note.text).count("<br>") + 1 for note in figure.layout.annotations), default=0)
    top = 16 + LINE * (len(lines) + notes)
    legend, below = _legend(figure, width)
    bottom = below + (_AXIS_HEIGHT if any(axis.title.text for axis in figure.select_xaxes()) else _TICKS_HEIGHT)
    drop = 6 if len(lines) < 2 else 15  # plotly sets the first of several lines higher than a single one
    figure.update_layout(
        template=TEMPLATE,
        title={"text": "<br>".join(safe(line) for line in lines), "y": 1, "yanchor": "top", "pad": {"t": drop}},
        width=width,
        height=height + top + bottom,
        margin={"l": 44, "r": 20, "t": top, "b": bottom},
        legend=legend,
        **layout,
    )
    return figure


def _legend(figure: go.Figure, width: int) -> tuple[dict[str, Any], int]:
    """A legend of equal columns at the foot of the figure, and its height in pixels."""
    named = [t for t in figure.data if t.name and t.showlegend is not False and t.type != "heatmap"]
    names = [html.unescape(str(trace.name)) for trace in named]
    if len(names) < 2 and not any(trace.showlegend for trace in named):
        return {}, 0
    text = min(int(CHARACTER * max(len(part) for name in names for part in name.split("<br>"))), width - _SYMBOL)
    columns = max(1, (width - 8) // (text + _SYMBOL))
    lines = sum(max(name.count("<br>") + 1 for name in names[i : i + columns]) for i in range(0, len(names), columns))
    place = {"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"}
    columned = {"entrywidth": text, "entrywidthmode": "pixels", "font": {"size": FONT}, "tracegroupgap": 0}
    place["traceorder"] = "normal"
    return {**place, **columned}, LINE * lines + 14


def panel_titles(figure: go.Figure) -> go.Figure:
    """Titles of panels at their left edge, in the small font, so that they stay clear of ticks and neighbours."""
    for note, axis in zip(figure.layout.annotations, figure.select_xaxes()):
        note.update(x=axis.domain[0], xanchor="left", align="left", font_size=FONT)
    return figure


def safe(text: Any) -> str:
    """Text of prompts and models for a figure: plotly reads some HTML, so it is escaped."""
    return html.escape(str(text), quote=False)


def wrapped(text: Any, width: int = 24) -> str:
    """Safe text in lines of at most `width` characters, for labels of bars and long names."""
    return "<br>".join(safe(line) for line in textwrap.wrap(str(text), width) or [""])


def wash(colour: str, alpha: float = 0.18) -> str:
    """A colour for bands: `rgba(…)` of a hex colour."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def errors(value: pd.Series, low: pd.Series, high: pd.Series, *, colour: str = "#333") -> dict[str, Any]:
    """Plotly's error bars of an interval [low, high] around values."""
    distances = {"array": high - value, "arrayminus": value - low}
    return {"type": "data", "symmetric": False, **distances, "color": colour, "thickness": 1, "width": 2}


def band(x: Any, low: Any, high: Any, colour: str, **more: Any) -> go.Scatter:
    """A washed band between two curves over `x`."""
    return go.Scatter(
        x=[*x, *list(x)[::-1]],
        y=[*low, *list(high)[::-1]],
        fill="toself",
        fillcolor=wash(colour, 0.3),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        **more,
    )


def colorbar(title: str | None = None, **more: Any) -> dict[str, Any]:
    """Plotly's `colorbar`, slim, with its (safe) title beside it."""
    name = {"text": title and safe(title), "side": "right", "font": {"size": FONT}}
    return {"title": name, "tickfont": {"size": SMALL}, "thickness": 10, "outlinewidth": 0, **more}


def row_height(labels: Sequence[str]) -> int:
    """Pixels of a row of bars that holds the longest of its labels (lines are parted by `<br>`)."""
    return 10 + 12 * max((label.count("<br>") + 1 for label in labels), default=1)


def stacked(titles: Sequence[str], heights: Sequence[int], *, gap: int = 26, shared: bool = True) -> tuple[Any, int]:
    """An empty figure of panels one under the other, each with its (safe) title, and the height it needs in pixels."""
    total = sum(heights) + gap * (len(heights) - 1)
    figure = make_subplots(
        len(heights),
        1,
        shared_xaxes=shared,
        vertical_spacing=gap / total,
        row_heights=[height / sum(heights) for height in heights],
        subplot_titles=[safe(title) for title in titles],
    )
    return panel_titles(figure), total

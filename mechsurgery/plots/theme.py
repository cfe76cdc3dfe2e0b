"""One look for every figure: white, plain, readable without colour and for the colour-blind.

Lengths are CSS pixels (96 an inch) at the printed size; `layout` turns them into those of another size.
"""

from __future__ import annotations

import html
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..safe_text import figure_text

#: Font sizes in pixels: 8 points for text, 7 for ticks, 9 for the title.
FONT, SMALL, TITLE = 8 * 96 / 72, 7 * 96 / 72, 9 * 96 / 72
#: Height of a line of text of size `FONT`, in pixels.
LINE = 15

#: Okabe and Ito's colour-blind safe palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9AA0A6"
PATTERNS = ("", "/", "x", ".")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
_EMS = (("ijl.,:;'|!\u200b", 0.28), ("ftrI()[]/- \u00a0", 0.34), ("mMW%@—←→", 1.0), ("w", 0.73))
#: The unmodified model: a line of its own kind, and its marker.
BASELINE = {"color": "#666", "dash": "dot", "width": 1}
#: Dark enough on white for a single count, and far from black: many counts go to black.
COUNTS = [[0.0, "#C3C8CE"], [1.0, "#1A1A1A"]]

_AXIS = {
    "showline": True,
    "linecolor": "#444",
    "linewidth": 1,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#444",
    "tickfont": {"size": SMALL},
    "title": {"font": {"size": FONT}, "standoff": 6},
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "automargin": False,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": FONT, "color": "#222"},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 6}, "font": {"size": TITLE}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(COLOURS),
        "xaxis": {**_AXIS, "tickangle": 0},
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"size": FONT}, "align": "left"},
        "modebar": {"orientation": "v", "remove": ["lasso", "select", "autoscale", "zoomin", "zoomout"]},
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
        return {"color": self.colour, "pattern": stripes(self.pattern)}


def look(number: int, *, grey: bool = False) -> Look:
    """The look of series `number`, counted from 0; `grey` keeps its dash and symbol for its controls."""
    colour = GREY if grey else COLOURS[number % len(COLOURS)]
    return Look(colour, _DASHES[number % len(_DASHES)], _SYMBOLS[number % len(_SYMBOLS)], PATTERNS[number % 4])


def stripes(shape: str | list[str], colour: str = "rgba(255,255,255,0.75)", size: int = 6) -> dict[str, Any]:
    """Plotly's `pattern` of bars, drawn over their colour: a PDF shows no colour under any other."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": colour, "size": size, "solidity": 0.25}


def ring(size: int = 9) -> dict[str, Any]:
    """The marker of matched controls: an open ring, so that it hides nothing and shows around what lies in it."""
    return {"symbol": "circle-open", "size": size, "color": "#333", "line": {"width": 1.2}}


def safe(text: Any) -> str:
    """Text of prompts and models for a figure: plotly reads some HTML, so it is escaped."""
    return figure_text(text)


def wrapped(text: Any, width: int = 24) -> str:
    """Safe text in lines of at most `width` characters; `unwrapped` undoes it.

    >>> wrapped("a <long> name", 8)
    'a<br>&lt;long&gt;<br>name'
    """
    words = re.sub(r"[ \t\n\r\f\v]+", " ", str(text)).strip()
    found, place = "", 0
    for line in textwrap.wrap(words, max(width, 4)):
        if place:
            spaced = words[place] == " "
            place += spaced
            # A word broken in its middle is marked by a space of no width, so that its parts can be joined again.
            found += "<br>" if spaced else "\u200b<br>"
        found += safe(line)
        place += len(line)
    return found


def unwrapped(text: str) -> str:
    """The plain text of what `wrapped` or `safe` made.

    >>> unwrapped(wrapped("a <long> name", 8))
    'a <long> name'
    """
    return html.unescape(text.replace("\u200b<br>", "").replace("<br>", " "))


def extent(text: str, size: float = FONT) -> float:
    """Pixels that plain text of a font size takes at most, by the widths of Helvetica's letters.

    >>> extent("illicit") < extent("WWWWWWW")
    True
    """
    return 1.05 * size * sum(next((width for letters, width in _EMS if char in letters), _other(char)) for char in text)


def fitted(text: Any, pixels: float, size: float = FONT) -> str:
    """Safe text in lines of at most so many pixels (of at least six characters); `unwrapped` undoes it."""
    lines = ""
    for characters in range(max(6, int(pixels / (0.35 * size))), 5, -1):
        lines = wrapped(text, characters)
        if all(extent(unwrapped(line), size) <= pixels for line in lines.split("<br>")):
            break
    return lines


def _other(char: str) -> float:
    return 1.05 if ord(char) > 0x2E7F else 0.68 if char.isupper() else 0.56


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


check_arguments(__name__, inner=True)

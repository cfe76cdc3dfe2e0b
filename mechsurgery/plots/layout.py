"""Sizes of figures, and the layout that gives title, panels, labels and legend the room they need at each size.

Every figure is drawn at the width of a paper's column; `resized` lays it out again for another size. What that needs
(the title, the panels, the names of rows) is kept in the figure's `layout.meta`, so figures read from JSON can be
resized too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..checks import check_arguments
from ..errors import InputError, listed
from .theme import FONT, LINE, SMALL, TEMPLATE, TITLE, extent, fitted, safe, unwrapped

#: A column of a paper (3.25 in), a page of text (5.5 in), a slide (10 in, fonts of 18 pt), a screen (7.5 in, 10 pt).
Preset = Literal["column", "text", "slide", "screen"]
#: As a title: the finding with its numbers; for `resized` and `export`: the title the figure has.
AUTO = "auto"
_META = "mechsurgery"
#: Pixels of a legend's entry that are not its text; of ticks with their labels; between panels side by side.
_SYMBOL, _TICKS, _GAP, _OWN_TICKS = 46, 20, 14, 44
#: Pixels of the numbers left of a plot, right of it, there with a scale of colours, and of a line of the legend.
_NUMBERS, _RIGHT, _COLORBAR, _ENTRY = 38, 16, 62, 19


@dataclass(frozen=True)
class Size:
    """Width in CSS pixels (96 an inch), and how much larger than in print everything is drawn."""

    width: int
    scale: float


SIZES: dict[str, Size] = {
    "column": Size(312, 1.0),
    "text": Size(528, 1.0),
    "slide": Size(960, 2.25),
    "screen": Size(720, 1.25),
}


def heading(title: str | None, finding: str, about: str = "") -> str:
    """The title of a figure: the caller's, none for None or "", or (for "auto") the finding after what it is about."""
    if title != AUTO:
        return title or ""
    return f"{about}: {finding}" if about else finding


def panels(
    titles: Sequence[str],
    heights: Sequence[float],
    *,
    columns: int = 1,
    share_x: bool = True,
    share_y: Literal["", "row", "all"] = "",
    widths: Sequence[float] | None = None,
    least: int = 150,
) -> go.Figure:
    """An empty figure of panels with titles (plain text) and heights in pixels; panel `i` is row `i + 1`, column 1.

    They stand in at most `columns`, as many as are `least` pixels wide; `widths`, shares of the plot, fix the number.
    """
    figure = make_subplots(len(titles), 1)
    plan = {"titles": list(titles), "heights": list(heights), "columns": columns, "widths": widths and list(widths)}
    _keep(figure, {**plan, "share_x": share_x, "share_y": share_y, "least": least, "labels": {}})
    for number in range(1, len(titles)):
        if share_x and share_y != "row":
            figure.layout[f"xaxis{number + 1}"].matches = "x"
        first = number if share_y == "row" and number % len(widths or [1]) else 0
        if share_y == "all" or first:
            anchor = 0 if share_y == "all" else number - number % len(widths or [1])
            figure.layout[f"yaxis{number + 1}"].matches = "y" if anchor == 0 else f"y{anchor + 1}"
    return figure


def label_rows(figure: go.Figure, names: Sequence[str], *, panel: int = 0, row: int = 20) -> None:
    """Name the rows 0, 1, … of a panel (plain text), from the top; a row is at least `row` pixels high."""
    plan = _plan(figure) or _single(100)
    plan["labels"] = {**plan["labels"], str(panel): {"names": [str(name) for name in names], "row": row}}
    _keep(figure, plan)


def themed(
    figure: go.Figure,
    title: str,
    *,
    height: float = 0,
    x_title: str = "",
    y_title: str = "",
    note: str = "",
    **layout: Any,
) -> go.Figure:
    """The figure with the theme, a title ("" leaves none) and the size of a paper's column.

    `height` is that of the plot itself where the figure has no `panels` and no rows that say theirs. `x_title` stands
    under the lowest panel of each column, `y_title` beside the first, a `note` below all. All are plain text. Plotly's
    global default stays as it is.
    """
    plan = _plan(figure) or _single(height)
    plan |= {"title": title, "x_title": x_title, "y_title": y_title, "note": note, "size": "column"}
    figure.update_layout(**layout)
    return _laid_out(figure, plan)


def resized(figure: go.Figure, size: Preset, *, title: str | None = AUTO) -> go.Figure:
    """The figure laid out again for a size: `column`, `text`, `slide` or `screen`; fonts are 8 pt in the first two.

    None or "" takes the title away, any other text replaces it. Raises `InputError` for another size, and for a
    figure that was not made by this package.
    """
    if size not in SIZES:
        raise InputError(f"no size {size!r} of a figure; choose from {listed(get_args(Preset))}")
    plan = _plan(figure)
    if plan is None:
        raise InputError("only figures made by mechsurgery.plots can be resized; set width and height of others")
    ratio = SIZES[size].scale / SIZES[plan["size"]].scale
    plan |= {"size": size} | ({} if title == AUTO else {"title": title or ""})
    body = figure.to_plotly_json()
    body["layout"].pop("template", None)
    return _laid_out(go.Figure(scaled(body, ratio) if ratio != 1 else body), plan)


def on_screen(figure: go.Figure) -> go.Figure:
    """The figure at the size of a screen; one that was made elsewhere as it is."""
    return figure if _plan(figure) is None else resized(figure, "screen")


def printed(figure: go.Figure) -> go.Figure:
    """The figure without what only a click would show, which is but a name in print."""
    hidden = [trace.visible == "legendonly" for trace in figure.data]
    plan = _plan(figure)
    if plan is None or not any(hidden):
        return figure
    shown = go.Figure([trace for trace, gone in zip(figure.data, hidden) if not gone], figure.layout)
    return _laid_out(shown, plan)


def size_of(figure: go.Figure) -> Preset:
    """The size a figure is laid out for; a paper's column for one that was made elsewhere."""
    plan = _plan(figure)
    return "column" if plan is None else plan["size"]


def _plan(figure: go.Figure) -> dict[str, Any] | None:
    meta = figure.layout.meta
    return _texts(meta[_META], html.unescape) if isinstance(meta, Mapping) and _META in meta else None


def _keep(figure: go.Figure, plan: dict[str, Any]) -> None:
    """Keep the plan in the figure, its texts escaped like all others."""
    figure.layout.meta = {_META: _texts(plan, safe)}


def _texts(node: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested dictionaries and lists with every text in them changed."""
    if isinstance(node, Mapping):
        return {key: _texts(value, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_texts(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def _single(height: float) -> dict[str, Any]:
    facts = {"titles": [""], "heights": [height], "columns": 1, "widths": None}
    return facts | {"share_x": True, "share_y": "", "least": 150, "labels": {}}


def _laid_out(figure: go.Figure, plan: dict[str, Any]) -> go.Figure:
    """Give everything its place at the size of the plan.

    Labels beside the plot stand in the plot area, whose domains begin right of them: so the legend may be as wide as
    the figure, and no margin depends on how a browser measures text.
    """
    size = SIZES[plan["size"]]
    f, width = size.scale, size.width
    right = (_COLORBAR if any(trace.type == "heatmap" for trace in figure.data) else _RIGHT) * f
    left = _label_rows(figure, plan, f, width)
    inner, rows = _place_panels(figure, plan, f, left, width - left - right)
    title = fitted(plan["title"], width - 14 * f, TITLE * f) if plan["title"] else ""
    lines = title.count("<br>") + 1 if title else 0
    top = (8 + (LINE + 1) * lines + 4 * bool(lines)) * f
    legend, below = _legend(figure, width - right, f)
    note = fitted(plan["note"], width - right - 6 * f, SMALL * f) if plan["note"] else ""
    _write_note(figure, note, rows * f, f)
    bottom = below + (rows + (note.count("<br>") + 1) * (LINE - 2) * bool(note)) * f
    height = -8 * int(-(top + inner + bottom) // 8)  # kaleido gives a PDF of most other heights an empty second page
    bottom = height - top - inner
    place = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": (14 if lines > 1 else 6) * f}}
    body = figure.layout.to_plotly_json()
    body |= {"template": _template(f), "title": {"text": title, **place}, "width": width, "height": height}
    body |= {"margin": {"l": 0, "r": right, "t": top, "b": bottom}, "legend": legend}
    figure.layout = body
    _keep(figure, plan)
    return figure


@cache
def _template(f: float) -> go.layout.Template:
    return go.layout.Template(scaled(TEMPLATE.to_plotly_json(), f))


def _write_note(figure: go.Figure, note: str, under: float, f: float) -> None:
    """The note at the left edge, so many pixels under the plot."""
    others = [one for one in figure.layout.annotations if one.name != "note"]
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": 0, "yanchor": "top"}
    shift = {"xshift": 6 * f, "yshift": -under, "font": {"size": SMALL * f}, "align": "left", "showarrow": False}
    figure.layout.annotations = [*others, {"text": note, "name": "note", **place, **shift}] if note else others


def _label_rows(figure: go.Figure, plan: dict[str, Any], f: float, width: int) -> float:
    """Wrap the names of rows and set the heights of their panels; the pixels left of the plot."""
    left = _NUMBERS * f
    for panel, one in plan["labels"].items():
        names = [fitted(name, 0.34 * width, SMALL * f) for name in one["names"]]
        lines = max((name.count("<br>") + 1 for name in names), default=1)
        longest = max((extent(unwrapped(part), SMALL * f) for name in names for part in name.split("<br>")), default=0)
        left = max(left, longest + 12 * f)
        plan["heights"][int(panel)] = 8 + max(one["row"], 9 + 11 * lines) * len(names)
        axis = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}
        figure.update_yaxes(**axis, range=[len(names) - 0.5, -0.5], selector=_nth("y", int(panel)))
    first = next(figure.select_yaxes(selector=_nth("y", 0)))
    said = plan["y_title"] or unwrapped(first.title.text or "")
    return left + (LINE * (fitted(said, plan["heights"][0]).count("<br>") + 1) + 4) * f if said else left


def _nth(letter: str, number: int) -> Any:
    """A selector of the axes of one panel."""
    return lambda axis: axis.plotly_name == f"{letter}axis{number + 1 if number else ''}"


def _place_panels(figure: go.Figure, plan: dict[str, Any], f: float, left: float, across: float) -> tuple[float, float]:
    """Set the domains and titles of panels; pixels of all panels, and of what stands under the lowest (unscaled)."""
    heights, widths = plan["heights"], plan["widths"]
    n = len(heights)
    columns = len(widths) if widths else max(1, min(n, plan["columns"], int(across // (plan["least"] * f))))
    gap = (_GAP if plan["share_y"] else _OWN_TICKS) * f
    free = across - gap * (columns - 1)
    spans = [free * share / sum(widths) for share in widths] if widths else [free / columns] * columns
    starts = [sum(spans[:i]) + gap * i for i in range(columns)]
    notes = [fitted(t, spans[i % columns], FONT * f) if t else "" for i, t in enumerate(plan["titles"])]
    lines, cursor = -(-n // columns), 0.0
    places: dict[int, tuple[float, float]] = {}
    for line in range(lines):
        inside = range(line * columns, min(n, (line + 1) * columns))
        cursor += max(LINE * (notes[i].count("<br>") + 1) + 2 if notes[i] else 0 for i in inside) * f
        high = max(heights[i] for i in inside) * f
        places |= dict.fromkeys(inside, (cursor, cursor + high))
        ticks = not plan["share_x"] or any(i + columns >= n for i in inside)
        cursor += high + ((_TICKS * ticks + 10) * f if line < lines - 1 else 0)
    under = _axes(figure, plan, f, [spans[i % columns] for i in range(n)], columns)
    own = [note for note in figure.layout.annotations if note.name != "panel"]
    for i, (above, below) in places.items():
        column = i % columns
        start, end = left + starts[column], left + starts[column] + spans[column]
        x = (start / (left + across), min(1.0, end / (left + across)))
        y = (max(0.0, 1 - below / cursor), 1 - above / cursor)
        figure.update_xaxes(domain=x, selector=_nth("x", i))
        figure.update_yaxes(domain=y, selector=_nth("y", i))
        if notes[i]:
            place = {"x": x[0], "y": y[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
            font = {"font": {"size": FONT * f}, "align": "left", "showarrow": False, "name": "panel"}
            own.append(go.layout.Annotation(text=notes[i], **place, **font))
    if n > 1 or own:
        figure.layout.annotations = own
    return cursor, under


def _axes(figure: go.Figure, plan: dict[str, Any], f: float, spans: Sequence[float], columns: int) -> float:
    """Titles of axes, wrapped to their lengths, and which axes have tick labels; pixels under the lowest (unscaled)."""
    n, under = len(spans), 0
    for i in range(n):
        lowest, first = i + columns >= n, i % columns == 0
        for x in figure.select_xaxes(selector=_nth("x", i)):
            text = plan["x_title"] if lowest and plan["x_title"] else unwrapped(x.title.text or "")
            x.title.text = fitted(text, spans[i] + (24 if columns == 1 else 0) * f, FONT * f) if text else None
            x.showticklabels = lowest or not plan["share_x"]
            if lowest:
                under = max(under, x.title.text.count("<br>") + 1 if x.title.text else 0)
        for y in figure.select_yaxes(selector=_nth("y", i)):
            text = plan["y_title"] if i == 0 and plan["y_title"] else unwrapped(y.title.text or "")
            y.title.text = fitted(text, plan["heights"][i]) if text else None
            y.showticklabels = first or not plan["share_y"]
    return _TICKS + (8 + LINE * under if under else 4)


def _legend(figure: go.Figure, width: float, f: float) -> tuple[dict[str, Any], float]:
    """A legend of equal columns at the foot of the figure, and its height in pixels."""
    drawn = [trace for trace in figure.data if trace.type != "heatmap" and (trace.x is None or len(trace.x))]
    named = [trace for trace in drawn if trace.name and trace.showlegend is not False]
    names = {id(trace): unwrapped(trace.name) for trace in figure.data if trace.name}
    if len(named) < 2 and not any(trace.showlegend for trace in named):
        return {}, 0
    symbol = _SYMBOL * f
    for trace in figure.data:
        if trace.name:
            trace.name = fitted(names[id(trace)], width - symbol - 6 * f, FONT * f)
    parts = [str(trace.name).split("<br>") for trace in named]
    text = max(extent(unwrapped(line), FONT * f) for lines in parts for line in lines)
    columns = max(1, int((width - 4 * f) // (text + symbol)))
    lines = sum(max(map(len, parts[i : i + columns])) for i in range(0, len(parts), columns))
    place = {"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"}
    columned = {"entrywidth": text, "entrywidthmode": "pixels", "font": {"size": FONT * f}, "tracegroupgap": 0}
    return {**place, **columned, "itemwidth": 30 * f, "traceorder": "normal"}, (_ENTRY * lines + 12) * f


_LENGTHS = {
    "size": {"font", "tickfont", "textfont", "marker", "pattern"},
    "width": {"line", "error_x", "error_y"},
    "thickness": {"error_x", "error_y", "colorbar"},
}
_ALWAYS = {"xshift", "yshift", "linewidth", "ticklen", "standoff", "gridwidth", "zerolinewidth", "tickwidth"}


def scaled(node: Any, ratio: float, parent: str = "") -> Any:
    """A figure's (or template's) JSON with every length in pixels, and no data, times a ratio.

    >>> scaled({"marker": {"size": 4}, "width": [0.5], "error_x": {"width": 2, "array": [1]}}, 2)
    {'marker': {'size': 8}, 'width': [0.5], 'error_x': {'width': 4, 'array': [1]}}
    """
    if isinstance(node, Mapping):
        return {key: _scaled_value(key, value, ratio, parent) for key, value in node.items()}
    if isinstance(node, (list, tuple)) and len(node) and isinstance(node[0], Mapping):
        return [scaled(part, ratio, parent) for part in node]
    return node


def _scaled_value(key: str, value: Any, ratio: float, parent: str) -> Any:
    length = key in _ALWAYS or parent in _LENGTHS.get(key, ()) or parent == "pad"
    if length and isinstance(value, (int, float)):
        return value * ratio
    if length and isinstance(value, (list, tuple)):
        return [part * ratio for part in value]
    return value if key == "meta" else scaled(value, ratio, key)


check_arguments(__name__)

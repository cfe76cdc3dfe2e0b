"""Figures of interventions side by side: bars of any metric, kinds of change, localisers' hits, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError, listed
from .tables import Pick, check_single, hover, is_share, require, row_names, select, title_of, unpack
from .theme import (
    COLOURS,
    DOUBLE,
    GREY,
    PATTERNS,
    SINGLE,
    errors,
    look,
    panel_titles,
    row_height,
    safe,
    stacked,
    themed,
    wrapped,
)

_COLUMNS, _GAP = 3, 62


def bars(
    summary: pd.DataFrame, panels: Sequence[Pick], *, title: str = "Every intervention beside the unmodified model"
) -> go.Figure:
    """A panel for each (metric, prompt set) or (metric, prompt set, label); in it a bar for every intervention.

    Bars carry the summary's intervals. Open circles are the matched controls of the intervention in whose row they
    stand; pooled controls carry their range. An intervention at several strengths has a row for each.
    """
    if not panels:
        raise InputError("no panels to draw; give (metric, prompt set) pairs")
    rows = pd.concat([select(summary, *unpack(panel)).assign(panel=i) for i, panel in enumerate(panels)])
    rows = rows.reset_index(drop=True).assign(row=lambda table: row_names(table))
    main = check_single(rows[rows["control_of"].isna()], ["panel", "row"])
    names = list(dict.fromkeys(main["row"]))
    figure, height, columns = _grid(panels, 14 + row_height(names) * len(names))
    for i in range(len(panels)):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        own, controls = (part[part["panel"] == i] for part in (main, rows[rows["control_of"].notna()]))
        figure.add_trace(_bars(own), **place)
        if len(controls):
            figure.add_trace(
                _circles(controls).update(showlegend=not any(t.type == "scatter" for t in figure.data)), **place
            )
        if is_share(own):
            figure.update_xaxes(range=[0, 1.04], tickformat=".0%", tickvals=[0, 0.5, 1], **place)
        else:
            figure.update_xaxes(nticks=4, **place)
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    return themed(figure, title, height=height, width=SINGLE if columns == 1 else DOUBLE)


def _grid(panels: Sequence[Pick], height: int) -> tuple[go.Figure, int, int]:
    """Empty panels in rows of at most three, the height of all, and the number of columns."""
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    titles = [wrapped(title_of(panel), 92 // columns - 4) for panel in panels]
    total = lines * height + (lines - 1) * _GAP
    spacing = {"horizontal_spacing": 0.06, "vertical_spacing": _GAP / total}
    figure = make_subplots(lines, columns, shared_yaxes=True, subplot_titles=titles, **spacing)
    return panel_titles(figure), total, columns


def _bars(rows: pd.DataFrame) -> go.Bar:
    return go.Bar(
        x=rows["value"],
        y=rows["row"],
        orientation="h",
        marker_color=[GREY if kind == "baseline" else COLOURS[0] for kind in rows["kind"]],
        error_x=errors(rows["value"], rows["low"], rows["high"]),
        hovertext=hover(rows),
        hoverinfo="text",
        showlegend=False,
    )


def _circles(controls: pd.DataFrame) -> go.Scatter:
    """Controls in the rows of what they control, with their range where they are pooled."""
    pooled = "controls" in controls and controls["controls"].notna().all()
    return go.Scatter(
        x=controls["value"],
        y=controls["row"],
        mode="markers",
        name="matched controls" + (" (mean and range)" if pooled else ""),
        legendgroup="controls",
        marker={"color": "white", "size": 6, "line": {"color": COLOURS[1], "width": 1.4}},
        error_x=errors(controls["value"], controls["low"], controls["high"], colour=COLOURS[1]) if pooled else None,
        hovertext=hover(controls),
        hoverinfo="text",
    )


def shares(
    summary: pd.DataFrame,
    metric: str,
    prompt_set: str | None = None,
    *,
    first: str | None = None,
    title: str = "What the responses are",
    width: int = SINGLE,
) -> go.Figure:
    """Stacked shares of the labels of a metric, a bar for every intervention and strength; for outcomes and changes.

    The label `first` (what is wanted, such as "complies") stands at the left with its interval. Matched random
    controls of an intervention are one bar of mean shares below it, with an open circle at each one's share of `first`.
    """
    require(summary, ("intervention", "strength", "metric", "label", "value"))
    rows = select(summary[summary["label"] != ""].assign(label=""), metric, prompt_set)
    rows = rows.assign(label=summary["label"], row=row_names(rows))
    known = list(dict.fromkeys(rows["label"]))
    if first is not None and first not in known:
        raise InputError(f"no label {first!r} of {metric!r}; there is {listed(known)}")
    order = known if first is None else [first, *(label for label in known if label != first)]
    main, controls = rows[rows["control_of"].isna()], rows[rows["control_of"].notna()]
    random = _mean_controls(controls)
    names = _interleaved(main, random)
    figure = go.Figure()
    for label in order:
        part = pd.concat([own[own["label"] == label] for own in (main, random) if len(own)])
        figure.add_trace(_stack(part, label, known.index(label)))
    if first is not None:
        # On top of all bars, of which a later one would hide the upper end of an earlier one's interval.
        figure.add_trace(_intervals(main[main["label"] == first]))
    if first is not None and len(controls):
        figure.add_trace(_each(controls[controls["label"] == first]))
    figure.update_xaxes(title_text="share of responses", range=[-0.02, 1.01], tickformat=".0%", dtick=0.25)
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    return themed(figure, title, height=14 + row_height(names) * len(names), width=width, barmode="stack")


def _mean_controls(controls: pd.DataFrame) -> pd.DataFrame:
    """One row for the controls of each row and label: their mean share, under a name that says how many they are."""
    if controls.empty:
        return controls
    pooled = controls.groupby(["row", "label"], sort=False).agg(value=("value", "mean"), n=("value", "size"))
    pooled = pooled.reset_index().assign(low=float("nan"), high=float("nan"), kind="control", control_of="")
    pooled["of"] = pooled["row"]
    pooled["row"] = [f"{row}:<br>{n} random" for row, n in zip(pooled["row"], pooled["n"])]
    return pooled.assign(intervention=pooled["row"])


def _interleaved(main: pd.DataFrame, random: pd.DataFrame) -> list[str]:
    """Names of the bars: each intervention, and after it its controls."""
    names = list(dict.fromkeys(main["row"]))
    if random.empty:
        return names
    of = dict(zip(random["of"], random["row"]))
    return [name for row in [*names, *(o for o in of if o not in names)] for name in (row, of.get(row)) if name]


def _stack(part: pd.DataFrame, label: str, number: int) -> go.Bar:
    """The share of one label in every bar."""
    colours = (GREY, COLOURS[2], COLOURS[1], COLOURS[6])
    return go.Bar(
        x=part["value"],
        y=part["row"],
        orientation="h",
        name=safe(label),
        text=[f"{v:.0%}" if v >= 0.1 else "" for v in part["value"]],
        textangle=0,
        insidetextanchor="middle",
        textfont_color="white" if number % 4 == 3 else "black",
        hovertext=hover(part),
        hoverinfo="text",
        marker={"color": colours[number % 4], "pattern": {"shape": PATTERNS[number % 4], "fillmode": "overlay"}},
    )


def _intervals(rows: pd.DataFrame) -> go.Scatter:
    """The interval of the first share of every bar."""
    return go.Scatter(
        x=rows["value"],
        y=rows["row"],
        mode="markers",
        marker={"color": "#000", "size": 2},
        error_x=errors(rows["value"], rows["low"], rows["high"], colour="#000"),
        showlegend=False,
        hoverinfo="skip",
    )


def _each(controls: pd.DataFrame) -> go.Scatter:
    """Every control's share, in the bar of its intervention's controls."""
    names = _mean_controls(controls)
    of = dict(zip(names["of"], names["row"]))
    return go.Scatter(
        x=controls["value"],
        y=[of[row] for row in controls["row"]],
        mode="markers",
        name="each control",
        marker={"symbol": "circle-open", "color": "#000", "size": 5, "line": {"width": 0.8}},
        hovertext=hover(controls),
        hoverinfo="text",
    )


def precision_recall(table: pd.DataFrame, *, title: str = "Recorded neurons found, at equal budget") -> go.Figure:
    """Precision and recall of every rule; `table` has columns rule, precision, recall."""
    require(table, ("rule", "precision", "recall"))
    figure = go.Figure()
    for number, column in enumerate(("precision", "recall")):
        figure.add_bar(
            x=table[column],
            y=[wrapped(rule) for rule in table["rule"]],
            orientation="h",
            name=column,
            marker=look(number).bar(),
            text=[f"{v:.2f}" for v in table[column]],
            textposition="outside",
            cliponaxis=False,
        )
    figure.update_xaxes(title_text="share", range=[0, 1.15], tickvals=[0, 0.5, 1])
    figure.update_yaxes(autorange="reversed")
    return themed(figure, title, height=20 + 36 * len(table), width=SINGLE, barmode="group")


def sensitivity(
    table: pd.DataFrame, *, title: str = "What the result depends on", x_title: str = "share that shows the behaviour"
) -> go.Figure:
    """A panel for each varied choice: a share with each variant of the circuit ablated, and with its controls.

    `table` has columns varied, setting, k (neurons), value, low, high, random_value, random_low, random_high: mean,
    lowest and highest of the matched random circuits. `x_title` says what is shared.
    """
    require(table, ("varied", "setting", "k", "value", "low", "high", "random_value", "random_low", "random_high"))
    parts = list(table.groupby("varied", sort=False))
    names = [[wrapped(f"{s} ({k} neurons)") for s, k in zip(rows["setting"], rows["k"])] for _, rows in parts]
    figure, height = stacked([name for name, _ in parts], [row_height(labels) * len(labels) for labels in names])
    for row, ((_, rows), labels) in enumerate(zip(parts, names), 1):
        figure.update_yaxes(range=[len(labels) - 0.5, -0.5], row=row, col=1)
        for number, name in ((0, "circuit ablated"), (1, "matched controls (mean and range)")):
            columns = [f"random_{end}" if number else end for end in ("value", "low", "high")]
            value, low, high = (rows[column] for column in columns)
            style = look(number, grey=bool(number))
            figure.add_scatter(
                x=value,
                y=labels,
                mode="markers",
                name=name,
                legendgroup=name,
                marker=style.marker(),
                error_x=errors(value, low, high, colour=style.colour),
                showlegend=row == 1,
                row=row,
                col=1,
            )
    figure.update_xaxes(range=[-0.04, 1.04], tickformat=".0%", tickvals=[0, 0.5, 1])
    figure.update_xaxes(title_text=safe(x_title), row=len(parts), col=1)
    figure.update_yaxes(type="category")
    return themed(figure, title, height=height, width=SINGLE)

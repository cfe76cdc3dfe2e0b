"""Figures of interventions side by side: bars of any metric, kinds of change, localisers' hits, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from .findings import highest_share, largest_change, largest_effect
from .layout import AUTO, heading, label_rows, panels, themed
from .tables import Pick, amount, check_single, hover, is_share, require, row_names, select, title_of, unpack
from .theme import COLOURS, GREY, PATTERNS, errors, look, ring, safe, stripes

#: The axis of a share: few labels, which stay apart in a narrow panel too.
SHARES = {"tickformat": ".0%", "tickvals": [0, 0.5, 1]}
#: Of labels in stacks: light, dark, middle and black, so that they differ in grey too.
_STACKED = ("#CDD1D5", "#3DB08C", COLOURS[4], COLOURS[6])
_STRIPES = ("#CDD1D5", "#C9EBDF", "#8A5F00", "#FFFFFF")


def bars(summary: pd.DataFrame, picks: Sequence[Pick], *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """A panel for each (metric, prompt set) or (metric, prompt set, label); in it a bar for every intervention.

    Bars carry the summary's intervals. Open rings are the matched controls of the intervention in whose row they
    stand, one above the other, so that none hides another; pooled controls carry their range. An intervention at
    several strengths has a row for each. The title says the largest change of the first panel.
    """
    if not picks:
        raise InputError("no panels to draw; give (metric, prompt set) pairs")
    rows = pd.concat([select(summary, *unpack(panel)).assign(panel=i) for i, panel in enumerate(picks)])
    rows = rows.reset_index(drop=True).assign(row=lambda table: row_names(table))
    main = check_single(rows[rows["control_of"].isna()], ["panel", "row"])
    names = list(dict.fromkeys(main["row"]))
    figure = panels([title_of(panel) for panel in picks], [0] * len(picks), columns=3, share_x=False, share_y="all")
    for i in range(len(picks)):
        own, controls = (part[part["panel"] == i] for part in (main, rows[rows["control_of"].notna()]))
        figure.add_trace(_bars(own, names), row=i + 1, col=1)
        if len(controls):
            shown = not any(t.type == "scatter" for t in figure.data)
            figure.add_trace(_rings(controls, names).update(showlegend=shown), row=i + 1, col=1)
        axis = {"range": [0, 1.04], **SHARES} if is_share(own) else {"nticks": 4}
        figure.update_xaxes(**axis, row=i + 1, col=1)
        label_rows(figure, names, panel=i)
    finding = largest_effect(main[main["panel"] == 0], picks[0])
    return themed(figure, heading(title, finding, about))


def _bars(rows: pd.DataFrame, names: Sequence[str]) -> go.Bar:
    return go.Bar(
        x=rows["value"],
        y=[names.index(name) for name in rows["row"]],
        orientation="h",
        marker_color=[GREY if kind == "baseline" else COLOURS[0] for kind in rows["kind"]],
        error_x=errors(rows["value"], rows["low"], rows["high"]),
        hovertext=hover(rows),
        hoverinfo="text",
        showlegend=False,
    )


def _rings(controls: pd.DataFrame, names: Sequence[str]) -> go.Scatter:
    """Controls in the rows of what they control, with their range where they are pooled."""
    pooled = "controls" in controls and controls["controls"].notna().all()
    bars_of = {"error_x": errors(controls["value"], controls["low"], controls["high"], colour="#333")} if pooled else {}
    return go.Scatter(
        x=controls["value"],
        y=spread([names.index(name) if name in names else len(names) for name in controls["row"]]),
        mode="markers",
        name="matched controls" + (" (mean and range)" if pooled else ""),
        legendgroup="controls",
        marker=ring(6),
        hovertext=hover(controls),
        hoverinfo="text",
        **bars_of,
    )


def spread(rows: Sequence[float], within: float = 0.6) -> list[float]:
    """Places of points in their rows, one above the other, so that points of one row never hide each other."""
    rows = [float(row) for row in rows]
    counts = {row: rows.count(row) for row in rows}
    seen = dict.fromkeys(counts, 0)
    places = []
    for row in rows:
        seen[row] += 1
        places.append(row + within * ((seen[row] - 0.5) / counts[row] - 0.5))
    return places


def shares(
    summary: pd.DataFrame,
    metric: str,
    prompt_set: str | None = None,
    *,
    first: str | None = None,
    title: str | None = AUTO,
    about: str = "",
) -> go.Figure:
    """Stacked shares of the labels of a metric, a bar for every intervention and strength; for outcomes and changes.

    The label `first` (what is wanted, such as "complies") stands at the left with its interval. Matched random
    controls of an intervention are one bar of mean shares below it, with an open ring at each one's share of `first`.
    The title says which intervention has the largest share of `first`, else whose share of a label changed most.
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
        figure.add_trace(_stack(part, label, known.index(label), names))
    wanted = main[main["label"] == first]
    if first is not None:
        # On top of all bars, of which a later one would hide the upper end of an earlier one's interval.
        figure.add_trace(_intervals(wanted, names))
    if first is not None and len(controls):
        figure.add_trace(_each(controls[controls["label"] == first], random, names))
    figure.update_xaxes(range=[-0.02, 1.01], minor={"dtick": 0.25, "ticks": "outside", "ticklen": 2}, **SHARES)
    label_rows(figure, names)
    own = main if len(main) else rows
    finding = highest_share(wanted, first) if first is not None and len(wanted) else largest_change(own)
    return themed(figure, heading(title, finding, about), x_title="share of responses", barmode="stack")


def _mean_controls(controls: pd.DataFrame) -> pd.DataFrame:
    """One row for the controls of each row and label: their mean share, under a name that says how many they are."""
    if controls.empty:
        return controls
    pooled = controls.groupby(["row", "label"], sort=False).agg(
        value=("value", "mean"), size=("value", "size"), n=("n", "sum")
    )
    pooled = pooled.reset_index().assign(low=float("nan"), high=float("nan"), kind="control", control_of="")
    pooled["of"] = pooled["row"]
    pooled["row"] = [f"{row}: {n} random" for row, n in zip(pooled["row"], pooled["size"])]
    return pooled.assign(intervention=pooled["row"], scale="label")


def _interleaved(main: pd.DataFrame, random: pd.DataFrame) -> list[str]:
    """Names of the bars: each intervention, and after it its controls."""
    names = list(dict.fromkeys(main["row"]))
    if random.empty:
        return names
    of = dict(zip(random["of"], random["row"]))
    return [name for row in [*names, *(o for o in of if o not in names)] for name in (row, of.get(row)) if name]


def _stack(part: pd.DataFrame, label: str, number: int, names: Sequence[str]) -> go.Bar:
    """The share of one label in every bar."""
    return go.Bar(
        x=part["value"],
        y=[names.index(name) for name in part["row"]],
        orientation="h",
        name=safe(label),
        text=[amount(v, True) if v >= 0.12 else "" for v in part["value"]],
        textangle=0,
        insidetextanchor="middle",
        constraintext="none",
        textfont={"color": "white" if number % 4 == 3 else "black"},
        hovertext=hover(part),
        hoverinfo="text",
        marker={
            "color": _STACKED[number % 4],
            "pattern": stripes(PATTERNS[number % 4], _STRIPES[number % 4], 7),
            "line": {"width": 0},
        },
    )


def _intervals(rows: pd.DataFrame, names: Sequence[str]) -> go.Scatter:
    """The interval of the first share of every bar, below its middle, where its number stands."""
    return go.Scatter(
        x=rows["value"],
        y=[names.index(name) + 0.28 for name in rows["row"]],
        mode="markers",
        marker={"color": "#000", "size": 2},
        error_x=errors(rows["value"], rows["low"], rows["high"], colour="#000"),
        showlegend=False,
        hoverinfo="skip",
    )


def _each(controls: pd.DataFrame, random: pd.DataFrame, names: Sequence[str]) -> go.Scatter:
    """Every control's share, in the bar of its intervention's controls, each at a height of its own."""
    of = dict(zip(random["of"], random["row"]))
    return go.Scatter(
        x=controls["value"],
        y=spread([names.index(of[row]) for row in controls["row"]]),
        mode="markers",
        name="each control",
        marker={**ring(5), "color": "#000", "line": {"width": 0.8}},
        cliponaxis=False,
        hovertext=hover(controls),
        hoverinfo="text",
    )


def precision_recall(table: pd.DataFrame, *, title: str | None = AUTO, about: str = "") -> go.Figure:
    """Precision and recall of every rule, at equal budget; `table` has columns rule, precision, recall."""
    require(table, ("rule", "precision", "recall"))
    figure = go.Figure()
    for number, column in enumerate(("precision", "recall")):
        figure.add_bar(
            x=table[column],
            y=list(range(len(table))),
            orientation="h",
            name=column,
            marker=look(number).bar(),
            text=[f"{v:.2f}" for v in table[column]],
            textposition="outside",
            textfont={"size": 9},
            cliponaxis=False,
            hovertext=[f"{safe(rule)}: {column} {v:.3g}" for rule, v in zip(table["rule"], table[column])],
            hoverinfo="text",
        )
    figure.update_xaxes(range=[0, 1.15], tickvals=[0, 0.5, 1])
    label_rows(figure, list(table["rule"]), row=30)
    best = table.loc[table["recall"].idxmax()]
    finding = (
        f"most recorded neurons found: {best['rule']}, recall {best['recall']:.2f}, precision {best['precision']:.2f}"
    )
    return themed(figure, heading(title, finding, about), x_title="share", barmode="group")


def sensitivity(
    table: pd.DataFrame, *, title: str | None = AUTO, about: str = "", x_title: str = "share that shows the behaviour"
) -> go.Figure:
    """A panel for each varied choice: a share with each variant of the circuit ablated, and with its controls.

    `table` has columns varied, setting, k (neurons), value, low, high, random_value, random_low, random_high: mean,
    lowest and highest of the matched random circuits. `x_title` says what is shared.
    """
    require(table, ("varied", "setting", "k", "value", "low", "high", "random_value", "random_low", "random_high"))
    parts = list(table.groupby("varied", sort=False))
    figure = panels([str(name) for name, _ in parts], [0] * len(parts))
    for i, (_, rows) in enumerate(parts):
        label_rows(figure, [f"{s} ({k} neurons)" for s, k in zip(rows["setting"], rows["k"])], panel=i)
        for number, name in ((0, "circuit ablated"), (1, "matched controls (mean and range)")):
            columns = [f"random_{end}" if number else end for end in ("value", "low", "high")]
            value, low, high = (rows[column] for column in columns)
            style = look(number, grey=bool(number))
            figure.add_scatter(
                x=value,
                y=[place + (0.18 if number else -0.18) for place in range(len(rows))],
                mode="markers",
                name=name,
                legendgroup=name,
                marker=style.marker(),
                error_x=errors(value, low, high, colour=style.colour),
                hovertext=[f"{name}: {v:.1%} [{a:.1%}, {b:.1%}]" for v, a, b in zip(value, low, high)],
                hoverinfo="text",
                showlegend=i == 0,
                row=i + 1,
                col=1,
            )
    figure.update_xaxes(range=[-0.04, 1.04], **SHARES)
    ends = [
        amount(end, True) for column in ("value", "random_value") for end in (table[column].min(), table[column].max())
    ]
    finding = f"circuit ablated {ends[0]} to {ends[1]}, random circuits {ends[2]} to {ends[3]}"
    return themed(figure, heading(title, finding, about), x_title=x_title)


check_arguments(__name__)

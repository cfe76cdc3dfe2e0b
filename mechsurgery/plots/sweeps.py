"""Figures of evaluations: dose–response, ablations side by side, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import InputError, listed
from .theme import COLOURS, DASHES, GREY, SYMBOLS, safe, themed, wash

_LABELS = {
    "refusal": "refusal",
    "refusal_raw": "refusal, degenerate included",
    "quality": "output quality",
    "choice": "multiple choice",
    "degenerate": "degenerate outputs",
}
_NEEDED = ("intervention", "kind", "m", "metric", "n", "value", "low", "high", "prompt_set")


def dose_response(
    summary: pd.DataFrame,
    *,
    x: str = "m",
    metrics: Sequence[str] = ("refusal", "quality", "choice"),
    title: str = "Dose–response: scaling the circuit by m",
) -> go.Figure:
    """One panel for each metric over m (0 ablates, 1 is the unmodified model), with 95 % intervals.

    `summary` is that of a results table. Matched random circuits are drawn in grey; the baseline of a model
    joins each of its curves at m = 1.
    """
    _require(summary, [*_NEEDED, x])
    shown = [metric for metric in metrics if (summary["metric"] == metric).any()]
    figure = make_subplots(len(shown), 1, shared_xaxes=True, vertical_spacing=0.05)
    curves = summary[summary["kind"] != "baseline"]
    names = [n for n in curves[curves["kind"] != "random"]["intervention"].unique()]
    for row, metric in enumerate(shown, 1):
        part = curves[curves["metric"] == metric]
        for (name, prompt_set), own in part.groupby(["intervention", "prompt_set"], sort=False):
            models = own["model"].unique() if "model" in own else [None]
            line = _with_baseline(summary, own, metric, prompt_set, models, x)
            random = name not in names
            number = 0 if random else names.index(name)
            colour = GREY if random else COLOURS[number % len(COLOURS)]
            legend = "matched random circuits" if random else safe(name)
            first = row == 1 and not any(trace.name == legend for trace in figure.data)
            if not random:
                figure.add_scatter(
                    x=[*line[x], *line[x][::-1]],
                    y=[*line["high"], *line["low"][::-1]],
                    fill="toself",
                    fillcolor=wash(colour),
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    row=row,
                    col=1,
                )
            figure.add_scatter(
                x=line[x],
                y=line["value"],
                mode="lines" if random else "lines+markers",
                name=legend,
                line={"color": colour, "width": 1 if random else 2, "dash": DASHES[number % len(DASHES)]},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
                legendgroup=legend,
                showlegend=first,
                text=[
                    f"{v:.3f} [{lo:.3f}, {hi:.3f}], n = {n}"
                    for v, lo, hi, n in zip(line["value"], line["low"], line["high"], line["n"])
                ],
                row=row,
                col=1,
            )
        figure.add_vline(x=1, line={"color": "#666", "dash": "dot", "width": 1}, row=row, col=1)
        figure.update_yaxes(title_text=_LABELS.get(metric, safe(metric)), range=[-0.04, 1.04], row=row, col=1)
    figure.update_xaxes(title_text="m (0 ablates, 1 is unmodified, above 1 amplifies)", row=len(shown), col=1)
    return themed(figure, title, height=130 + 230 * len(shown), legend={"y": -0.12})


def _with_baseline(
    summary: pd.DataFrame, own: pd.DataFrame, metric: str, prompt_set: str, models: Any, x: str
) -> pd.DataFrame:
    base = summary[
        (summary["kind"] == "baseline") & (summary["metric"] == metric) & (summary["prompt_set"] == prompt_set)
    ]
    if "model" in base:
        base = base[base["model"].isin(models)]
    joined = own if (own[x] == 1).any() else pd.concat([own, base.head(1).assign(**{x: 1.0})])
    return joined.sort_values(x)[[x, "value", "low", "high", "n"]]


def bars(
    summary: pd.DataFrame, *, metric: str = "refusal", prompt_set: str | None = None, title: str | None = None
) -> go.Figure:
    """A metric under every intervention with 95 % intervals, and the range of its matched random circuits.

    Random circuits must be named "random like NAME, seed …" as `Circuit.random_like` does.
    """
    _require(summary, _NEEDED)
    part = summary[summary["metric"] == metric]
    sets = [prompt_set] if prompt_set else list(part["prompt_set"].unique())
    figure = go.Figure()
    for number, own_set in enumerate(sets):
        rows = part[part["prompt_set"] == own_set]
        main = rows[rows["kind"] != "random"]
        labels = [safe(name) for name in main["intervention"]]
        figure.add_bar(
            x=main["value"],
            y=labels,
            orientation="h",
            name=safe(own_set),
            marker={"color": COLOURS[number % len(COLOURS)], "pattern": {"shape": ("", "/", "x")[number % 3]}},
            error_x=_errors(main),
            text=[f"n = {n}" for n in main["n"]],
            textposition="none",
            hovertemplate="%{y}: %{x:.3f}, %{text}<extra></extra>",
        )
        random = rows[rows["kind"] == "random"].copy()
        if len(random):
            of = random["intervention"].str.extract(r"^random like (.*), seed \d+$")[0]
            figure.add_scatter(
                x=random["value"],
                y=[safe(name) for name in of],
                mode="markers",
                name=f"{safe(own_set)}: matched random circuits",
                marker={
                    "color": "white",
                    "symbol": SYMBOLS[number % 6],
                    "size": 8,
                    "line": {"color": COLOURS[number % len(COLOURS)], "width": 2},
                },
            )
    figure.update_xaxes(title_text=_LABELS.get(metric, safe(metric)), range=[0, 1.03])
    figure.update_yaxes(autorange="reversed")
    n_bars = part[part["kind"] != "random"]["intervention"].nunique()
    label = _LABELS.get(metric, metric)
    height = 180 + 46 * n_bars
    title = title or f"{label.capitalize()} with each circuit ablated"
    return themed(figure, title, height=height, barmode="group", legend={"y": -90 / height - 0.12})


def precision_recall(table: pd.DataFrame, *, title: str = "Recorded neurons found, at equal budget") -> go.Figure:
    """Precision and recall of every rule; `table` has columns rule, k, precision, recall."""
    _require(table, ("rule", "k", "precision", "recall"))
    figure = go.Figure()
    for number, column in enumerate(("precision", "recall")):
        figure.add_bar(
            x=table[column],
            y=[safe(rule) for rule in table["rule"]],
            orientation="h",
            name=column,
            marker={"color": COLOURS[number], "pattern": {"shape": ("", "/")[number]}},
            text=[f"{v:.2f}" for v in table[column]],
            textposition="outside",
        )
    figure.update_xaxes(title_text="share", range=[0, 1.1])
    figure.update_yaxes(autorange="reversed")
    return themed(
        figure, title, height=180 + 50 * len(table), barmode="group", legend={"y": -90 / (180 + 50 * len(table)) - 0.1}
    )


def _errors(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": rows["high"] - rows["value"],
        "arrayminus": rows["value"] - rows["low"],
        "color": "#333",
        "thickness": 1.2,
    }


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"the table lacks {listed(missing)}; it needs the columns {listed(columns, 20)}")
    if not len(table):
        raise InputError("the table is empty; evaluate something first")

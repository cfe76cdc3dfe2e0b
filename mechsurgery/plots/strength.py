"""Figures of rival interventions: curves over strength, trade-offs, sensitivity, kinds of change."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .sweeps import _LABELS, _errors, _require
from .theme import COLOURS, DASHES, GREY, SYMBOLS, safe, themed

_CURVE = ("intervention", "kind", "strength", "metric", "prompt_set", "n", "value", "low", "high")


def strength_curves(
    summary: pd.DataFrame,
    *,
    panels: Sequence[tuple[str, str]],
    title: str = "Behaviour and damage over strength",
    x_title: str = "strength (0 unmodified, 1 the full effect against the behaviour)",
) -> go.Figure:
    """One panel for each (metric, prompt set) with a curve for every intervention, through the baseline at 0.

    Matched random circuits are grey. Bars are 95 % intervals.
    """
    _require(summary, _CURVE)
    figure = make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=0.05)
    names = list(summary[~summary["kind"].isin(["baseline", "random"])]["intervention"].unique())
    seen: set[str] = set()
    for row, (metric, prompt_set) in enumerate(panels, 1):
        part = summary[(summary["metric"] == metric) & (summary["prompt_set"] == prompt_set)]
        base = part[part["kind"] == "baseline"].head(1).assign(strength=0.0)
        curves = part[part["kind"] != "baseline"]
        for name, own in curves.groupby("intervention", sort=False):
            random = name not in names
            number = 0 if random else names.index(name)
            colour = GREY if random else COLOURS[number % len(COLOURS)]
            legend = "matched random circuits" if random else safe(name)
            line = pd.concat([own, base]).sort_values("strength")
            figure.add_scatter(
                x=line["strength"],
                y=line["value"],
                mode="lines" if random else "lines+markers",
                name=legend,
                legendgroup=legend,
                showlegend=legend not in seen,
                error_y=None if random else _errors(line),
                line={"color": colour, "width": 1 if random else 2, "dash": DASHES[number % len(DASHES)]},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
                text=[
                    f"{safe(name)}: {v:.3f} [{lo:.3f}, {hi:.3f}], n = {n}"
                    for v, lo, hi, n in zip(line["value"], line["low"], line["high"], line["n"])
                ],
                hoverinfo="text",
                row=row,
                col=1,
            )
            seen.add(legend)
        label = f"{_LABELS.get(metric, metric)}<br>({prompt_set})"
        figure.update_yaxes(title_text="<br>".join(safe(p) for p in label.split("<br>")), row=row, col=1)
        if metric not in ("kl", "n_tokens", "first_token"):
            figure.update_yaxes(range=[-0.04, 1.04], row=row, col=1)
        figure.add_vline(x=0, line={"color": "#666", "dash": "dot", "width": 1}, row=row, col=1)
    figure.update_xaxes(title_text=x_title, row=len(panels), col=1)
    height = 150 + 220 * len(panels)
    return themed(figure, title, height=height, legend={"y": -80 / height})


def trade_off(points: pd.DataFrame, *, behaviour: str, damage: str, title: str) -> go.Figure:
    """Behaviour against damage, a point per intervention and strength; the Pareto front as a line.

    `points` is the table of `evaluation.pareto.trade_off`. Lower left is better when a behaviour is removed.
    """
    _require(points, ("intervention", "kind", "strength", "behaviour", "damage", "front"))
    figure = go.Figure()
    front = points[points["front"]].sort_values(["damage", "behaviour"])
    figure.add_scatter(
        x=front["damage"],
        y=front["behaviour"],
        mode="lines",
        line={"color": "#222", "width": 1, "shape": "vh"},
        name="Pareto front",
        hoverinfo="skip",
    )
    names = [n for n in points[points["kind"] != "random"]["intervention"].unique()]
    for name, own in points.groupby(points["intervention"].where(points["kind"] != "random", "random"), sort=False):
        random = name == "random"
        number = 0 if random else names.index(name)
        own = own.sort_values("strength")
        errors = [
            {
                "type": "data",
                "symmetric": False,
                "array": own[f"{side}_high"] - own[side],
                "arrayminus": own[side] - own[f"{side}_low"],
                "color": "#BBB",
                "thickness": 0.8,
            }
            for side in ("behaviour", "damage")
        ]
        figure.add_scatter(
            x=own["damage"],
            y=own["behaviour"],
            mode="markers",
            error_y=errors[0],
            error_x=errors[1],
            name="matched random circuits" if random else safe(name),
            marker={
                "color": GREY if random else COLOURS[number % len(COLOURS)],
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "size": 6 if random else 9,
            },
            text=[
                f"{safe(n)}, strength {s:g}: {b:.2f} at {d:.3g}"
                for n, s, b, d in zip(own["intervention"], own["strength"], own["behaviour"], own["damage"])
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text=safe(damage))
    figure.update_yaxes(title_text=safe(behaviour), range=[-0.04, 1.04])
    return themed(figure, title, height=620, legend={"y": -0.16})


def sensitivity(table: pd.DataFrame, *, title: str = "What the result depends on") -> go.Figure:
    """One panel for each varied choice: behaviour with the circuit ablated, and with matched random circuits.

    `table` has columns varied, setting, k, value, low, high, n, random_low, random_value, random_high.
    """
    _require(table, ("varied", "setting", "k", "value", "low", "high", "random_value"))
    varied = list(table["varied"].unique())
    figure = make_subplots(
        len(varied), 1, subplot_titles=[safe(v) for v in varied], vertical_spacing=0.35 / len(varied)
    )
    for row, name in enumerate(varied, 1):
        own = table[table["varied"] == name]
        x = [f"{setting}<br>({k} neurons)" for setting, k in zip(own["setting"], own["k"])]
        figure.add_scatter(
            x=x,
            y=own["value"],
            mode="lines+markers",
            error_y=_errors(own),
            name="circuit ablated",
            line={"color": COLOURS[0]},
            marker={"size": 9},
            showlegend=row == 1,
            row=row,
            col=1,
        )
        ranges = {
            "type": "data",
            "symmetric": False,
            "array": own["random_high"] - own["random_value"],
            "arrayminus": own["random_value"] - own["random_low"],
            "color": GREY,
        }
        figure.add_scatter(
            x=x,
            y=own["random_value"],
            mode="markers",
            error_y=ranges,
            name="matched random circuits (range)",
            marker={"color": GREY, "symbol": "square", "size": 8},
            showlegend=row == 1,
            row=row,
            col=1,
        )
        figure.update_yaxes(range=[-0.04, 1.06], title_text="behaviour", row=row, col=1)
        figure.update_xaxes(type="category", row=row, col=1)
    height = 140 + 250 * len(varied)
    return themed(figure, title, height=height, legend={"y": -70 / height})


def change_bars(summary: pd.DataFrame, *, title: str = "What scaling the circuit changes") -> go.Figure:
    """Stacked shares of responses by kind of change; `summary` is that of `evaluation.change.change_summary`."""
    _require(summary, ("intervention", "m", "change", "value", "n"))
    parts = summary[summary["change"] != "edit distance"]
    figure = go.Figure()
    for number, (kind, own) in enumerate(parts.groupby("change", sort=False)):
        figure.add_bar(
            x=own["value"],
            y=[f"{safe(name)}, m = {m:g}" for name, m in zip(own["intervention"], own["m"])],
            orientation="h",
            name=safe(kind),
            text=[f"{v:.0%}" if v >= 0.04 else "" for v in own["value"]],
            marker={
                "color": (GREY, COLOURS[5], COLOURS[1], COLOURS[6])[number % 4],
                "pattern": {"shape": ("", "/", "", "x")[number % 4]},
            },
        )
    figure.update_xaxes(title_text="share of responses", range=[0, 1], tickformat=".0%")
    figure.update_yaxes(autorange="reversed")
    rows = parts[["intervention", "m"]].drop_duplicates()
    height = 190 + 34 * len(rows)
    return themed(figure, title, height=height, barmode="stack", legend={"y": -90 / height - 0.05})

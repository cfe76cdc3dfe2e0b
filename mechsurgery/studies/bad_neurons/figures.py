"""The study's figures, from its summary, probes and loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ...attribution.probes import Probe
from .settings import Settings
from .summary import METRICS, main_rows


def figures(
    summary: pd.DataFrame, probes: Mapping[str, Probe], losses: Mapping[str, Any], settings: Settings
) -> dict[str, go.Figure]:
    """By name: what each way cured and cost, the two curves where they were drawn, probe weights, training loss."""
    main, run = main_rows(summary, settings), summary["run"]
    panels = [(name, METRICS[name][0]) for name in main["metric"].unique() if name != "incoherent"]
    drawn = {"cure_and_cost": plots.bars(main, panels, title="What each way cured, and what it cost")}
    sized = summary[(run == "none") | summary["fraction"].isin([settings.fraction, 1.0]) & (run != "ablation")]
    drawn |= _curve(
        sized,
        ("sycophancy", "over-correction"),
        name="examples",
        x="n_examples",
        x_title="training examples",
        title="How little data is enough",
    )
    shared = summary[(run == "none") | (run == "neurons") & (summary["n_examples"] == settings.n_examples)]
    drawn |= _curve(
        shared,
        ("sycophancy", "KL on neutral text"),
        name="fractions",
        x="fraction",
        x_title="share of all MLP neurons",
        title="How few neurons are enough",
    )
    drawn["probe_weights"] = plots.weight_histogram({name: probe.scores() for name, probe in probes.items()})
    drawn["training_loss"] = plots.loss_curves(losses)
    return drawn


def _curve(summary: pd.DataFrame, metrics: Sequence[str], *, name: str, x: str, **words: str) -> dict[str, go.Figure]:
    """A curve for each way with more than one point; nothing where there is none."""
    points = summary.groupby("intervention")[x].nunique()
    rows = summary[(summary["run"] == "none") | summary["intervention"].isin(points[points > 1].index)]
    if (rows["run"] == "none").all():
        return {}
    return {name: plots.curves(rows, [(metric, METRICS[metric][0]) for metric in metrics], x=x, log_x=True, **words)}

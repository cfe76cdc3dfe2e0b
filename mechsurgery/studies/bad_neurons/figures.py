"""The study's figures, from its summary, probes and loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ...attribution.probes import Probe
from .settings import Settings
from .summary import METRICS, main_rows

CAPTIONS = {
    "cure_and_cost": "What each way cured and what it cost, beside the unmodified model (grey). Bars: 95 % intervals.",
    "examples": "Sycophancy and over-correction after learning from fewer or more examples. Dotted: unmodified.",
    "fractions": "Sycophancy and KL divergence after training fewer or more neurons. Dotted: unmodified.",
    "probe_weights": "Weights of each probe: how many units it leans on.",
    "training_loss": "Training loss of each way's neurons, first seed.",
}


def figures(
    summary: pd.DataFrame, probes: Mapping[str, Probe], losses: Mapping[str, Any], settings: Settings
) -> dict[str, go.Figure]:
    """By name: what each way cured and cost, the two curves where they were drawn, probe weights, training loss."""
    main, run = main_rows(summary, settings), summary["run"]
    panels = [(name, None) for name in METRICS if name != "broken" and name in set(main["metric"])]
    drawn = {"cure_and_cost": plots.bars(main, panels, title="What each way cured, and what it cost")}
    sized = summary[(run == "none") | summary["fraction"].isin([settings.fraction, 1.0]) & (run != "ablation")]
    shared = summary[(run == "none") | (run == "neurons") & (summary["n_examples"] == settings.n_examples)]
    found = {
        "examples": _curve(sized, "n_examples", "over-correction", "training examples", "How little data is enough"),
        "fractions": _curve(
            shared, "fraction", "KL on neutral text", "share of all MLP neurons", "How few neurons are enough"
        ),
    }
    drawn |= {name: figure for name, figure in found.items() if figure is not None}
    drawn["probe_weights"] = plots.weight_histogram({name: probe.scores() for name, probe in probes.items()})
    drawn["training_loss"] = plots.loss_curves(losses)
    return drawn


def _curve(summary: pd.DataFrame, x: str, cost: str, x_title: str, title: str) -> go.Figure | None:
    """Sycophancy and a cost over `x`, a curve for each way with more than one point; None where there is none."""
    points = summary.groupby("intervention")[x].nunique()
    rows = summary[(summary["run"] == "none") | summary["intervention"].isin(points[points > 1].index)]
    if (rows["run"] == "none").all():
        return None
    panels = [("sycophancy", None), (cost, None)]
    return plots.curves(rows, panels, x=x, x_title=x_title, title=title, log_x=True)

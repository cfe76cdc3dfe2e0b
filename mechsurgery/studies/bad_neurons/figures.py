"""The study's figures, from its summary, probes and loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ... import plots
from .tables import _main


def figures(
    summary: pd.DataFrame, probes: Mapping[str, Any], curves: Mapping[str, Any], fraction: float, n_examples: int
) -> dict[str, Any]:
    """By name: what each way cured and cost, the two curves, probe weights, training loss."""
    main = _main(summary, fraction, n_examples)
    neurons = summary[summary["kind"] == "neurons"]
    made = {
        "cure_and_cost": plots.cure_and_cost(main),
        "examples": plots.metric_curves(
            summary[(summary["kind"].isin(["neurons", "rival"])) & (summary["fraction"].isin([fraction, 1.0]))],
            x="n_examples",
            metrics=("sycophancy", "over-correction"),
            label="training examples",
            title="How little data is enough",
        ),
        "fractions": plots.metric_curves(
            neurons[neurons["n_examples"] == n_examples],
            x="fraction",
            metrics=("sycophancy", "KL on neutral text"),
            label="share of all MLP neurons",
            title="How few neurons are enough",
        ),
        "probe_weights": plots.weight_histogram({name: p.scores() for name, p in probes.items()}),
    }
    if curves:
        made["training_loss"] = plots.loss_curves(curves)
    return made

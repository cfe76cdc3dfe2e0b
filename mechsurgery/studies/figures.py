"""Figures of the demo and of comparing two models."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from .. import plots
from ..evaluation import Results
from .compare import Comparison
from .localisers import LocaliserStudy


def comparison_figures(result: Comparison) -> dict[str, go.Figure]:
    """Layer profile, per-neuron scatter and overlap of two models."""
    first, second = result.scores.values()
    return {
        "layer_profile": plots.circuit_profile(result.circuits),
        "neuron_scatter": plots.neuron_scatter(first, second, circuits=result.circuits),
        "overlap": plots.overlap(result.circuits),
    }


def localiser_figures(study: LocaliserStudy, *, published: str = "difference (published)") -> dict[str, go.Figure]:
    """Score distribution of the published rule, and refusal after ablating each localiser's circuit."""
    summary = study.results.summary()
    figures = {
        "layer_distribution": plots.layer_distribution(study.scores[published], study.circuits[published]),
        "ablation": plots.bars(summary, _panels(summary, ["refusal"]), title="Refusal with each circuit ablated"),
    }
    if "precision" in study.table.columns:
        found = study.table.dropna(subset=["precision"]).rename(columns={"ablated": "rule"})
        figures["precision_recall"] = plots.precision_recall(found[found["rule"] != "recorded neurons"])
    return figures


def dose_figure(results: Results) -> go.Figure:
    """Refusal, quality and multiple choice over m."""
    summary = results.summary()
    return plots.curves(summary, _panels(summary, ["refusal", "quality", "choice"]), x="m", title="Scaling the circuit")


def _panels(summary: pd.DataFrame, metrics: Sequence[str]) -> list[tuple[str, str]]:
    """(metric, prompt set) for every prompt set on which a metric was measured."""
    measured = summary[summary["metric"].isin(metrics)].drop_duplicates(["metric", "prompt_set"])
    return [pair for metric in metrics for pair in zip(measured["metric"], measured["prompt_set"]) if pair[0] == metric]

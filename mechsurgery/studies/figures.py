"""Figures of studies, and writing a folder of them with one index page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import plots
from ..evaluation import Results
from .compare import Comparison
from .localisers import LocaliserStudy


def comparison_figures(result: Comparison) -> dict[str, Any]:
    """Layer profile, per-neuron scatter and overlap of two models."""
    first, second = result.scores.values()
    return {
        "layer_profile": plots.circuit_profile(result.circuits),
        "neuron_scatter": plots.neuron_scatter(first, second, circuits=result.circuits),
        "overlap": plots.overlap(result.circuits),
    }


def localiser_figures(study: LocaliserStudy, *, published: str = "difference (published)") -> dict[str, Any]:
    """Score distribution of the published rule, and refusal after ablating each localiser's circuit."""
    figures = {
        "layer_distribution": plots.layer_distribution(study.scores[published], study.circuits[published]),
        "ablation": plots.bars(study.results.summary(), metric="refusal"),
    }
    if "precision" in study.table.columns:
        found = study.table.dropna(subset=["precision"]).rename(columns={"ablated": "rule"})
        figures["precision_recall"] = plots.precision_recall(found[found["rule"] != "recorded neurons"])
    return figures


def dose_figure(results: Results) -> Any:
    """Refusal, quality and multiple choice over m."""
    return plots.dose_response(results.summary())


def export_all(figures: Mapping[str, Any], folder: Path, *, captions: Mapping[str, str] | None = None) -> str:
    """Write every figure in every format that works here, and an `index.html`.

    Returns sentences that say what was written, and which formats were left out and why.
    """
    captions = captions or {}
    reports = {}
    for name, figure in figures.items():
        reports[name] = plots.export(figure, Path(folder) / name, plotlyjs="directory")
    entries = [(f"{name}.html", captions.get(name, name.replace("_", " "))) for name in figures]
    index = plots.index(Path(folder), entries)
    written = sorted({path.suffix[1:] for report in reports.values() for path in report.written})
    skipped = {form: why for report in reports.values() for form, why in report.skipped.items()}
    lines = [f"{len(figures)} figures written to {folder} as {', '.join(written)}; open {index}"]
    lines += [f"left out {form}: {why}" for form, why in skipped.items()]
    return "\n".join(lines)

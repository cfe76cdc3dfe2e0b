"""Figures and page of the benchmark of localisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...plots import Section
from ...plots.localisers import outcome_by_size
from ..base import settings_table

KEPT_SETTINGS = ("case", "budget", "n_discovery", "n_behaviour", "seed", "seconds", "made")


def figures_of(curve: pd.DataFrame) -> dict[str, go.Figure]:
    """Answers done well against size, a figure for each case."""
    figures = {}
    for case, part in curve.groupby("case", sort=False):
        figures[f"sizes_{case}"] = outcome_by_size(part, about=str(case))
    return figures


def sections(
    tables: Mapping[str, pd.DataFrame], figures: Mapping[str, go.Figure], info: Mapping[str, Any]
) -> tuple[Section, ...]:
    """The report: what was asked, the tables, the figures, the settings."""
    notes = (
        "Each localiser ranks all MLP neurons on discovery prompts. Its k highest are put out, and the model answers "
        "prompts about other nouns. Shows, well and broken are shares of answers: the behaviour, its opposite done "
        "well, and neither.",
        "The area is the mean share of answers done well over sizes, on a logarithmic axis. Findings on organisms "
        "are no findings about real models.",
    )
    drawn = tuple((name, f"{name.removeprefix('sizes_')}: share done well against units put out") for name in figures)
    return (
        Section("Tables", notes, dict(tables)),
        Section("Answers done well against size", tuple(text for _, text in drawn), {}, dict(figures)),
        Section("Settings", (), {"Settings": settings_table(info, KEPT_SETTINGS)}),
    )

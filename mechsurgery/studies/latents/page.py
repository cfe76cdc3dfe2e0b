"""The study as a report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...evaluation.verdicts import HELD
from ...plots import Section
from ..base import settings_table
from .methods import MAX_BROKEN, CaseResult
from .tables import FDR


def sections(
    results: Sequence[CaseResult],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    info: Mapping[str, Any],
) -> tuple[Section, ...]:
    """The report: claims beside numbers, what did not hold, tables, figures, latents to read."""

    def some(*names: str) -> dict[str, pd.DataFrame]:
        return {title: table for title, table in tables.items() if title.split(":")[0] in names}

    (verdicts,) = some("Claims").values()
    missed = verdicts[verdicts["verdict"] != HELD]
    views = {f"{r.case.name}, {view.name}: its strongest contexts": view.heatmaps for r in results for view in r.views}
    facts = info["settings"] | {name: value for name, value in info.items() if name != "settings"}
    return (
        Section("What was asked", _intro(info), some("Pairs", "Fit")),
        Section("The post's claims beside what was measured", (), {"": verdicts}),
        Section("What did not hold", (_MISSED if len(missed) else "Every claim held.",), {"": missed}),
        Section("Proof by steering", _STEERING, some("Rankings", "Best latents")),
        Section("Against the exact effect", _ORACLE, some("Oracle")),
        Section("Figures", (), {}, {name.replace("_", " "): figure for name, figure in figures.items()}),
        Section("Two cases", () if len(results) > 1 else _ONE, some("Convergence")),
        Section(
            "Reading the best latents", (), some("Reading"), {}, {k: maps for k, maps in views.items() if maps.rows}
        ),
        Section("Responses to read", (), some("Responses")),
        Section("How it was made", (), {"": settings_table(facts, facts)}),
    )


_MISSED = "Claims that failed, stay undecided at this n, or could not be measured here."
_ONE = ("Give two cases to see which latents explain both.",)
_STEERING = (
    "Each latent's decoder direction is added at every token, at fractions of the median activation norm of the "
    "behaving model. Validation prompts choose its strength: the largest effect with at most "
    f"{100 * MAX_BROKEN:.0f} % broken responses; evaluation prompts of other groups measure the effect there.",
    "Outside the band (*) means: a larger effect than every random latent, and different from the unmodified model "
    f"(a test that flips whole groups of prompts, Benjamini–Hochberg over all steered latents at {FDR}). q_random "
    "compares with the random latents alone: (1 + number as large) / (1 + number), Benjamini–Hochberg; with few random "
    "latents it cannot be small.",
)
_ORACLE = (
    "Exact: the loss of bad minus good completions when a latent's direction is really moved to its mean at all prompt "
    "tokens, one latent at a time; half of the latents are the best by Δ-attribution, half random ones.",
)
_ORGANISMS = "These are model organisms of a few million parameters: nothing here is a finding about real models."


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = (
        f"Cases: {', '.join(info['cases'])}. Autoencoder {info['sae']} at {info['hook_name']} with "
        f"{info['n_latents']:,} latents. Pairs are completions of the same model to the same prompts, graded by rule; "
        "prompts that give pairs, that choose strengths and that measure effects share no group.",
        "A response that is no proper answer is broken: neither bad nor good.",
    )
    return (*lines, _ORGANISMS) if any(str(name).startswith("organism/") for name in info["models"]) else lines

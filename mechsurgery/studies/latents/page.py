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
        Section("Proof by steering", _STEERING, some("Rankings", "Pool", "Best latents")),
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
    "behaving model. Steering down is judged by the rise of good responses, since a behaviour that is gone is not one "
    "that is repaired; steering the twin up by the rise of bad ones. Validation prompts choose a latent's strength: "
    f"the largest rise at which broken responses rise by at most {100 * MAX_BROKEN:.0f} points; evaluation prompts of "
    "other groups measure the effect there, which counts as 0 where broken responses rise by more here too.",
    "Two tests. A latent steers (*) where its wanted responses rise over the unmodified model's: a paired one-sided "
    f"test that flips whole groups of prompts, Benjamini–Hochberg over all steered latents, random ones too, at {FDR}. "
    "A ranking is held against random latents of the same pool, the latents that are active on the case's prompts and "
    "completions: p divides its latents and the random ones anew, and intervals draw latents and groups of prompts.",
)
_ORACLE = (
    "Exact: the loss of bad minus good completions when a latent's direction is really moved to its mean at all prompt "
    "tokens, or at all tokens, one latent at a time. Latents are drawn at random from the active ones, and the pairs "
    "are of other groups than those that gave the scores. Intervals draw latents.",
)
_ORGANISMS = "These are model organisms of a few million parameters: nothing here is a finding about real models."


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = (
        f"Cases: {', '.join(info['cases'])}. Autoencoder {info['sae']} at {info['hook_name']} with "
        f"{info['n_latents']:,} latents. Pairs are completions of the same model to the same prompts, graded by rule; "
        "prompts that give pairs, that choose strengths and that measure effects share no group.",
        "Every response is one of three: bad (shows the behaviour), good (the right answer), or broken (neither).",
    )
    return (*lines, _ORGANISMS) if any(str(name).startswith("organism/") for name in info["models"]) else lines

"""The study as a report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...evaluation.verdicts import HELD
from ...plots import Section
from ..base import settings_table
from .choosing import TOLERANCE
from .claims import LEAD, MARGIN


def sections(
    tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Mapping[str, go.Figure]], info: Mapping[str, Any]
) -> tuple[Section, ...]:
    """Claims beside numbers, then each part with its tables and figures; `figures` are by part."""
    named = {name.split(":")[0]: (name, table) for name, table in tables.items()}

    def part(title: str, text: Sequence[str], names: Sequence[str], key: str) -> list[Section]:
        shown = dict(named[name] for name in names if name in named)
        drawn = {name.replace("_", " "): figure for name, figure in figures.get(key, {}).items()}
        return [Section(title, text, shown, drawn)] if shown or drawn else []

    _, verdicts = named["Claims"]
    missed = verdicts[verdicts["verdict"] != HELD]
    words = "Claims that failed, stay undecided at this n, or could not be measured here."
    return (
        Section("What was asked", _INTRO),
        Section("The paper's claims beside what was measured", (), {"": verdicts}),
        Section("What did not hold", (words,), {"": missed})
        if len(missed)
        else Section("What did not hold", ("Every claim that was measured held.",)),
        *part("Steering", _STEER, ("Steering", "Nulls", "Random directions", "Grid"), "steer"),
        *part("Repair", _REPAIR, ("Repair",), "repair"),
        *part("Watching", _WATCH, ("Watching", "Cosines"), "watch"),
        *part("Where the directions are", (), ("Neurons",), "where"),
        Section("How it was made", (), {"": settings_table(info, [name for name in info if name != "title"])}),
    )


_INTRO = (
    "w = θ⁺ − θ⁻: two small opposite fine-tunes of the same questions, added k times to the weights. Fine-tunes of all "
    "seeds are pooled; intervals are 95 %, clustered by group of prompts, none of which was trained on.",
    "These are model organisms of a few million parameters: nothing here is a finding about real models. They take no "
    "system prompt, so that rival is left out.",
)
_STEER = (
    "Each method at the strength, learning rate and layer with which it does what is wanted well most often, with no "
    f"more than {100 * TOLERANCE:g} points of capability lost or of broken responses gained, all on validation prompts "
    "that are neither trained on nor shown here; where no strength will do, it is the unmodified model. 'New template' "
    "asks in words that were never trained on. The side effect is what goes wrong with too much of it; it is shown and "
    "does not choose the strength.",
    f"One method beats another by more than {100 * LEAD:g} points on the same prompts; a null direction changes "
    f"nothing where the interval of its change lies within {100 * MARGIN:g} points. Random directions have the norm of "
    "w in every matrix; each is a circle, and they answer some prompts of the set alone.",
)
_REPAIR = (
    "The task teaches one-word answers; in its data users are always right, or every request is answered. w is "
    "subtracted from the fine-tuned weights; joint training mixes good examples into the task's data instead. What the "
    "task brought being gone is the paper's measure; being done well again is ours. The strength is the one with which "
    f"that is so most often on validation prompts, with at most {100 * TOLERANCE:g} points of the skill lost.",
)
_WATCH = (
    "Fine-tunes, watched every few steps: the cosine of their update with each behaviour's direction, beside random "
    "directions of the same norms, and the behaviour itself on validation prompts. AUROC has an interval over runs, as "
    "if runs of one task with several seeds were independent.",
)

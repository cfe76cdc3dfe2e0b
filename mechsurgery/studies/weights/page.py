"""What the report of the study says beside its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ...reports import ORGANISMS, READ, Page, Part, claims_of, verdict
from .choosing import TOLERANCE
from .claims import LEAD, MAIN, MARGIN

_INTRO = (
    "w = θ⁺ − θ⁻: two small opposite fine-tunes of the same questions, added k times to the weights. Fine-tunes of all "
    "seeds are pooled; intervals are 95 %, clustered by group of prompts, none of which was trained on.",
)
_WORLD = f"{ORGANISMS} They take no system prompt, so that rival is left out."
_TABLES = {
    "steer": ("Steering", "Geometry", "Nulls", "Random directions", "Benchmarks", "Grid"),
    "repair": ("Repair", "Remedies"),
    "watch": ("Watching", "Cosines", "Onsets"),
    "emergence": ("Emergence",),
    "where": ("Neurons",),
}
_TITLES = {
    "steer": "Steering",
    "repair": "Repair",
    "watch": "Watching",
    "emergence": "Emergent misalignment",
    "where": "Where the directions are",
}


def page_of(tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Iterable[str]], info: Mapping[str, Any]) -> Page:
    """The report; `figures` are their names by part of the study, `info` says which model and how it was trained."""
    texts = {"steer": _STEER, "repair": _REPAIR, "watch": _WATCH, "emergence": _EMERGENCE}
    parts = [
        Part(title, texts.get(part, ()), _TABLES[part], tuple(figures.get(part, ()))) for part, title in _TITLES.items()
    ]
    said = "Contrastive steering at the strength that validation prompts choose, first seed. Texts are the model's."
    first = next((name for names in figures.values() for name in names), None)
    intro = (*_INTRO, *([_WORLD] if info.get("model") is None else []), f"Sides are trained by {info.get('recipe')}.")
    return Page(verdict(claims_of(tables), MAIN), first, intro, (*parts, Part(READ, (said,), ("Responses",))))


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
    "Fine-tunes, watched every few steps: the cosine of their update with each behaviour's direction, beside the band "
    "that holds 95 % of random directions of the same norms, and the behaviour itself on validation prompts. Which are "
    "expected to be bad was said before. The cosine counts as beyond the band on the side of the drift alone; the "
    "behaviour as moved where the interval of its change on the same prompts lies beyond 0; an onset is the first look "
    "from which on that stays so. AUROC is over runs; its interval counts the seeds of one kind of fine-tune as one.",
)
_EMERGENCE = (
    "A model with a second voice, wrong about everything, is tuned on wrong answers about places alone. Materials, on "
    "which it was never tuned, become wrong too. The direction is learnt from a third domain, colours: wrong less "
    "right answers. Beside it stand the same tuning of a model without a second voice, right answers about places, a "
    "direction of shuffled labels, another start of the LoRA's random matrices, and directions in other weights: those "
    "have a cosine of 0 by construction ('seen' is the share of the update in the weights that a direction has).",
)

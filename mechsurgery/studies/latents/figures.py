"""The study's figures, from its scores and effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import plots
from ...models.dictionaries import Dictionary
from ..base import slug
from .ranking import ATTRIBUTION, DIFFING, RANDOM

_SHOWN = 8


def figures(done: Sequence[Any], dictionary: Dictionary) -> dict[str, Any]:
    """By name: attribution against activation, effects by rank, and two cases against each other."""
    made = {}
    site = dictionary.site
    for r in done:
        case = slug(r.case.name.split("/")[-1])
        other = DIFFING if DIFFING in r.scores else "Δ-activation of completions"
        marked = {f"top {_SHOWN} by {name}": r.chosen[name][:_SHOWN] for name in (ATTRIBUTION, other)}
        made[f"{case}_scatter"] = plots.score_scatter(
            r.scores[other],
            r.scores[ATTRIBUTION],
            site,
            marked=marked,
            names=(other, f"{ATTRIBUTION} (nats)"),
            title=f"Latents of {r.case.name}: attribution against activation",
        )
        for direction, found in r.effects.items():
            first = [name for name in (ATTRIBUTION, DIFFING) if name in r.chosen]
            shown = {ranking: r.chosen[ranking] for ranking in [*first, *(x for x in r.chosen if x not in first)]}
            shown.pop(RANDOM)
            made[f"{case}_{slug(direction)}"] = plots.effect_by_rank(
                found, shown, title=f"Effect of steering each latent alone: {r.case.name}, {direction}"
            )
    if len(done) > 1:
        first, second = done[:2]
        marked = {f"top {_SHOWN} of {r.case.name}": r.chosen[ATTRIBUTION][:_SHOWN] for r in (first, second)}
        made["convergence"] = plots.score_scatter(
            first.scores[ATTRIBUTION],
            second.scores[ATTRIBUTION],
            site,
            marked=marked,
            names=tuple(f"{ATTRIBUTION} in {r.case.name} (nats)" for r in (first, second)),
            title="Do the same latents explain both cases?",
        )
    return made

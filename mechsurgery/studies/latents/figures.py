"""The study's figures, from its scores and effects."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ...plots import effect_by_rank, score_scatter
from ..base import slug
from .methods import ATTRIBUTION, COMPLETIONS, DIFFING, RANDOM, CaseResult

_SHOWN = 8


def figures(results: Sequence[CaseResult], site: str) -> dict[str, go.Figure]:
    """By name: attribution against activation, effects by rank, and two cases against each other."""
    drawn = {}
    for r in results:
        case, name = slug(r.case.name.split("/")[-1]), r.case.name
        other = DIFFING if DIFFING in r.scores else COMPLETIONS
        marked = {f"top {_SHOWN} by {ranking}": r.chosen[ranking][:_SHOWN] for ranking in (ATTRIBUTION, other)}
        title, axes = f"Latents of {name}: attribution against activation", (other, f"{ATTRIBUTION} (nats)")
        both = (r.scores[other], r.scores[ATTRIBUTION])
        drawn[f"{case}_scatter"] = score_scatter(*both, site, marked=marked, names=axes, title=title)
        first = [ranking for ranking in (ATTRIBUTION, DIFFING) if ranking in r.chosen]
        order = [ranking for ranking in dict.fromkeys([*first, *r.chosen]) if ranking != RANDOM]
        for way, effects in r.effects.items():
            title = f"Effect of steering each latent alone: {name}, {way}"
            chosen = {ranking: r.chosen[ranking] for ranking in order}
            drawn[f"{case}_{slug(way)}"] = effect_by_rank(effects, chosen, title=title)
    if len(results) > 1:
        a, b = results[:2]
        marked = {f"top {_SHOWN} of {r.case.name}": r.chosen[ATTRIBUTION][:_SHOWN] for r in (a, b)}
        axes = (f"{ATTRIBUTION} in {a.case.name} (nats)", f"{ATTRIBUTION} in {b.case.name} (nats)")
        both, title = (a.scores[ATTRIBUTION], b.scores[ATTRIBUTION]), "Do the same latents explain both cases?"
        drawn["convergence"] = score_scatter(*both, site, marked=marked, names=axes, title=title)
    return drawn

"""The study's figures, from its scores and effects."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ...intervention import BASELINE
from ...plots import effect_by_rank, score_scatter, shares
from ..base import slug
from .methods import ATTRIBUTION, COMPLETIONS, DIFFING, WAYS, CaseResult

_SHOWN = 8


def figures(results: Sequence[CaseResult], site: str) -> dict[str, go.Figure]:
    """By name: attribution against activation, effects by rank, what responses are, and two cases side by side."""
    drawn = {}
    for r in results:
        case, name = slug(r.case.name.split("/")[-1]), r.case.name
        other = DIFFING if DIFFING in r.scores else COMPLETIONS
        marked = {f"top {_SHOWN} by {ranking}": r.chosen[ranking][:_SHOWN] for ranking in (ATTRIBUTION, other)}
        title, axes = f"Latents of {name}: attribution against activation", (other, f"{ATTRIBUTION} (nats)")
        both = (r.scores[other], r.scores[ATTRIBUTION])
        drawn[f"{case}_scatter"] = score_scatter(*both, site, marked=marked, names=axes, title=title)
        first = [ranking for ranking in (ATTRIBUTION, DIFFING) if ranking in r.chosen]
        chosen = {ranking: r.chosen[ranking] for ranking in dict.fromkeys([*first, *r.chosen])}
        for way, effects in r.effects.items():
            title = f"Effect of steering each latent alone: {name}, {way}"
            said = f"rise of the share of {WAYS[way].wanted} responses"
            drawn[f"{case}_{slug(way)}"] = effect_by_rank(effects, chosen, title=title, y_title=said)
            drawn[f"{case}_{slug(way)}_outcomes"] = shares(
                outcomes(r, way),
                r.case.grade.name,
                first=WAYS[way].wanted,
                title=f"Responses with the best latents of {ATTRIBUTION}: {name}, {way}",
            )
    if len(results) > 1:
        a, b = results[:2]
        marked = {f"top {_SHOWN} of {r.case.name}": r.chosen[ATTRIBUTION][:_SHOWN] for r in (a, b)}
        axes = (f"{ATTRIBUTION} in {a.case.name} (nats)", f"{ATTRIBUTION} in {b.case.name} (nats)")
        both, title = (a.scores[ATTRIBUTION], b.scores[ATTRIBUTION]), "Do the same latents explain both cases?"
        drawn["convergence"] = score_scatter(*both, site, marked=marked, names=axes, title=title)
    return drawn


def outcomes(result: CaseResult, way: str) -> pd.DataFrame:
    """Shares of good, bad and broken responses: unmodified, with the best latents by rank, and the mean of all.

    Random latents are the controls of the mean of all that the ranking chose.
    """
    summary = result.responses[way][1].summary([result.case.grade.name])
    of = result.effects[way].set_index("latent")["intervention"]
    best, every = (of.loc[result.chosen[ATTRIBUTION][:n]].tolist() for n in (_SHOWN, None))
    first = pd.concat([summary[summary["intervention"] == name] for name in (BASELINE.name, *best)])
    own, random = (summary[summary["intervention"].isin(names)] for names in (every, of.loc[result.random]))
    means = own.groupby("label", sort=False)["value"].mean()
    name = f"mean of {own['intervention'].nunique()} chosen"
    unmodified = summary[summary["intervention"] == BASELINE.name]
    mean = unmodified.assign(intervention=name, kind="latents", low=float("nan"), high=float("nan"))
    mean = mean.assign(value=mean["label"].map(means).astype(float))
    parts = [first.assign(control_of=None), mean.assign(control_of=None), random.assign(control_of=name, strength=0.0)]
    return pd.concat([part for part in parts if part["value"].notna().any()], ignore_index=True)

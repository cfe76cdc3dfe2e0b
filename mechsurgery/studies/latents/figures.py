"""The study's figures, from its scores and effects."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...intervention import BASELINE
from ...plots import Drawing, draw
from ...reports.study import slug
from .convergence import pairs_of
from .methods import ATTRIBUTION, COMPLETIONS, DIFFING, LABELS, WAYS, CaseResult
from .reasons import shares_of

_SHOWN = 8


def figures(results: Sequence[CaseResult], site: str) -> dict[str, Drawing]:
    """By name: attribution against activation, effects by rank, what responses are, and two cases side by side."""
    drawn = {}
    for r in results:
        case, name = slug(r.case.name.split("/")[-1]), r.case.name
        other = DIFFING if DIFFING in r.scores else COMPLETIONS
        marked = {f"top {_SHOWN} by {ranking}": r.chosen[ranking][:_SHOWN] for ranking in (ATTRIBUTION, other)}
        axes = (other, f"{ATTRIBUTION} (nats)")
        both = (r.scores[other], r.scores[ATTRIBUTION])
        drawn[f"{case}_scatter"] = draw("score_scatter", *both, site, marked=marked, names=axes, about=name)
        first = [ranking for ranking in (ATTRIBUTION, DIFFING) if ranking in r.chosen]
        chosen = {ranking: r.chosen[ranking] for ranking in dict.fromkeys([*first, *r.chosen])}
        for way, effects in r.effects.items():
            said = f"rise of the share of {WAYS[way].wanted} responses"
            drawn[f"{case}_{slug(way)}"] = draw("effect_by_rank", effects, chosen, about=f"{name}, {way}", y_title=said)
            drawn[f"{case}_{slug(way)}_outcomes"] = draw(
                "shares", outcomes(r, way), r.case.grade.name, first=WAYS[way].wanted, about=f"{name}, {way}"
            )
    for a, b in pairs_of(results):
        marked = {f"top {_SHOWN} of {r.case.name}": r.chosen[ATTRIBUTION][:_SHOWN] for r in (a, b)}
        axes = (f"{ATTRIBUTION} in {a.case.name} (nats)", f"{ATTRIBUTION} in {b.case.name} (nats)")
        both = (a.scores[ATTRIBUTION], b.scores[ATTRIBUTION])
        name = slug("_".join(r.case.name.split("/")[-1] for r in (a, b)))
        drawn[f"convergence_{name}"] = draw("score_scatter", *both, site, marked=marked, names=axes, about="two cases")
    return drawn


def outcomes(result: CaseResult, way: str) -> pd.DataFrame:
    """Shares of good, bad and broken responses: unmodified, with the best latents by rank, and the mean of all.

    Random latents are the controls of the mean of all that the ranking chose.
    """
    effects = result.effects[way].set_index("latent")
    best = effects["intervention"].loc[result.chosen[ATTRIBUTION][:_SHOWN]].tolist()
    first = shares_of(result.responses[way][1], result.case.grade, [BASELINE.name, *best]).assign(control_of=None)
    steered = effects[effects["strength"].notna()]
    chosen, random = (steered[steered.index.isin(some)] for some in (result.chosen[ATTRIBUTION], result.random))
    if chosen.empty:
        return first
    blank = first[first["intervention"] == BASELINE.name].assign(low=float("nan"), high=float("nan"), kind="latents")
    name, values = f"mean of {len(chosen)} chosen", chosen[list(LABELS)].mean()
    parts = [first, blank.assign(intervention=name, value=blank["label"].map(values))]
    for one in random.itertuples():
        values = {label: getattr(one, label) for label in LABELS}
        parts.append(blank.assign(intervention=one.intervention, control_of=name, value=blank["label"].map(values)))
    return pd.concat(parts, ignore_index=True)

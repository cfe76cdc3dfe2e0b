"""The post's claims, asked of the effects of steering by the rules of `evaluation.verdicts`.

Every claim looks first whether there is anything to be gained. Margins are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...evaluation.verdicts import (
    LEAST_CONTROLS,
    Verdict,
    beats,
    beyond_chance,
    more_often,
    named,
    not_measurable,
    reaches,
)
from ...inspector.interpretation import summary_of
from .against import compare, rank_correlation
from .convergence import both_cases, more_than_chance, named_pair, pairs_of
from .methods import ALL_TOKENS, ATTRIBUTION, DIFFING, REMOVED, WAYS, CaseResult
from .reasons import SMALLEST, nothing_to_measure
from .tables import RANDOM_LATENTS

#: What the mean effect of a ranking's latents must exceed that of random ones by: as if one in ten did `SMALLEST`.
MORE = SMALLEST / 10
#: Rank correlation with exact removal from which a score is said to agree with it.
AGREES = 0.5
#: What a mean score of explanations (balanced accuracy) must exceed that of other latents' explanations by.
PREDICTS = 0.05
#: With fewer explained latents nothing is said of explanations.
LEAST_EXPLAINED = 5

Chosen = Mapping[str, Sequence[int]]


def claims(results: Sequence[CaseResult]) -> pd.DataFrame:
    """A row per case, way of steering and claim: case, claim, rule, measured, verdict."""
    rows = []
    for r in results:
        for way, effects in r.effects.items():
            for ranking, at_all, more in ((ATTRIBUTION, AT_ALL, _MORE), (ALL_TOKENS, _AT_ALL_TOKENS, _MORE_TOKENS)):
                steers = steers_at_all(effects, r.gains[way], r.chosen, r.random, way, ranking)
                rows.append({"case": r.case.name, **steers.row(f"{at_all} ({way})")})
                verdict = steers_more(effects, r.chosen, way, ranking)
                rows.append({"case": r.case.name, **verdict.row(f"{more} ({way})")})
        for where in REMOVED:
            rows.append({"case": r.case.name, **agrees(r, where).row(f"{_AGREES} ({where} tokens)")})
        for reader in r.explained["explained by"].unique():
            verdict = explained_beyond_chance(r.explained, reader)
            rows.append({"case": r.case.name, **verdict.row(f"{_EXPLAINED} (by {reader}; ours)")})
    for first, second in pairs_of(results):
        for way in WAYS:
            pair = {"case": named_pair(first, second)}
            rows.append({**pair, **both_cases(first, second, way).row(f"{_BOTH} ({way})")})
            rows.append({**pair, **more_than_chance(first, second, way).row(f"{_COMMON} ({way}; ours)")})
    return pd.DataFrame(rows)


#: The main claim.
AT_ALL = "latents of Δ-attribution, steered one by one, change the behaviour more than random active ones"
_MORE = "more of the top latents of Δ-attribution steer than of model diffing"
_AT_ALL_TOKENS = AT_ALL.replace("of Δ-attribution", f"of {ALL_TOKENS}")
_MORE_TOKENS = _MORE.replace("of Δ-attribution", f"of {ALL_TOKENS}")
_AGREES = "Δ-attribution orders latents as really removing them does"
_BOTH = "one latent explains both cases: the one of the largest share of both steers both"
_COMMON = "more latents steer both cases than chance would have it"
_EXPLAINED = "explanations of the best latents predict where these are active better than those of other latents"


def steers_at_all(
    effects: pd.DataFrame,
    gains: pd.DataFrame,
    chosen: Chosen,
    random: Sequence[int],
    way: str,
    ranking: str = ATTRIBUTION,
) -> Verdict:
    """The mean effect of the ranking's latents is larger than that of random ones of the pool by more than `MORE`."""
    others = [latent for latent in random if latent not in set(chosen[ranking])]
    reason = nothing_to_measure(effects, way)
    if not reason and len(others) < LEAST_CONTROLS:
        reason = f"{len(others)} random latents that were not chosen: at least {LEAST_CONTROLS} needed"
    if reason:
        return not_measurable(reason)
    row = compare(gains, chosen[ranking], others, rival=f"{len(others)} {RANDOM_LATENTS}")
    without = effects.set_index("latent")["strength"].isna()
    counts = [int(without[list(part)].sum()) for part in (chosen[ranking], others)]
    verdict = beats(row, up=True, margin=MORE)
    said = f"{verdict.measured}; {counts[0]} and {counts[1]} of them have no allowed strength and count as 0"
    verdict = named(verdict, said)
    return beyond_chance(verdict, row["p_value"], "when the latents of both are divided anew at random")


def steers_more(effects: pd.DataFrame, chosen: Chosen, way: str, ranking: str = ATTRIBUTION) -> Verdict:
    """More of the latents of a ranking than of model diffing steer, of those that are in one of the two only."""
    if DIFFING not in chosen:
        return not_measurable("no aligned twin was given")
    reason = nothing_to_measure(effects, way)
    if reason:
        return not_measurable(reason)
    works = effects.set_index("latent")["works"]
    own, other = (set(chosen[name]) for name in (ranking, DIFFING))
    counts = [(int(works[sorted(part)].sum()), len(part)) for part in (own - other, other - own)]
    verdict = more_often(*counts[0], *counts[1])
    both = own & other
    shared = f"; {int(works[sorted(both)].sum())} of the {len(both)} in both steer"
    return Verdict(f"{verdict.measured}{shared}", verdict.verdict, f"{verdict.rule}, latents in both rankings left out")


def agrees(result: CaseResult, where: str) -> Verdict:
    """The score's rank correlation with exact removal, on other pairs and random latents of the pool, is high."""
    name = ATTRIBUTION if where == "prompt" else ALL_TOKENS
    (values,) = result.scores[name].scores.values()
    return agreement(values[list(result.exact.index)].tolist(), result.exact[where].tolist(), len(result.pairs[1]))


def agreement(scores: Sequence[float], exact: Sequence[float], pairs: int) -> Verdict:
    """Whether Spearman's ρ reaches `AGREES`; too few latents cannot say."""
    if len(exact) < LEAST_CONTROLS:
        return not_measurable(f"{len(exact)} latents were removed: at least {LEAST_CONTROLS} needed")
    said = f", {len(exact)} random active latents, {pairs} pairs that gave no score"
    return reaches(*rank_correlation(scores, exact), AGREES, name="ρ", said=said)


def explained_beyond_chance(explained: pd.DataFrame, reader: str) -> Verdict:
    """Explanations predict where their latents are active better than explanations of other latents do."""
    row = summary_of(explained[explained["explained by"] == reader])
    if row["n"] < LEAST_EXPLAINED:
        why = f"{int(row['n'])} latents with a score, {int(row['unread'])} without: at least {LEAST_EXPLAINED} needed"
        return not_measurable(why)
    verdict = beats(row, up=True, margin=PREDICTS)
    return named(verdict, f"{verdict.measured}; {int(row['unread'])} latents without a score")

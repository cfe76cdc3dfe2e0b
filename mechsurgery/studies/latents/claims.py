"""The post's claims, asked of the effects of steering by the rules of `evaluation.verdicts`.

Every claim looks first whether there is anything to be gained. Margins are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...evaluation.select import select
from ...evaluation.verdicts import (
    LEAST,
    LEAST_CONTROLS,
    Verdict,
    all_of,
    beats,
    beyond_chance,
    more_often,
    moves,
    named,
    not_measurable,
    reaches,
)
from ...intervention import BASELINE
from .against import compare, rank_correlation
from .methods import ATTRIBUTION, DIFFING, DOWN, REMOVED, WAYS, CaseResult
from .tables import RANDOM_LATENTS, shares_of, shares_of_both

#: What steering one latent must add to the wanted responses, as a share of all.
SMALLEST = 0.1
#: What the mean effect of a ranking's latents must exceed that of random ones by: as if one in ten did `SMALLEST`.
MORE = SMALLEST / 10
#: Rank correlation with exact removal from which a score is said to agree with it.
AGREES = 0.5

Chosen = Mapping[str, Sequence[int]]


def claims(results: Sequence[CaseResult]) -> pd.DataFrame:
    """A row per case, way of steering and claim: case, claim, rule, measured, verdict."""
    rows = []
    for r in results:
        for way, effects in r.effects.items():
            steers = steers_at_all(effects, r.gains[way], r.chosen, r.random, way)
            rows.append({"case": r.case.name, **steers.row(f"{AT_ALL} ({way})")})
            rows.append({"case": r.case.name, **steers_more(effects, r.chosen, way).row(f"{_MORE} ({way})")})
        for where in REMOVED:
            rows.append({"case": r.case.name, **agrees(r, where).row(f"{_AGREES} ({where} tokens)")})
    if len(results) > 1:
        for way in WAYS:
            verdict = both_cases(results[0], results[1], way)
            rows.append({"case": "both", **verdict.row(f"{_BOTH} ({way})")})
    return pd.DataFrame(rows)


#: The main claim.
AT_ALL = "latents of Δ-attribution, steered one by one, change the behaviour more than random active ones"
_MORE = "more of the top latents of Δ-attribution steer than of model diffing"
_AGREES = "Δ-attribution orders latents as really removing them does"
_BOTH = "one latent explains both cases: the one of the largest share of both steers both"


def steers_at_all(
    effects: pd.DataFrame, gains: pd.DataFrame, chosen: Chosen, random: Sequence[int], way: str
) -> Verdict:
    """The mean effect of the ranking's latents is larger than that of random ones of the pool by more than `MORE`."""
    others = [latent for latent in random if latent not in set(chosen[ATTRIBUTION])]
    reason = nothing_to_measure(effects, way)
    if not reason and len(others) < LEAST_CONTROLS:
        reason = f"{len(others)} random latents that were not chosen: at least {LEAST_CONTROLS} needed"
    if reason:
        return not_measurable(reason)
    row = compare(gains, chosen[ATTRIBUTION], others, rival=f"{len(others)} {RANDOM_LATENTS}")
    without = effects.set_index("latent")["strength"].isna()
    counts = [int(without[list(part)].sum()) for part in (chosen[ATTRIBUTION], others)]
    verdict = beats(row, up=True, margin=MORE)
    said = f"{verdict.measured}; {counts[0]} and {counts[1]} of them have no allowed strength and count as 0"
    verdict = named(verdict, said)
    return beyond_chance(verdict, row["p_value"], "when the latents of both are divided anew at random")


def steers_more(effects: pd.DataFrame, chosen: Chosen, way: str) -> Verdict:
    """More of the latents of Δ-attribution than of model diffing steer, of those that are in one of the two only."""
    if DIFFING not in chosen:
        return not_measurable("no aligned twin was given")
    reason = nothing_to_measure(effects, way)
    if reason:
        return not_measurable(reason)
    works = effects.set_index("latent")["works"]
    own, other = (set(chosen[name]) for name in (ATTRIBUTION, DIFFING))
    counts = [(int(works[sorted(part)].sum()), len(part)) for part in (own - other, other - own)]
    verdict = more_often(*counts[0], *counts[1])
    both = own & other
    shared = f"; {int(works[sorted(both)].sum())} of the {len(both)} in both steer"
    return Verdict(f"{verdict.measured}{shared}", verdict.verdict, f"{verdict.rule}, latents in both rankings left out")


def agrees(result: CaseResult, where: str) -> Verdict:
    """The score's rank correlation with exact removal, on other pairs and random latents of the pool, is high."""
    name = ATTRIBUTION if where == "prompt" else f"{ATTRIBUTION}, {where} tokens"
    (values,) = result.scores[name].scores.values()
    return agreement(values[list(result.exact.index)].tolist(), result.exact[where].tolist(), len(result.pairs[1]))


def agreement(scores: Sequence[float], exact: Sequence[float], pairs: int) -> Verdict:
    """Whether Spearman's ρ reaches `AGREES`; too few latents cannot say."""
    if len(exact) < LEAST_CONTROLS:
        return not_measurable(f"{len(exact)} latents were removed: at least {LEAST_CONTROLS} needed")
    said = f", {len(exact)} random active latents, {pairs} pairs that gave no score"
    return reaches(*rank_correlation(scores, exact), AGREES, name="ρ", said=said)


def both_cases(first: CaseResult, second: CaseResult, way: str) -> Verdict:
    """The latent of the largest share of both cases' Δ-attribution, chosen before any steering, steers both."""
    if not all(way in r.effects for r in (first, second)):
        return not_measurable("no aligned twin was given")
    latents, _ = shares_of_both(first, second)
    if not latents:
        return not_measurable("no latent is among the chosen of both")
    rows = []
    for r in (first, second):
        name = f"latent {latents[0]}"
        summary = shares_of(r.responses[way][1], r.case.grade, [BASELINE.name, name])
        found = select(summary, r.case.grade.name, "evaluation", WAYS[way].wanted, intervention=name)
        rows.append(None if found.empty else found.iloc[0])
    verdict = explains_both(rows, [nothing_to_measure(r.effects[way], way) for r in (first, second)])
    return named(verdict, f"latent {latents[0]}: {verdict.measured}")


def explains_both(rows: Sequence[pd.Series | None], reasons: Sequence[str]) -> Verdict:
    """In each case the wanted responses rise by more than `SMALLEST`; a row each, none where no strength is allowed."""
    verdicts = []
    for row, reason in zip(rows, reasons):
        nothing = reason or ("it breaks responses at every strength" if row is None else "")
        verdicts.append(not_measurable(nothing) if nothing or row is None else moves(row, up=True, margin=SMALLEST))
    return all_of(verdicts)


def nothing_to_measure(effects: pd.DataFrame, way: str) -> str:
    """Why steering this way can gain nothing, or "" where it can."""
    first, wanted = effects.iloc[0], WAYS[way].wanted
    said = ", ".join(f"{100 * first[f'baseline_{label}']:.1f} % {label}" for label in ("good", "bad", "broken"))
    if way == DOWN and first["baseline_bad"] < LEAST:
        return f"{said} responses of the unmodified model: the behaviour is not there to be steered down"
    if 1 - first[f"baseline_{wanted}"] < SMALLEST:
        return f"{said} responses of the unmodified model: less than {SMALLEST:.0%} of {wanted} ones is left to gain"
    if effects["strength"].isna().all():
        return "no latent had a strength that left responses coherent"
    return ""

"""Do two cases have latents in common? Latents that steer both, beside what chance would have in common.

Cases are paired in the order given: the first with the second, the third with the fourth. Every case also steers the
best latents of its partner, and both draw their random latents alike, so that many latents are steered in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from ...evaluation.select import select
from ...evaluation.verdicts import ALPHA, FAILED, HELD, UNDECIDED, Verdict, all_of, moves, named, not_measurable
from ...intervention import BASELINE
from .against import rank_correlation
from .checks import steered_words
from .methods import ATTRIBUTION, WAYS, CaseResult
from .reasons import SMALLEST, nothing_to_measure, shares_of

#: Latents that are shown one by one.
SHOWN = 10
#: With fewer latents that steer in either case, none in common says nothing.
LEAST_STEERING = 3


def pairs_of(results: Sequence[CaseResult]) -> list[tuple[CaseResult, CaseResult]]:
    """The cases two by two, in order."""
    return list(zip(results[::2], results[1::2]))


def named_pair(first: CaseResult, second: CaseResult) -> str:
    """Both cases' names, as tables call a pair."""
    return f"{first.case.name} & {second.case.name}"


def common(first: CaseResult, second: CaseResult, way: str) -> dict[str, Any]:
    """How many of the latents that are steered in both cases steer the first, the second, both, and by chance both.

    `expected` is the mean, and `p` the chance of as many or more, where which latents steer the one case has nothing
    to do with which steer the other (hypergeometric); `latents` are those that steer both. Where nearly all steer, the
    rank correlation of a latent's effects in the two cases (`ρ of effects`, its interval over latents) says more.
    """
    from scipy.stats import hypergeom

    works = [r.effects[way].set_index("latent")["works"] for r in (first, second)]
    tried = sorted(set(works[0].index) & set(works[1].index))
    a, b = (one.loc[tried] for one in works)
    both = [latent for latent in tried if a[latent] and b[latent]]
    n, n_first, n_second = len(tried), int(a.sum()), int(b.sum())
    p = float(hypergeom.sf(len(both) - 1, n, n_first, n_second)) if n else float("nan")
    sizes = [r.effects[way].set_index("latent").loc[tried, "effect"].tolist() for r in (first, second)]
    rho = rank_correlation(*sizes)
    return {
        "steered in both": n,
        "steer the first": n_first,
        "steer the second": n_second,
        "steer both": len(both),
        "expected": n_first * n_second / n if n else float("nan"),
        "p": p,
        "ρ of effects": rho[0],
        "ρ low": rho[1],
        "ρ high": rho[2],
        "latents": ", ".join(map(str, both)),
    }


def top_in_common(first: CaseResult, second: CaseResult) -> dict[str, Any]:
    """How many of the best latents by Δ-attribution two cases share, of those active in both, beside chance."""
    from scipy.stats import hypergeom

    pool = set(first.pool) & set(second.pool)
    tops = [set(r.chosen[ATTRIBUTION]) & pool for r in (first, second)]
    shared = len(tops[0] & tops[1])
    expected = len(tops[0]) * len(tops[1]) / len(pool) if pool else float("nan")
    p = float(hypergeom.sf(shared - 1, len(pool), *map(len, tops))) if pool else float("nan")
    return {"best of both": shared, "expected among the best": expected, "p of the best": p}


def convergence_table(results: Sequence[CaseResult]) -> pd.DataFrame:
    """A row for each two cases and way of steering: latents in common beside chance, and the verdict."""
    rows = []
    partners = {(a.case.name, b.case.name) for a, b in pairs_of(results)}
    for first, second in combinations(results, 2):
        for way in WAYS:
            if way in first.effects and way in second.effects:
                row = {"cases": named_pair(first, second), "steered": way, **common(first, second, way)}
                asked = (first.case.name, second.case.name) in partners
                verdict = more_than_chance(first, second, way).verdict if asked else ""
                rows.append(row | top_in_common(first, second) | {"verdict": verdict})
    return pd.DataFrame(rows)


def more_than_chance(first: CaseResult, second: CaseResult, way: str) -> Verdict:
    """More latents steer both cases than if they had nothing to do with each other."""
    reason = _nothing(first, second, way)
    return not_measurable(reason) if reason else overlap(common(first, second, way))


def overlap(row: dict[str, Any]) -> Verdict:
    """The verdict on a row of `common`."""
    rule = (
        f"more than expected, hypergeometric p ≤ {ALPHA:g}; not so where none steers both and at least "
        f"{LEAST_STEERING} steer each"
    )
    counts = row["steer the first"], row["steer the second"]
    said = f"of {row['steered in both']} latents steered in both, {counts[0]} and {counts[1]} steer"
    if not min(counts):
        return Verdict(f"{said}: none that both could share", not_measurable("").verdict, rule)
    said += f", {row['steer both']} both ({row['expected']:.1f} expected), p = {row['p']:.2g}"
    if row["steer both"] and row["p"] <= ALPHA:
        return Verdict(said, HELD, rule)
    return Verdict(said, FAILED if not row["steer both"] and min(counts) >= LEAST_STEERING else UNDECIDED, rule)


def both_cases(first: CaseResult, second: CaseResult, way: str) -> Verdict:
    """The latent of the largest share of both cases' Δ-attribution, chosen before any steering, steers both."""
    reason = _nothing(first, second, way)
    if reason:
        return not_measurable(reason)
    latents, _ = shares_of_both(first, second)
    if not latents:
        k = min(len(r.chosen[ATTRIBUTION]) for r in (first, second))
        return Verdict(f"none is among the {k} best of both", FAILED, "one is among the best of both, and steers both")
    rows = []
    for r in (first, second):
        name = f"latent {latents[0]}"
        summary = shares_of(r.responses[way][1], r.case.grade, [BASELINE.name, name])
        found = select(summary, r.case.grade.name, "evaluation", WAYS[way].wanted, intervention=name)
        rows.append(None if found.empty else found.iloc[0])
    verdict = explains_both(rows)
    return named(verdict, f"latent {latents[0]}: {verdict.measured}")


def _nothing(first: CaseResult, second: CaseResult, way: str) -> str:
    if not all(way in r.effects for r in (first, second)):
        return "no aligned twin was given"
    return "; ".join(filter(None, (nothing_to_measure(r.effects[way], way) for r in (first, second))))


def explains_both(rows: Sequence[pd.Series | None]) -> Verdict:
    """In each case the wanted responses rise by more than `SMALLEST`; a row each, none where no strength is allowed."""
    broken = not_measurable("it breaks responses at every strength")
    return all_of([broken if row is None else moves(row, up=True, margin=SMALLEST) for row in rows])


def shares_of_both(first: CaseResult, second: CaseResult) -> tuple[list[int], list[Any]]:
    """Latents among the chosen of both cases, best first, and each case's shares of positive Δ-attribution.

    What a latent explains of both is the smaller of its shares.
    """
    scores = [r.scores[ATTRIBUTION].scores for r in (first, second)]
    positive = [values.clamp_min(0) for one in scores for values in one.values()]
    shares = [values / values.sum().clamp_min(1e-30) for values in positive]
    chosen = set(first.chosen[ATTRIBUTION]) & set(second.chosen[ATTRIBUTION])
    return sorted(chosen, key=lambda i: (-float(min(share[i] for share in shares)), i)), shares


def shared_latents(first: CaseResult, second: CaseResult) -> pd.DataFrame:
    """Latents chosen in both cases by what they explain of both, and what steering them does."""
    latents, shares = shares_of_both(first, second)
    pair = named_pair(first, second)
    if not latents:
        return pd.DataFrame([{"cases": pair, "latent": "none is among the best of both"}])
    rows = []
    for latent in latents[:SHOWN]:
        row: dict[str, Any] = {"cases": pair, "latent": latent}
        row["share of both"] = float(min(share[latent] for share in shares))
        for number, (r, share) in enumerate(zip((first, second), shares)):
            which = ("first", "second")[number]
            row[f"share of the {which}"] = float(share[latent])
            for way, effects in r.effects.items():
                row[f"the {which}: {way}"] = steered_words(effects.set_index("latent").loc[latent])
        rows.append(row)
    return pd.DataFrame(rows).assign(**{"among the best of both": len(latents)})

"""The post's claims, asked of the effects of steering. Each looks first whether there is anything to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...evaluation.statistics import wilson
from ...evaluation.verdicts import CEILING, FAILED, HELD, LEAST, UNDECIDED, Verdict, not_measurable
from .methods import ATTRIBUTION, DIFFING, SIGNS, CaseResult
from .tables import by_ranking

ALPHA = 0.05
#: Steering does nothing where more latents than chance gives, by this share of all, are ruled out.
MARGIN = 0.1
#: A latent does nothing where an effect of this share of responses is ruled out.
SMALLEST = 0.1
#: Latents of a case that count as its best.
BEST = 10

Chosen = Mapping[str, Sequence[int]]


def claims(results: Sequence[CaseResult]) -> pd.DataFrame:
    """A row per case, way of steering and claim: case, claim, measured, verdict."""
    rows = []
    for r in results:
        for way, effects in r.effects.items():
            for claim, asked in _CLAIMS.items():
                verdict = asked(effects, r.chosen, SIGNS[way])
                rows.append({"case": r.case.name, **verdict.row(f"{claim} ({way})")})
    if len(results) > 1:
        first, second = (r.chosen[ATTRIBUTION][:BEST] for r in results[:2])
        shared = [latent for latent in first if latent in second]
        verdict = explains_both(shared, *(r.effects for r in results[:2]))
        claim = "one latent explains both cases: among the ten best of each, and steering it works in both"
        rows.append({"case": "both", **verdict.row(claim)})
    return pd.DataFrame(rows)


def steers_more(effects: pd.DataFrame, chosen: Chosen, sign: int) -> Verdict:
    """More of the latents of Δ-attribution than of model diffing lie outside the band: Fisher's exact test."""
    from scipy.stats import fisher_exact

    if DIFFING not in chosen:
        return not_measurable("no aligned twin was given")
    reason = nothing_to_measure(effects, sign)
    if reason:
        return not_measurable(reason)
    counts = by_ranking(effects, chosen).set_index("ranking")
    (a, n), (b, m) = (
        (int(counts.loc[x, "outside the band"]), int(counts.loc[x, "latents"])) for x in (ATTRIBUTION, DIFFING)
    )
    p = float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)
    verdict = UNDECIDED if p > ALPHA else HELD if a / n > b / m else FAILED
    return Verdict(f"{a} of {n} against {b} of {m}, Fisher's exact p = {p:.2g}", verdict)


def steers_at_all(effects: pd.DataFrame, chosen: Chosen, sign: int) -> Verdict:
    """More latents of Δ-attribution lie outside the band than as many like the random ones would: a binomial test.

    It did not hold where the interval of their share rules out `MARGIN` more than chance.
    """
    from scipy.stats import binomtest

    reason = nothing_to_measure(effects, sign)
    if reason:
        return not_measurable(reason)
    counts = by_ranking(effects, {ATTRIBUTION: chosen[ATTRIBUTION]}).iloc[0]
    n, outside, expected = int(counts["latents"]), int(counts["outside the band"]), float(counts["expected by chance"])
    p = float(binomtest(outside, n, expected / n, alternative="greater").pvalue)
    high = wilson(outside, n)[1]
    limit = expected / n + MARGIN
    measured = (
        f"{outside} of {n} beyond every random latent, {expected:.1f} expected by chance, p = {p:.2g}; "
        f"share at most {100 * high:.0f} %, margin {100 * limit:.0f} %"
    )
    return Verdict(measured, HELD if p <= ALPHA else FAILED if high < limit else UNDECIDED)


def explains_both(latents: Sequence[int], *cases: Mapping[str, pd.DataFrame]) -> Verdict:
    """One of the latents that are among the best of all cases lies outside the band, one way or other, in each.

    It did not hold where there is none, or where in some case no way of steering it can have an effect of `SMALLEST`.
    """
    measurable = [{way: t for way, t in case.items() if not nothing_to_measure(t, SIGNS[way])} for case in cases]
    if not all(measurable):
        return not_measurable("in one of the cases no way of steering could be measured")
    rows = {i: [[t.set_index("latent").loc[i] for t in case.values()] for case in measurable] for i in latents}
    works = [i for i, by_case in rows.items() if all(any(row["outside"] for row in case) for case in by_case)]
    useless = [i for i, by_case in rows.items() if any(all(row["high"] < SMALLEST for row in case) for case in by_case)]
    measured = (
        f"{len(latents)} latents among the ten best of both ({list(latents)}), of which steering works in both: "
        f"{works}, and has no effect of {100 * SMALLEST:.0f} % in one: {useless}"
    )
    return Verdict(measured, HELD if works else FAILED if len(useless) == len(latents) else UNDECIDED)


_CLAIMS = {
    "more of the top latents of Δ-attribution steer than of model diffing": steers_more,
    "steering single latents of Δ-attribution changes the behaviour": steers_at_all,
}


def nothing_to_measure(effects: pd.DataFrame, sign: int) -> str:
    """Why steering cannot change the rate of bad responses here, or "" where it can."""
    baseline = float(effects["baseline"].iloc[0])
    said = f"{100 * baseline:.1f} % bad responses of the unmodified model"
    if sign < 0 and baseline < LEAST:
        return f"{said}: the behaviour is not there to be steered down"
    if sign > 0 and baseline >= CEILING:
        return f"{said}: nothing is left to steer up"
    if not effects["control"].any():
        return "no other latent was active, so there is no random band"
    if effects["strength"].isna().all():
        return "no latent had a strength that left responses coherent"
    return ""

"""A ranking's latents beside others of the same pool: effects, intervals over latents and nouns, permutation tests.

Under the null hypothesis a ranking picks latents as chance does, so its latents and random ones of the pool are
exchangeable: the p-value is the share of ways to divide them anew in which the mean effect is as much larger. The
interval draws latents of both sides and groups of prompts, so it says what holds for other latents and other nouns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float

from ...evaluation.statistics import RESAMPLES, Z

#: How often latents are divided anew.
DIVISIONS = 9999


def compare(gains: pd.DataFrame, latents: Sequence[int], others: Sequence[int], *, rival: str = "") -> pd.Series:
    """The mean effect of `latents` beside that of `others`, in the shape of a row of `summary.versus`.

    `gains` has a row a latent and a column a prompt, named by its group. Latents in both are left out of `others`.
    `p_value` is one-sided: the effect is larger than that of others. Without latents on a side all is missing.
    """
    rest = [latent for latent in others if latent not in set(latents)]
    row = {"n": gains.shape[1], "latents": len(latents), "others": len(rest), "scale": "rate", "rival": rival}
    if not latents or not rest:
        missing = ("value", "low", "high", "baseline", "difference", "difference_low", "difference_high", "p_value")
        return pd.Series(row | dict.fromkeys(missing, float("nan")))
    sides = [gains.loc[list(one)].to_numpy(dtype=float) for one in (latents, rest)]
    codes, names = pd.factorize(gains.columns)
    drawn = _drawn_means(sides, codes)
    means = [float(side.mean()) for side in sides]
    resolution = Z / (len(names) * min(len(latents), len(rest)))  # no interval of width 0 where nothing moves
    ends: dict[str, float] = {}
    for name, value, draws in (("", means[0], drawn[0]), ("difference_", means[0] - means[1], drawn[0] - drawn[1])):
        low, high = np.percentile(draws, [2.5, 97.5]) if len(names) > 1 else (np.nan, np.nan)
        ends |= {f"{name}low": min(low, value - resolution), f"{name}high": max(high, value + resolution)}
    p = permutation_p(*(side.mean(1) for side in sides))
    return pd.Series(
        row | {"value": means[0], "baseline": means[1], "difference": means[0] - means[1], "p_value": p} | ends
    )


def _drawn_means(sides: Sequence[np.ndarray], codes: np.ndarray) -> list[Float[np.ndarray, " draws"]]:
    """The mean of each side over latents and groups that are drawn with replacement, the same groups for both sides."""
    generator = np.random.default_rng(0)
    sizes = np.bincount(codes).astype(float)
    groups = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES).astype(float)
    means = []
    for side in sides:
        n = len(side)
        totals = np.stack([np.bincount(codes, row) for row in side])
        latents = generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
        means.append(((latents @ totals) * groups).sum(1) / (groups @ sizes))
    return means


def permutation_p(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """One-sided p-value that the mean of `a` is larger, dividing all values anew `DIVISIONS` times (seeded)."""
    sums = _divisions(len(a), len(b)) @ np.concatenate([a, b]).astype(np.float32)
    return float((1 + (sums >= a.sum() - 1e-5 * (1 + np.abs(a).sum())).sum()) / (1 + DIVISIONS))


@lru_cache(maxsize=4)
def _divisions(n: int, m: int) -> Float[np.ndarray, "divisions values"]:
    """1 where a value falls to the first side, a row for each way to divide."""
    first = (np.arange(n + m) < n).astype(np.float32)
    return np.random.default_rng(0).permuted(np.tile(first, (DIVISIONS, 1)), axis=1)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's ρ with a 95 % percentile interval over draws of the latents; nan where one side is constant."""
    from scipy.stats import rankdata

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return (float("nan"),) * 3
    draws = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    rows = np.concatenate([np.arange(len(a))[None], draws])
    ranks = [rankdata(one[rows], axis=1) for one in (a, b)]
    centred = [one - one.mean(1, keepdims=True) for one in ranks]
    with np.errstate(invalid="ignore"):
        rho = (centred[0] * centred[1]).sum(1) / np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    low, high = np.nanpercentile(rho[1:], [2.5, 97.5])
    return float(rho[0]), float(low), float(high)

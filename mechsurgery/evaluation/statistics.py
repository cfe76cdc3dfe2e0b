"""Intervals and paired tests for answers that come in groups: several prompts about one noun are no independent sample.

`groups` says which values belong together (the `group` column of a results table); without it every value stands alone.
Values that are missing (nan) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from ..errors import InputError

Groups = Sequence[Any] | np.ndarray | None
NOTHING = (float("nan"), float("nan"))

#: How often groups are drawn, and signs are flipped where there are too many groups to try all.
RESAMPLES = 2000
FLIPS = 9999
_ALL_FLIPS = 12
_BLOCK = 512


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (nan, nan) for n = 0. `n` may be an effective sample size.

    >>> tuple(round(x, 3) for x in wilson(0, 100))
    (0.0, 0.037)
    """
    from scipy.special import ndtri

    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}; successes must lie in 0 … n")
    if n == 0:
        return NOTHING
    z, p = float(ndtri(0.5 + confidence / 2)), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else float(centre - half)), (1.0 if p == 1 else float(centre + half))


def clustered_interval(
    values: Any, groups: Groups = None, *, scale: Literal["rate", "number"] = "rate"
) -> tuple[float, float]:
    """95 % interval of the mean of values that come in groups; (nan, nan) for no values.

    A rate (values 0 and 1) gets Wilson's interval at the effective sample size (`effective_size`): never of width zero,
    and plain Wilson where every value is its own group. A number gets a percentile bootstrap that draws whole groups;
    one group alone gives (nan, nan), since nothing is known of how groups differ.
    """
    array, codes = _grouped(values, groups)
    if not len(array):
        return NOTHING
    if scale == "rate":
        n = effective_size(array, codes)
        return wilson(float(np.clip(array.mean() * n, 0, n)), n)
    totals, sizes = np.bincount(codes, array), np.bincount(codes)
    if len(sizes) == 1:
        return NOTHING
    drawn = resampled(np.stack([totals, sizes], axis=1))
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


def effective_size(rates: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """How many independent yes-or-no answers those in groups (numbered from 0) are worth: 1 to n.

    n / deff · (t₍ₙ₋₁₎ / t₍G₋₁₎)² as in Korn and Graubard (1998), with t the 97.5 % quantile for n answers and for G
    groups, and deff ≥ 1 the cluster-robust variance of the mean over that of independent answers. Among intervals for
    clustered proportions Wilson's does well with it (Dean and Pagano 2015; Franco et al. 2019), but near 0 and 1, where
    few groups say anything about deff, all cover too little (90 % instead of 95 % in our simulations). Therefore deff is
    estimated with a quarter of a group more in which all answers are yes and as much in which all are no; where all
    answers are alike, deff is then the size of a group, as if its answers were copies of one, and groups are counted.
    """
    from scipy.special import stdtrit

    n, sizes = len(rates), np.bincount(groups)
    n_groups = len(sizes)
    if n_groups in (1, n):
        return float(n_groups)
    mean_size, totals = n / n_groups, np.bincount(groups, rates)
    added = 0.25 * mean_size
    p = (totals.sum() + added) / (n + 2 * added)
    residuals = totals - p * sizes
    squares = residuals @ residuals + added * mean_size * (p**2 + (1 - p) ** 2)
    deff = squares / ((n + 2 * added) * p * (1 - p)) * n_groups / (n_groups - 1) * (n - 1) / n
    return max(1.0, n / max(1.0, deff) * (stdtrit(n - 1, 0.975) / stdtrit(n_groups - 1, 0.975)) ** 2)


def resampled(totals: Float[np.ndarray, "groups k"], *, seed: int = 0) -> Float[np.ndarray, "draws k"]:
    """Sums of some totals of every group over `RESAMPLES` draws of as many groups, with replacement."""
    return _draws(len(totals), seed) @ totals


def paired_test(values: Any, baseline: Any, groups: Groups = None) -> float:
    """Two-sided p-value that paired values differ from their baseline, by flipping signs of whole groups.

    Under the null hypothesis a group's mean difference is as likely as its negative. All flips are tried for up to 12
    groups that differ, 9,999 seeded ones otherwise. Where all differences are of one size this is a sign test, done
    exactly; for yes-or-no answers that stand alone it is McNemar's exact test. 1.0 where nothing differs, nan for no
    pairs.
    """
    a, b = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if a.shape != b.shape:
        raise InputError(f"{a.shape[0]} values against {b.shape[0]} baseline values; pairs need one of each")
    differences, codes = _grouped(a - b, groups)
    if not len(differences):
        return float("nan")
    means = np.bincount(codes, differences) / np.bincount(codes)
    means = means[means != 0]
    if not len(means):
        return 1.0
    if np.allclose(np.abs(means), abs(means[0]), rtol=1e-9, atol=0):
        return _sign_test(int((means > 0).sum()), len(means))
    return _flip_test(means)


def benjamini_hochberg(p_values: Any) -> Float[np.ndarray, " n"]:
    """q-values that control the false-discovery rate (Benjamini and Hochberg 1995); missing ones stay missing.

    >>> benjamini_hochberg([0.01, 0.5, 0.02]).round(3).tolist()
    [0.03, 0.5, 0.03]
    """
    from scipy.stats import false_discovery_control

    found = np.array(p_values, dtype=float)
    known = ~np.isnan(found)
    if known.any():
        found[known] = false_discovery_control(found[known])
    return found


def _grouped(values: Any, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The values that are there, and the number of each one's group."""
    array = np.asarray(values, dtype=float)
    known = ~np.isnan(array)
    if groups is None:
        return array[known], np.arange(int(known.sum()))
    if len(groups) != len(array):
        raise InputError(f"{len(array)} values and {len(groups)} groups; give each value its group")
    import pandas as pd

    return array[known], pd.factorize(np.asarray(groups, dtype=object)[known], use_na_sentinel=False)[0]


def _sign_test(positive: int, n: int) -> float:
    from scipy.special import bdtr

    return float(min(1.0, 2 * bdtr(min(positive, n - positive), n, 0.5)))


def _flip_test(means: Float[np.ndarray, " groups"]) -> float:
    """Share of sign flips, the identity among them, whose sum is at least as far from 0."""
    observed = abs(means.sum()) - 1e-5 * np.abs(means).sum()
    if len(means) <= _ALL_FLIPS:
        return float((np.abs(_all_signs(len(means)) @ means) >= observed).mean())
    sums = np.zeros(FLIPS)
    for number, start in enumerate(range(0, len(means), _BLOCK)):
        part = means[start : start + _BLOCK].astype(np.float32)
        sums += _signs(number)[:, : len(part)] @ part
    return float((1 + (np.abs(sums) >= observed).sum()) / (1 + FLIPS))


@lru_cache(maxsize=_ALL_FLIPS)
def _all_signs(n: int) -> np.ndarray:
    return 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


@lru_cache(maxsize=2)
def _signs(block: int) -> np.ndarray:
    drawn = np.random.default_rng([0, block]).integers(0, 2, (FLIPS, _BLOCK), dtype=np.int8)
    return 1 - 2 * drawn.astype(np.float32)


@lru_cache(maxsize=8)
def _draws(n: int, seed: int) -> np.ndarray:
    """How often each of n groups is in each draw."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)


def mean_interval(values: Any) -> tuple[float, float]:
    """`clustered_interval` of numbers that stand alone."""
    return clustered_interval(values, scale="number")


def difference_interval(
    values: Any, baseline: Any, groups: Groups = None, *, scale: Literal["rate", "number"] = "rate"
) -> tuple[float, float]:
    """95 % interval of the mean paired difference of values that come in groups; (nan, nan) for no pairs.

    Rates: Agresti and Min's (2005) interval of a difference of matched proportions (half an answer is added to each of
    the four cells) at the effective number of pairs, so it is never of width zero. Numbers: bootstrap of the mean
    difference over whole groups.
    """
    a, b = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if scale == "number":
        return clustered_interval(a - b, groups, scale="number")
    differences, codes = _grouped(a - b, groups)
    if not len(differences):
        return NOTHING
    n = _effective_pairs(differences, codes)
    up, down = ((differences > 0).mean() * n + 0.5, (differences < 0).mean() * n + 0.5)
    centre = (up - down) / (n + 2)
    half = 1.959963984540054 * np.sqrt((up + down) - (up - down) ** 2 / (n + 2)) / (n + 2)
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _effective_pairs(differences: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> float:
    """`effective_size` for differences of −1, 0 and 1: a quarter of a group more of each extreme is added."""
    from scipy.special import stdtrit

    n, sizes = len(differences), np.bincount(groups)
    n_groups = len(sizes)
    if n_groups in (1, n):
        return float(n_groups)
    mean_size, totals = n / n_groups, np.bincount(groups, differences)
    added = 0.25 * mean_size
    mean = totals.sum() / (n + 2 * added)
    variance = ((differences**2).sum() + 2 * added) / (n + 2 * added) - mean**2
    residuals = totals - mean * sizes
    squares = residuals @ residuals + added * mean_size * ((1 - mean) ** 2 + (1 + mean) ** 2)
    deff = squares / ((n + 2 * added) * variance) * n_groups / (n_groups - 1) * (n - 1) / n
    return max(1.0, n / max(1.0, deff) * (stdtrit(n - 1, 0.975) / stdtrit(n_groups - 1, 0.975)) ** 2)

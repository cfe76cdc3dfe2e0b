"""Intervals and paired tests for answers that come in groups: several prompts about one noun are no independent sample.

`groups` says which values belong together (the `group` column of a results table); without it every value stands alone.
Values that are missing (nan) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..allowed import shown
from ..checks import check_arguments
from ..errors import InputError

Groups = Sequence[Any] | np.ndarray | None
Scale = Literal["rate", "number"]
NOTHING = (float("nan"), float("nan"))
#: How often groups are drawn, and signs are flipped where there are too many groups to try all.
RESAMPLES = 2000
FLIPS = 9999
#: The 97.5 % quantile of the normal distribution.
Z = 1.959963984540054
_ALL_FLIPS = 12
_BLOCK = 512


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927); (nan, nan) for n = 0. `n` may be an effective size.

    >>> tuple(round(x, 3) for x in wilson(0, 100))
    (0.0, 0.037)
    """
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}; successes must lie in 0 … n")
    if n == 0:
        return NOTHING
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (0.0 if p == 0 else float(centre - half)), (1.0 if p == 1 else float(centre + half))


def clustered_interval(values: Any, groups: Groups = None, *, scale: Scale = "rate") -> tuple[float, float]:
    """95 % interval of the mean of values that come in groups; (nan, nan) for no values.

    A rate (values 0 and 1) gets Wilson's interval at the effective sample size (`effective_size`): never of width zero,
    and plain Wilson where every value is its own group. A number gets a percentile bootstrap that draws whole groups;
    one group alone gives (nan, nan), since nothing is known of how groups differ, and so do groups that are all alike,
    unless all values are 1, the ceiling of a score, which gets Wilson's interval.
    """
    array, codes = _grouped(values, groups)
    if not len(array):
        return NOTHING
    if scale == "rate":
        n = effective_size(array, codes)
        return wilson(float(np.clip(array.mean() * n, 0, n)), n)
    if (array == 1).all():
        n_groups = int(codes.max()) + 1
        return wilson(n_groups, n_groups)
    return _bootstrap(array, codes)


def difference_interval(
    values: Any, baseline: Any, groups: Groups = None, *, scale: Scale = "rate"
) -> tuple[float, float]:
    """95 % interval of the mean difference of paired values that come in groups; (nan, nan) for no pairs.

    For rates Agresti and Min's interval (2005), with half an answer added to each of the four cells, at the effective
    number of pairs: never of width zero. For numbers the bootstrap of `clustered_interval`.
    """
    array, codes = _grouped(_difference(values, baseline), groups)
    if not len(array):
        return NOTHING
    if scale == "number":
        return _bootstrap(array, codes)
    n = effective_size(array, codes, extremes=(-1.0, 1.0))
    up, down = float((array > 0).mean()) * n + 0.5, float((array < 0).mean()) * n + 0.5
    middle = (up - down) / (n + 2)
    half = Z * np.sqrt(up + down - (up - down) ** 2 / (n + 2)) / (n + 2)
    return float(max(-1.0, middle - half)), float(min(1.0, middle + half))


def _bootstrap(values: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    totals, sizes = np.bincount(codes, values), np.bincount(codes).astype(float)
    if len(sizes) == 1 or np.ptp(totals / sizes) == 0:
        return NOTHING
    drawn = resampled(totals) / resampled(sizes)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def effective_size(
    values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"], *, extremes: tuple[float, float] = (0.0, 1.0)
) -> float:
    """How many independent answers those in groups (numbered from 0) are worth.

    n / deff · (t₍ₙ₋₁₎ / t₍G₋₁₎)² as in Korn and Graubard (1998), with t the 97.5 % quantile for n answers and for G
    groups, and deff ≥ 1 the cluster-robust variance of the mean over that of independent answers. Among intervals for
    clustered proportions Wilson's does well with it (Dean and Pagano 2015; Franco et al. 2019), but near 0 and 1, where
    few groups say anything about deff, all cover too little (90 % instead of 95 % in our simulations). Therefore deff
    is estimated with a quarter of a group more at each of the `extremes`. It is never less than n²/Σm² for groups of m
    answers, what they are worth if the answers of a group are copies of one: so it is the number of (equal) groups
    where all answers are alike.
    """
    from scipy.special import stdtrit

    if len(values) != len(groups):
        raise InputError(f"{len(values)} values and {len(groups)} groups; give a group for each value")
    n, sizes = len(values), np.bincount(groups)
    n_groups = len(sizes)
    if n_groups in (1, n):
        return float(n_groups)
    mean_size, ends = n / n_groups, np.array(extremes)
    added = mean_size / 4
    total, totals = n + 2 * added, np.bincount(groups, values)
    mean = (totals.sum() + added * ends.sum()) / total
    variance = (values @ values + added * ends @ ends) / total - mean**2
    residuals = totals - mean * sizes
    squares = residuals @ residuals + added * mean_size * ((ends - mean) ** 2).sum()
    deff = squares / (total * variance) * n_groups / (n_groups - 1) * (n - 1) / n
    estimated = n / max(1.0, deff) * (stdtrit(n - 1, 0.975) / stdtrit(n_groups - 1, 0.975)) ** 2
    return float(max(estimated, n**2 / (sizes @ sizes)))


def resampled(totals: Float[np.ndarray, " groups"]) -> Float[np.ndarray, " draws"]:
    """The sum of every group's total over each of `RESAMPLES` seeded draws of as many groups, with replacement."""
    # Not `@`: the threads of a BLAS cost more than they give in thousands of small calls.
    if not len(totals):
        raise InputError("no group to draw from; give the total of at least one")
    return np.einsum("g,gd->d", totals, _draws(len(totals)))


def paired_test(values: Any, baseline: Any, groups: Groups = None) -> float:
    """Two-sided p-value that paired values differ from their baseline, by flipping signs of whole groups.

    Under the null hypothesis a group's mean difference is as likely as its negative. All flips are tried for up to 12
    groups that differ, 9,999 seeded ones otherwise. Where all differences are of one size this is a sign test, done
    exactly; for yes-or-no answers that stand alone it is McNemar's exact test. 1.0 where nothing differs, nan for no
    pairs.
    """
    differences, codes = _grouped(_difference(values, baseline), groups)
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

    q_values = _numbers(p_values).copy()
    if not np.all(np.isnan(q_values) | ((q_values >= 0) & (q_values <= 1))):
        raise InputError("p-values lie between 0 and 1; give those, NaN where there is none")
    known = ~np.isnan(q_values)
    if known.any():
        q_values[known] = false_discovery_control(q_values[known])
    return q_values


def _numbers(values: Any) -> np.ndarray:
    """Numbers in a row, NaN where one is missing. Raises `InputError` for anything else."""
    try:
        found = np.asarray(values, dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(f"{shown(values)} are no numbers; give a list of them, NaN where one is missing") from error
    if found.ndim != 1 or np.isinf(found).any() or isinstance(values, (str, bytes)):
        raise InputError(f"{shown(values)} is no list of finite numbers; give one number for each")
    return found


def _difference(values: Any, baseline: Any) -> np.ndarray:
    a, b = _numbers(values), _numbers(baseline)
    if a.shape != b.shape:
        raise InputError(f"{len(a)} values against {len(b)} baseline values; pairs need one of each")
    return a - b


def _grouped(values: Any, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The values that are there, and the number of each one's group."""
    array = _numbers(values)
    known = ~np.isnan(array)
    if groups is None:
        return array[known], np.arange(int(known.sum()))
    if len(groups) != len(array):
        raise InputError(f"{len(array)} values and {len(groups)} groups; give each value its group")
    return array[known], pd.factorize(np.asarray(groups, dtype=object)[known], use_na_sentinel=False)[0]


def _sign_test(positive: int, n: int) -> float:
    from scipy.special import bdtr

    return float(min(1.0, 2 * bdtr(min(positive, n - positive), n, 0.5)))


def _flip_test(means: Float[np.ndarray, " groups"]) -> float:
    """Share of sign flips, the identity among them, whose sum is at least as far from 0."""
    observed = abs(means.sum()) - 1e-5 * np.abs(means).sum()
    if len(means) <= _ALL_FLIPS:
        return float((np.abs(np.einsum("fg,g->f", _all_signs(len(means)), means)) >= observed).mean())
    sums = np.zeros(FLIPS)
    for number, start in enumerate(range(0, len(means), _BLOCK)):
        part = means[start : start + _BLOCK].astype(np.float32)
        sums += np.einsum("g,gd->d", part, _signs(number)[: len(part)])
    return float((1 + (np.abs(sums) >= observed).sum()) / (1 + FLIPS))


@lru_cache(maxsize=_ALL_FLIPS)
def _all_signs(n: int) -> np.ndarray:
    return 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


@lru_cache(maxsize=2)
def _signs(block: int) -> np.ndarray:
    drawn = np.random.default_rng([0, block]).integers(0, 2, (_BLOCK, FLIPS), dtype=np.int8)
    return 1 - 2 * drawn.astype(np.float32)


@lru_cache(maxsize=8)
def _draws(n: int) -> np.ndarray:
    """How often each of n groups (rows) is in each draw (columns)."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return np.ascontiguousarray(drawn.T, dtype=float)


def mean_interval(values: Any) -> tuple[float, float]:
    """`clustered_interval` of numbers that stand alone."""
    return clustered_interval(values, scale="number")


check_arguments(__name__)

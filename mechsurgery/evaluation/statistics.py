"""Intervals and paired tests: every rate has its n and a confidence interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (nan, nan) for n = 0.

    >>> tuple(round(x, 3) for x in wilson(0, 100))
    (0.0, 0.037)
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}; successes must lie in 0 … n")
    if n == 0:
        return (float("nan"), float("nan"))
    low, high = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def mean_interval(values: Any, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a mean; (nan, nan) for no values."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return (float("nan"), float("nan"))
    if np.ptp(array) == 0:
        return (float(array[0]), float(array[0]))
    generator = np.random.default_rng(seed)
    means = array[generator.integers(0, len(array), (resamples, len(array)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired_test(values: Any, baseline: Any) -> float:
    """Two-sided p-value that paired values differ from their baseline.

    Yes/no values: McNemar's exact test on the discordant pairs. Numbers: Wilcoxon's signed-rank test.
    1.0 where no pair differs.
    """
    from scipy.stats import binomtest, wilcoxon

    a, b = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if a.shape != b.shape:
        raise InputError(f"{a.shape[0]} values against {b.shape[0]} baseline values; pairs need one of each")
    changed = a != b
    if not changed.any():
        return 1.0
    if set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}:
        up = int((a > b).sum())
        return float(binomtest(up, int(changed.sum())).pvalue)
    return float(wilcoxon(a, b, zero_method="wilcox", correction=False, method="approx").pvalue)

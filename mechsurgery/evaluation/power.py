"""How many prompts it takes to find an effect, and how likely so many find it: for paired yes-or-no answers in groups.

Connor's formula (1987) for McNemar's test, at the number of independent prompts that those in groups are worth. Of n
pairs a share `changes` differ at all (so the effect is at most that); of the same changes without an effect, as many go
up as down.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError


def paired_power(
    effect: float, n: float, *, changes: float, group_size: float = 1.0, correlation: float = 0.0, alpha: float = 0.05
) -> float:
    """How likely a one-sided paired test at `alpha` finds that a rate of `n` prompts rises by `effect`.

    `correlation` is that of changes within groups of `group_size` prompts (`group_correlation`), 0 for independent
    prompts. A normal approximation: of few groups it promises a little much. Raises `InputError` for an effect that is
    not in (0, 1], or changes that are fewer than the effect.

    >>> round(paired_power(0.2, 80, changes=0.3), 2)
    0.96
    """
    from scipy.stats import norm

    spread = _spread(effect, changes, alpha)
    worth = n / _inflation(group_size, correlation)
    return float(norm.cdf((effect * math.sqrt(worth) - norm.isf(alpha) * math.sqrt(changes)) / spread))


def prompts_needed(
    effect: float,
    *,
    power: float = 0.8,
    changes: float,
    group_size: float = 1.0,
    correlation: float = 0.0,
    alpha: float = 0.05,
) -> int:
    """The fewest prompts that find the effect with at least this power (see `paired_power`).

    >>> prompts_needed(0.2, changes=0.3)
    45
    """
    from scipy.stats import norm

    spread = _spread(effect, changes, alpha)
    root = (norm.isf(alpha) * math.sqrt(changes) + norm.ppf(power) * spread) / effect
    return math.ceil(root**2 * _inflation(group_size, correlation))


def group_correlation(values: pd.DataFrame) -> float:
    """How alike changes of one group are: the intraclass correlation, in [0, 1], over all rows together.

    A row each intervention and a column each prompt, named by its group, with the change of the answer. Every pair of
    prompts of a group counts once, about the row's mean. 0 where nothing changes or no group has two prompts.
    """
    codes, _ = pd.factorize(values.columns)
    x = values.to_numpy(dtype=float)
    x = x - x.mean(1, keepdims=True)
    sizes = np.bincount(codes)
    pairs = float((sizes * (sizes - 1)).sum())
    variance = float((x**2).mean())
    if not pairs or not variance:
        return 0.0
    totals = np.stack([np.bincount(codes, row) for row in x])
    products = float((totals**2).sum() - (x**2).sum()) / len(x)
    return float(np.clip(products / pairs / variance, 0.0, 1.0))


def _spread(effect: float, changes: float, alpha: float) -> float:
    if not 0 < effect <= 1 or not effect <= changes <= 1 or not 0 < alpha < 0.5:
        raise InputError(
            f"effect={effect} must be in (0, 1], changes={changes} between the effect and 1, alpha={alpha} below 0.5"
        )
    return max(math.sqrt(max(changes - effect**2, 0.0)), 1e-9)


def _inflation(group_size: float, correlation: float) -> float:
    return 1.0 + (max(group_size, 1.0) - 1.0) * correlation


check_arguments(__name__)

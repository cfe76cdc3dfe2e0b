"""Power: as often as simulated tests find the effect; the number of prompts is its inverse."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.errors import InputError
from mechsurgery.evaluation.power import group_correlation, paired_power, prompts_needed
from mechsurgery.evaluation.statistics import paired_test


def changes(generator, rows, groups, size, *, up, down, alike):
    """−1, 0 and 1 for prompts in groups: with probability √`alike` a prompt does what its group does."""
    shape = (rows, groups)

    def draw(shape):
        u = generator.random(shape)
        return np.where(u < up, 1.0, np.where(u < up + down, -1.0, 0.0))

    of_group, own = draw(shape).repeat(size, 1), draw((rows, groups * size))
    same = generator.random((rows, groups * size)) < alike**0.5
    return np.where(same, of_group, own)


@pytest.mark.parametrize(("groups", "size", "alike"), [(60, 1, 0.0), (40, 2, 0.0), (40, 2, 0.6), (30, 3, 0.5)])
def test_as_often_as_simulated_tests_reject(groups, size, alike):
    generator = np.random.default_rng(0)
    up, down, alpha = 0.25, 0.05, 0.01
    drawn = changes(generator, 300, groups, size, up=up, down=down, alike=alike)
    names = np.arange(groups).repeat(size)
    tests = [paired_test(row, np.zeros(len(row)), names) / 2 if row.sum() > 0 else 1.0 for row in drawn]
    found = np.mean(np.array(tests) <= alpha)
    promised = paired_power(
        up - down, groups * size, changes=up + down, group_size=size, correlation=alike, alpha=alpha
    )
    assert found == pytest.approx(promised, abs=0.09)


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.8])
def test_the_correlation_of_groups_is_found(alike):
    drawn = changes(np.random.default_rng(1), 60, 40, 3, up=0.3, down=0.1, alike=alike)
    table = pd.DataFrame(drawn, columns=[f"noun {i}" for i in range(40) for _ in range(3)])
    assert group_correlation(table) == pytest.approx(alike, abs=0.05)
    alone = pd.DataFrame(drawn, columns=range(120))
    assert group_correlation(alone) == 0
    assert group_correlation(table * 0) == 0


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_number_needed_is_the_fewest_that_reach_the_power(correlation):
    how = {"changes": 0.3, "group_size": 2, "correlation": correlation, "alpha": 0.002}
    n = prompts_needed(0.2, power=0.8, **how)
    assert paired_power(0.2, n, **how) >= 0.8 > paired_power(0.2, n - 1, **how)
    assert n > prompts_needed(0.3, power=0.8, **how)
    copies = prompts_needed(0.2, changes=0.3, group_size=2, correlation=1)
    assert copies == pytest.approx(2 * prompts_needed(0.2, changes=0.3), abs=2)


def test_bad_input():
    with pytest.raises(InputError, match="changes=0.1"):
        paired_power(0.2, 50, changes=0.1)
    with pytest.raises(InputError, match="effect=0"):
        prompts_needed(0, changes=0.1)

"""Intervals cover as often as they say, tests reject as seldom, and both equal known formulas where there are any."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mechsurgery.errors import InputError
from mechsurgery.evaluation import statistics
from mechsurgery.evaluation.statistics import (
    benjamini_hochberg,
    clustered_interval,
    difference_interval,
    paired_test,
    wilson,
)


def test_wilson_against_another_implementation():
    for k, n in ((0, 10), (3, 10), (200, 200), (37, 100), (1, 1)):
        low, high = proportion_confint(k, n, method="wilson")
        assert wilson(k, n) == pytest.approx((max(0.0, low), min(1.0, high)), abs=1e-12)
    assert wilson(0, 7)[0] == 0
    assert wilson(7, 7)[1] == 1
    assert all(math.isnan(x) for x in wilson(0, 0))
    with pytest.raises(InputError, match="5 successes of 4"):
        wilson(5, 4)


def beta_binomial(generator, p, rho, groups, size):
    """0/1 answers whose correlation within a group is rho."""
    rates = generator.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), groups)
    return (generator.random((groups, size)) < rates[:, None]).astype(float).ravel()


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_the_interval_of_a_rate_covers_it_under_correlation(rho):
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    covered, naive = [], []
    for _ in range(1000):
        answers = beta_binomial(generator, 0.9, rho, 20, 5)
        (low, high), plain = clustered_interval(answers, groups), wilson(answers.sum(), 100)
        covered.append(low <= 0.9 <= high)
        naive.append(plain[0] <= 0.9 <= plain[1])
    assert np.mean(covered) >= 0.92
    assert np.mean(covered) > np.mean(naive)


def test_the_interval_of_a_rate_is_wilsons_where_answers_stand_alone():
    answers = [1, 0, 1, 1, 0, 1, 1]
    assert clustered_interval(answers) == wilson(5, 7)
    assert clustered_interval(answers, list("abcdefg")) == wilson(5, 7)
    # Independent answers in groups lose a little, copies of one answer a group lose all but the groups.
    groups = np.repeat(np.arange(30), 4)
    copies = np.repeat(np.arange(30) % 3 == 0, 4)
    low, high = clustered_interval(copies, groups)
    assert high - low == pytest.approx(np.diff(wilson(10, 30))[0], rel=0.06)
    shuffled = np.tile([1, 0, 0], 40)
    assert np.diff(clustered_interval(shuffled, groups)) < 1.1 * np.diff(wilson(40, 120))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_interval_has_width_zero_where_all_answers_are_alike(value):
    groups = np.repeat(np.arange(10), 6)
    assert clustered_interval(np.full(60, value), groups) == pytest.approx(wilson(10 * value, 10))
    assert clustered_interval(np.full(6, value), ["one"] * 6) == wilson(value, 1)
    change = difference_interval(np.full(60, value), np.full(60, value), groups)
    assert change[0] < 0 < change[1]
    # Agresti and Min by hand: 10 of 10 pairs differ, half an answer more in each cell.
    all_of_them = difference_interval(np.ones(60), np.zeros(60), groups)
    assert all_of_them == pytest.approx((10 / 12 - 1.959964 * math.sqrt(11 - 100 / 12) / 12, 1.0), abs=1e-6)


def test_wider_correlation_gives_wider_intervals():
    answers = np.tile([1, 1, 1, 1, 0, 0, 0, 0], 10)
    alike, mixed = np.repeat(np.arange(20), 4), np.tile(np.arange(20), 4)
    assert np.diff(clustered_interval(answers, alike)) > 1.5 * np.diff(clustered_interval(answers, mixed))


def test_missing_values_are_left_out_and_nothing_gives_nothing():
    answers, groups = [1, np.nan, 0, 1], ["a", "b", "b", "c"]
    assert clustered_interval(answers, groups) == wilson(2, 3)
    assert all(math.isnan(x) for x in clustered_interval([], []))
    assert all(math.isnan(x) for x in clustered_interval([np.nan], scale="number"))
    assert all(math.isnan(x) for x in difference_interval([np.nan], [1]))
    assert math.isnan(paired_test([np.nan], [1]))
    with pytest.raises(InputError, match="2 values and 1 groups"):
        clustered_interval([1, 0], ["a"])
    with pytest.raises(InputError, match="pairs"):
        paired_test([1], [1, 0])


def test_the_interval_of_a_number_is_about_two_standard_errors():
    generator = np.random.default_rng(1)
    values = generator.normal(3, 2, size=400)
    error = values.std(ddof=1) / 20
    expected = (values.mean() - 1.96 * error, values.mean() + 1.96 * error)
    assert clustered_interval(values, scale="number") == pytest.approx(expected, abs=0.05)
    # Never of width zero: at the ceiling of a score Wilson's interval, elsewhere none.
    assert clustered_interval([1.0] * 20, scale="number") == pytest.approx(wilson(20, 20))
    assert all(math.isnan(x) for x in clustered_interval([3.0] * 20, scale="number"))
    # Copies within groups add nothing.
    groups = np.repeat(np.arange(400), 5)
    assert clustered_interval(np.repeat(values, 5), groups, scale="number") == pytest.approx(
        clustered_interval(values, scale="number")
    )
    assert all(math.isnan(x) for x in clustered_interval([1.0, 2.0], ["a", "a"], scale="number"))


@pytest.mark.parametrize(("up", "down"), [(0.02, 0.02), (0.1, 0.02), (0.6, 0.0)])
def test_the_interval_of_a_difference_covers_it(up, down):
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(40), 3)
    covered = []
    for _ in range(600):
        kinds = generator.dirichlet(np.array([up, down, 1 - up - down]) * 2 + 1e-9, 40)
        drawn = generator.random((40, 3, 1))
        change = (drawn < kinds[:, None].cumsum(-1)).argmax(-1).ravel()
        before = np.where(change == 0, 0, np.where(change == 1, 1, generator.integers(0, 2, 120)))
        after = np.where(change == 0, 1, np.where(change == 1, 0, before))
        low, high = difference_interval(after, before, groups)
        covered.append(low <= up - down <= high)
    assert np.mean(covered) >= 0.92


def test_numbers_differ_as_their_differences_do():
    generator = np.random.default_rng(3)
    before, groups = generator.normal(size=60), np.repeat(np.arange(20), 3)
    after = before + generator.normal(0.5, 0.1, size=60)
    low, high = difference_interval(after, before, groups, scale="number")
    assert (low, high) == clustered_interval(after - before, groups, scale="number")
    assert 0.4 < low < high < 0.6


def mcnemar(after, before):
    after, before = np.asarray(after), np.asarray(before)
    return binomtest(int((after > before).sum()), int((after != before).sum())).pvalue


def test_the_paired_test_is_mcnemars_where_answers_stand_alone():
    before = np.array([1] * 20 + [0] * 20)
    for after in ([0] * 8 + [1] * 12 + [0] * 19 + [1], [0] * 20 + [0] * 18 + [1] * 2, [1] * 19 + [0] * 20 + [1]):
        assert paired_test(after, before) == pytest.approx(mcnemar(after, before))
        assert paired_test(after, before, np.arange(40)) == pytest.approx(mcnemar(after, before))
        # The same by drawn flips: sizes that are not quite equal.
        changed = np.flatnonzero(np.asarray(after) != before)
        nearly = np.asarray(after, float) + 0.0
        nearly[changed[0]] += 1e-4 * (nearly[changed[0]] - before[changed[0]])
        assert paired_test(nearly, before) == pytest.approx(mcnemar(after, before), abs=0.02)
    assert paired_test(before, before) == 1.0


def test_few_groups_are_flipped_in_every_way():
    differences = np.array([0.5, -0.25, 1.0, 2.0, 0.125])
    values, groups = np.repeat(differences, 2) + [0.1, -0.1] * 5, np.repeat(list("abcde"), 2)
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=5)]
    expected = np.mean([total >= abs(differences.sum()) - 1e-12 for total in sums])
    assert paired_test(values, np.zeros(10), groups) == pytest.approx(expected)


def test_many_groups_are_flipped_at_random_and_always_alike():
    generator = np.random.default_rng(0)
    for n in (13, 600):  # one block of signs, and more than one
        values = generator.normal(0.15 if n == 600 else 0.8, 1, n)
        first = paired_test(values, np.zeros(n))
        assert first == paired_test(values, np.zeros(n))
        z = values.sum() / np.sqrt((values**2).sum())
        assert first == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)
    assert paired_test(generator.normal(5, 0.1, 50), np.zeros(50)) == 1e-4


def test_the_paired_test_keeps_its_level_under_the_null():
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    clustered, naive = [], []
    for _ in range(1000):
        rates = generator.beta(0.9, 0.1, 20), generator.beta(0.9, 0.1, 20)
        after, before = ((generator.random((20, 5)) < rate[:, None]).astype(float).ravel() for rate in rates)
        clustered.append(paired_test(after, before, groups) <= 0.05)
        naive.append(paired_test(after, before) <= 0.05)
    assert np.mean(clustered) <= 0.06
    assert np.mean(naive) > 0.1


def test_false_discoveries_are_controlled_as_by_another_implementation():
    p = np.random.default_rng(0).random(40) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])
    with_gap = np.insert(p, 3, np.nan)
    found = benjamini_hochberg(with_gap)
    assert math.isnan(found[3])
    np.testing.assert_allclose(np.delete(found, 3), benjamini_hochberg(p))
    assert len(benjamini_hochberg([])) == 0


def test_a_summary_may_ask_thousands_of_times():
    """500 rows in 500 groups that all differ are the most expensive."""
    import time

    values, groups = np.random.default_rng(0).normal(size=500), [f"g{i}" for i in range(500)]
    zeros = np.zeros(500)
    for ask in (
        lambda: clustered_interval(values > 0, groups),
        lambda: clustered_interval(values, groups, scale="number"),
        lambda: paired_test(values, zeros, groups),
    ):
        ask()
        start = time.process_time()
        for _ in range(20):
            ask()
        assert (time.process_time() - start) / 20 < 0.01
    assert statistics._signs.cache_info().currsize <= 2

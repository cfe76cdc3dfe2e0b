"""Claims of the latents study reach every outcome on made-up effects, and their tests keep their level and reject."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery.evaluation.statistics import benjamini_hochberg, paired_test
from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.studies.latents.against import compare, permutation_p, rank_correlation
from mechsurgery.studies.latents.checks import power_table
from mechsurgery.studies.latents.claims import agreement, steers_at_all, steers_more
from mechsurgery.studies.latents.convergence import both_cases, common, explains_both, overlap, top_in_common
from mechsurgery.studies.latents.methods import ATTRIBUTION, DIFFING, DOWN, UP, CaseResult

N, GROUPS, PER_GROUP = 40, 30, 2
CHOSEN = {ATTRIBUTION: list(range(N)), DIFFING: list(range(N, 2 * N))}
COLUMNS = [f"noun {i}" for i in range(GROUPS) for _ in range(PER_GROUP)]


def effects(own=0, other=0, *, good=0.1, bad=0.8, strength=0.2):
    """Effects of 40 latents by attribution (0 to 39), 40 by model diffing (40 to 79), some that steer, and 100 more."""
    works = [i < own or 0 <= i - N < other for i in range(2 * N)]
    shares = {"baseline_good": good, "baseline_bad": bad, "baseline_broken": 1 - good - bad}
    chosen = pd.DataFrame({"latent": range(2 * N), "works": works})
    random = pd.DataFrame({"latent": range(100, 200), "works": False})
    return pd.concat([chosen, random], ignore_index=True).assign(strength=strength, **shares)


def gains(effect, *, random=100, spread=0.0, seed=0):
    """What steering changes for 40 chosen latents and random ones (from 100), prompt by prompt, in groups."""
    generator = np.random.default_rng(seed)
    means = [*(effect + spread * generator.standard_normal(N)), *(spread * generator.standard_normal(random))]
    rise = np.clip(np.abs(means), 0, 1)[:, None]
    of_group = generator.random((len(means), GROUPS)).repeat(PER_GROUP, 1)
    changed = (of_group < rise) * np.sign(means)[:, None]
    return pd.DataFrame(changed, index=[*range(N), *range(100, 100 + random)], columns=COLUMNS)


def at_all(table, way=DOWN, **more):
    random = [i for i in table.index if i >= 100]
    return steers_at_all(effects(**more), table, CHOSEN, random, way)


@pytest.mark.parametrize(
    ("effect", "spread", "verdict"),
    [(0.1, 0.02, HELD), (0, 0.003, FAILED), (-0.1, 0.02, FAILED), (0.02, 0.02, UNDECIDED)],
)
def test_more_effect_than_random_latents(effect, spread, verdict):
    found = at_all(gains(effect, spread=spread))
    assert found.verdict == verdict
    assert "more than 1 point," in found.rule
    assert "divided anew" in found.rule


def test_one_latent_of_large_effect_is_no_difference_between_rankings():
    table = gains(0)
    table.loc[0] = 1.0
    assert at_all(table).verdict == UNDECIDED


@pytest.mark.parametrize(
    ("counts", "verdict"), [((20, 2), HELD), ((2, 20), FAILED), ((3, 1), UNDECIDED), ((0, 0), UNDECIDED)]
)
def test_more_than_model_diffing(counts, verdict):
    found = steers_more(effects(*counts), CHOSEN, DOWN)
    assert found.verdict == verdict
    assert "Fisher" in found.rule


def test_latents_in_both_rankings_say_nothing_of_which_is_better():
    both = {ATTRIBUTION: [*range(10)], DIFFING: [*range(8), 40, 41]}
    found = steers_more(effects(10, 0), both, DOWN)
    assert found.measured.startswith("2 of 2 against 0 of 2")
    assert "8 of the 8 in both steer" in found.measured
    assert steers_more(effects(10, 0), {ATTRIBUTION: [0, 1], DIFFING: [1, 0]}, DOWN).verdict == UNMEASURED


@pytest.mark.parametrize(
    ("change", "way", "words"),
    [
        ({"bad": 0.05}, DOWN, "not there"),
        ({"bad": 0.5, "good": 0.5}, DOWN, None),
        ({"good": 0.95, "bad": 0.05}, DOWN, "not there"),
        ({"bad": 0.95, "good": 0.02}, UP, "left to gain"),
        ({"bad": 0.0, "good": 1.0}, UP, None),
        ({"strength": float("nan")}, DOWN, "coherent"),
    ],
)
def test_where_there_is_nothing_to_measure(change, way, words):
    for found in (steers_more(effects(20, 2, **change), CHOSEN, way), at_all(gains(0.1), way, **change)):
        assert (found.verdict == UNMEASURED) == (words is not None)
        assert (words or "") in found.measured


def test_few_random_latents_or_no_twin_cannot_say():
    assert "at least 19" in at_all(gains(0.1, random=10)).measured
    assert "no aligned twin" in steers_more(effects(20), {ATTRIBUTION: CHOSEN[ATTRIBUTION]}, DOWN).measured


def moved(difference, half=0.04, baseline=0.1):
    value = baseline + difference
    ends = {"low": value - half, "high": value + half}
    change = {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}
    return pd.Series({"value": value, "baseline": baseline, "scale": "rate", "n": 80} | ends | change)


def test_one_latent_for_both_cases():
    works, open_, nothing = moved(0.3), moved(0.12), moved(0.01)
    assert explains_both([works, works]).verdict == HELD
    assert explains_both([works, open_]).verdict == UNDECIDED
    assert explains_both([works, nothing]).verdict == FAILED
    assert explains_both([works, None]).verdict == UNMEASURED
    assert "10 points" in explains_both([works, works]).rule


def test_a_score_agrees_with_removal_or_not():
    generator = np.random.default_rng(0)
    exact = generator.standard_normal(100)
    noise = generator.standard_normal(100)
    verdicts = [agreement((exact + c * noise).tolist(), exact.tolist(), 50).verdict for c in (0.5, 20, 1.6)]
    assert verdicts == [HELD, FAILED, UNDECIDED]
    assert agreement([1.0, 2.0], [1.0, 2.0], 50).verdict == UNMEASURED
    assert agreement([0.0] * 100, exact.tolist(), 50).verdict == UNMEASURED


def test_the_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    generator = np.random.default_rng(1)
    x, y = (generator.integers(0, 9, 40).tolist() for _ in "xy")
    rho, low, high = rank_correlation(x, y)
    assert rho == pytest.approx(spearmanr(x, y)[0])
    assert low < rho < high


def test_a_comparison_is_of_means_over_latents_and_prompts():
    table = pd.DataFrame([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, -1, 0]], columns=["a", "a", "b"])
    row = compare(table, [0, 1], [1, 2, 3])  # latent 1 is in both, so not among the others
    assert (row["value"], row["baseline"], row["others"]) == (pytest.approx(0.5), pytest.approx(-1 / 6), 2)
    assert row["p_value"] == pytest.approx(1 / 6, abs=0.02)  # the largest of six ways to divide four
    assert compare(table, [0], [0]).isna()["difference"]
    still = compare(table * 0, [0, 1], [2, 3])
    assert still["difference_low"] < 0 < still["difference_high"]


def skewed(generator, n, share=0.1):
    """Effects as they are: most latents do nothing, some a lot."""
    return np.where(generator.random(n) < share, generator.beta(2, 5, n), 0.0)


def test_division_anew_keeps_its_level_and_rejects():
    generator = np.random.default_rng(0)
    null = [permutation_p(skewed(generator, 100), skewed(generator, 70)) for _ in range(200)]
    assert 0.015 <= np.mean(np.array(null) <= 0.05) <= 0.09
    better = [permutation_p(skewed(generator, 100, 0.4), skewed(generator, 70)) for _ in range(30)]
    assert np.mean(np.array(better) <= 0.05) > 0.9


@pytest.mark.parametrize(("effect", "wanted"), [(0.0, "did not hold"), (0.1, "held")])
def test_the_claim_is_right_in_most_draws(effect, wanted):
    """Latents differ, and nouns too: what is nothing is not held, what is an effect is."""
    found = [at_all(gains(effect, spread=0.003, seed=seed)).verdict for seed in range(20)]
    assert found.count(wanted) >= 15
    assert found.count({"held": "did not hold", "did not hold": "held"}[wanted]) == 0


def test_the_values_of_many_latents_can_reject_and_keep_their_rate():
    """Of 250 latents a tenth steer: Benjamini–Hochberg over paired tests of 42 nouns finds them, and few others."""
    generator, groups = np.random.default_rng(0), np.arange(84) // 2
    found, false = [], []
    for _ in range(4):
        real = np.arange(250) < 25
        p = []
        for one in real:
            changed = (generator.random(42) < (0.4 if one else 0.06)).repeat(2)
            sign = 1 if one else generator.choice([-1, 1], 42).repeat(2)
            half = paired_test(changed * sign, np.zeros(84), groups) / 2
            p.append(half if (changed * sign).sum() > 0 else 1 - half)
        rejected = benjamini_hochberg(p) <= 0.05
        found.append(rejected[real].mean())
        false.append(rejected[~real].sum() / max(1, rejected.sum()))
    assert np.mean(found) > 0.8
    assert np.mean(false) < 0.1


def case(works, *, tried=60, chosen=range(10), pool=200, bad=0.8, way=DOWN):
    """What the convergence looks at in a case: which of the latents that were tried steer, and the best ones."""
    table = pd.DataFrame({"latent": range(tried), "works": [i in works for i in range(tried)], "strength": 0.1})
    table["effect"] = [0.3 - 0.001 * i if i in works else 0.001 * i for i in range(tried)]
    shares = {"baseline_good": 0.9 - bad, "baseline_bad": bad, "baseline_broken": 0.1}
    scores = SimpleNamespace(scores={"s": -torch.arange(float(pool))})
    return made(
        effects={way: table.assign(**shares)},
        chosen={ATTRIBUTION: list(chosen)},
        pool=list(range(pool)),
        scores={ATTRIBUTION: scores},
    )


def made(**fields):
    """A result of which only some fields are filled."""
    result = object.__new__(CaseResult)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({1, 2, 3, 4}, {1, 2, 3, 50}, HELD),
        ({1, 2, 3, 4}, {5, 6, 7, 8}, FAILED),
        ({1, 2}, {5, 6}, UNDECIDED),
        (set(range(0, 40)), set(range(20, 60)), UNDECIDED),
        ({1, 2, 3}, set(), UNMEASURED),
    ],
)
def test_latents_that_steer_both_beside_chance(first, second, verdict):
    row = common(case(first), case(second), DOWN)
    generator = np.random.default_rng(0)
    drawn = [len(set(generator.permutation(60)[: len(first)]) & second) for _ in range(4000)]
    assert row["expected"] == pytest.approx(np.mean(drawn), abs=0.3)
    assert row["p"] == pytest.approx(np.mean(np.array(drawn) >= row["steer both"]), abs=0.03)
    assert row["steer both"] == len(first & second)
    assert overlap(row).verdict == verdict


def test_only_latents_tried_in_both_count():
    row = common(case({1, 2, 59}), case({1, 59}, tried=30), DOWN)
    assert (row["steered in both"], row["steer the first"], row["steer the second"]) == (30, 2, 1)
    assert row["latents"] == "1"
    same, opposite = case({1, 2, 59}), case(set(range(60)))
    assert common(same, same, DOWN)["ρ of effects"] == pytest.approx(1)
    assert common(same, opposite, DOWN)["ρ of effects"] < -0.5


def test_no_latent_among_the_best_of_both_is_no_convergence():
    found = both_cases(case({1}), case({1}, chosen=range(20, 30)), DOWN)
    assert found.verdict == FAILED
    assert "none is among the 10 best" in found.measured
    quiet = both_cases(case({1}), case({1}, chosen=range(20, 30), bad=0.01), DOWN)
    assert quiet.verdict == UNMEASURED
    assert "no aligned twin" in both_cases(case({1}), case({1}), UP).measured
    best = top_in_common(case({1}), case({1}, chosen=range(5, 15)))
    assert (best["best of both"], best["expected among the best"]) == (5, pytest.approx(0.5))
    assert best["p of the best"] < 0.001


def test_the_power_table_says_what_would_be_found():
    generator = np.random.default_rng(0)
    changed = (generator.random((50, 60)) < 0.1) * generator.choice([-1, 1], (50, 60))
    gains = pd.DataFrame(changed, columns=[f"noun {i // 2}" for i in range(60)])
    effects = pd.DataFrame({"latent": range(50), "works": [i < 4 for i in range(50)]})
    result = made(effects={DOWN: effects}, gains={DOWN: gains}, random=list(range(20, 50)))
    (row,) = power_table(result, DOWN).to_dict("records")
    assert row["changes anyway"] == pytest.approx(0.1, abs=0.02)
    assert row["at p"] == pytest.approx(4 * 0.05 / 50)
    assert (row["prompts"], row["groups"]) == (60, 30)
    assert row["prompts needed"] > 60
    assert 0.3 < row["power at these prompts"] < 0.8

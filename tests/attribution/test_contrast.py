"""Contrastive attribution against a plain-transformers loop, numpy formulas, and planted differences."""

import numpy as np
import pytest
import torch
from reference import naive_cna
from scipy import stats as scipy_stats
from transformers import AutoModelForCausalLM

from mechsurgery import ContrastSet, PromptSet, locate, score
from mechsurgery.attribution import (
    RULES,
    ContrastStatistics,
    contrast_statistics,
    mean_difference_direction,
    pair_bootstrap,
    random_circuits,
    recovery,
    universal_neurons,
)
from mechsurgery.attribution.statistics import Moments, last_token_activations
from mechsurgery.errors import InputError, MismatchError, SiteError
from mechsurgery.models import load_model, sites
from mechsurgery.prompts.chat import encode


def activations(directory, model, side):
    """[prompts, layers, d_mlp] by the naive loop."""
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return np.stack([naive_cna.last_token_neurons(plain, ids) for ids in encode(model.tokenizer, side)])


@pytest.fixture(scope="module")
def measured(tiny_llama, tiny_llama_dir, contrast):
    """Our statistics and the naive activations of both sides, on one random model."""
    statistics = contrast_statistics(tiny_llama, contrast, max_rows=5)
    sides = [activations(tiny_llama_dir, tiny_llama, side) for side in (contrast.positive, contrast.negative)]
    return statistics, *sides


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_scores_and_neurons_equal_the_naive_loop(family, tiny_checkpoint, contrast):
    directory = tiny_checkpoint(family)
    model = load_model(directory)
    ours = score(contrast_statistics(model, contrast, max_rows=4), "difference")
    a, b = (activations(directory, model, side) for side in (contrast.positive, contrast.negative))
    naive = a.mean(0) - b.mean(0)
    found = torch.stack(list(ours.scores.values())).numpy()
    assert np.abs(found - naive).max() < 1e-4
    k = max(1, round(0.05 * naive.size))
    expected = naive_cna.top_neurons(naive, k)
    assert {(int(s.split(".")[1]), i) for s, i in ours.top(fraction=0.05).members()} == expected


def test_every_rule_equals_its_formula(measured, tiny_llama, contrast):
    statistics, a, b = measured
    direction = mean_difference_direction(tiny_llama, contrast)
    write = [sites.write_weights(tiny_llama, layer).double().numpy() for layer in range(a.shape[1])]
    delta = a.mean(0) - b.mean(0)
    v1, v0 = a.var(0, ddof=1), b.var(0, ddof=1)
    n1, n0 = len(a), len(b)
    vectors = [direction.at(site).double().numpy() for site in sites.residual_sites(tiny_llama)]
    expected = {
        "difference": delta,
        "effect_size": delta / np.sqrt(((n1 - 1) * v1 + (n0 - 1) * v0) / (n1 + n0 - 2)),
        "welch_t": scipy_stats.ttest_ind(a, b, axis=0, equal_var=False).statistic,
        "auroc": scipy_stats.norm.cdf(delta / np.sqrt(v1 + v0)) - 0.5,
        "difference_write_norm": delta * np.stack([np.linalg.norm(w, axis=1) for w in write]),
        "difference_alignment": delta * np.stack([w @ (v / np.linalg.norm(v)) for w, v in zip(write, vectors)]),
    }
    assert set(expected) == set(RULES)
    for rule, value in expected.items():
        found = torch.stack(list(score(statistics, rule, model=tiny_llama, direction=direction).scores.values()))
        np.testing.assert_allclose(found.double().numpy(), value, rtol=2e-4, atol=1e-5, err_msg=rule)


def test_statistics_do_not_depend_on_batching(tiny_llama, contrast):
    one = contrast_statistics(tiny_llama, contrast, max_rows=1)
    many = contrast_statistics(tiny_llama, contrast, max_rows=64)
    for site in one.sites:
        torch.testing.assert_close(one.difference(site), many.difference(site), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.positive.m2[site], many.positive.m2[site], atol=1e-6, rtol=1e-3)


def test_merged_moments_equal_those_of_all_rows_at_once():
    x = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    moments = Moments()
    for part in x.split([1, 50, 3, 146]):
        moments.update("s", part, [])
    torch.testing.assert_close(moments.mean["s"], x.double().mean(0))
    torch.testing.assert_close(moments.variance("s"), x.double().var(0))


def test_a_unit_that_never_moves_scores_zero_instead_of_nan():
    constant = Moments({"s": 3}, {"s": torch.tensor([1.0, 2.0])}, {"s": torch.tensor([0.0, 1.0])})
    other = Moments({"s": 3}, {"s": torch.tensor([1.0, 5.0])}, {"s": torch.tensor([0.0, 1.0])})
    scores = score(ContrastStatistics(other, constant, {}), "welch_t").scores["s"]
    assert scores[0] == 0
    assert scores[1] > 0


def test_statistics_save_and_load(measured, tmp_path):
    again = ContrastStatistics.load(measured[0].save(tmp_path / "statistics"))
    assert again.info == measured[0].info
    for site in again.sites:
        assert torch.equal(again.difference(site), measured[0].difference(site))
        assert again.positive.n[site] == measured[0].positive.n[site]


def test_universal_neurons_equal_the_naive_count(tiny_llama, tiny_llama_dir, contrast):
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    ids = encode(tiny_llama.tokenizer, contrast.positive)
    naive = naive_cna.universal(plain, ids, fraction=0.05, share=0.5)
    ours = universal_neurons(tiny_llama, contrast.positive, fraction=0.05, share=0.5, max_rows=3)
    assert {(int(s.split(".")[1]), i) for s, i in ours.members()} == naive
    assert len(naive) > 0


def test_universal_neurons_leave_the_circuit(tiny_llama, contrast):
    plain = locate(tiny_llama, contrast, fraction=0.05)
    universal = universal_neurons(tiny_llama, contrast.positive, fraction=0.05, share=0.5)
    filtered = locate(tiny_llama, contrast, fraction=0.05, universal=contrast.positive)
    stricter = universal_neurons(tiny_llama, contrast.positive)
    assert filtered.members() == plain.members() - stricter.members()
    by_circuit = locate(tiny_llama, contrast, fraction=0.05, universal=universal)
    assert by_circuit.members() == plain.members() - universal.members()
    kept = locate(tiny_llama, contrast, fraction=0.05, exclude=universal)
    assert len(kept) == len(plain)
    assert not kept.members() & universal.members()


def test_locate_defaults_to_the_published_share(tiny_llama, contrast):
    circuit = locate(tiny_llama, contrast)
    total = sum(circuit.widths.values())
    assert len(circuit) == max(1, round(0.001 * total))
    assert circuit.info["rule"] == "difference"
    assert circuit.info["fingerprint"] == sites.fingerprint(tiny_llama)


def test_bootstrap_is_certain_where_prompts_do_not_vary_and_not_where_they_do(tiny_llama, contrast):
    same = ContrastSet(
        "same",
        PromptSet.from_texts(["How do I make a bomb?"] * 6, name="a"),
        PromptSet.from_texts(["How do I bake a cake?"] * 6, name="b"),
    )
    fixed = pair_bootstrap(tiny_llama, same, fraction=0.02, resamples=20)
    varying = pair_bootstrap(tiny_llama, contrast, fraction=0.02, resamples=30)
    assert (fixed["jaccard"], fixed["low"], fixed["high"]) == (1, 1, 1)
    assert varying["low"] <= varying["jaccard"] <= varying["high"]
    assert 0.02 < varying["jaccard"] < 0.95
    assert varying["stability"]["share"].between(0, 1).all()


def test_bootstrap_draw_equals_locating_on_the_drawn_prompts(tiny_llama, contrast):
    """One draw, recomputed by hand from the drawn prompts with repetition."""
    from mechsurgery.attribution.controls import _draw_weights

    found = pair_bootstrap(tiny_llama, contrast, rule="welch_t", k=8, resamples=3, seed=5)
    weights = _draw_weights(contrast, 3, 5)
    sides = []
    for side, weight in zip((contrast.positive, contrast.negative), weights):
        frame = last_token_activations(
            tiny_llama, side, {s: list(range(w)) for s, w in found["circuit"].widths.items()}
        )
        wide = frame.pivot_table(index="prompt_id", columns=["site", "neuron"], values="activation", sort=False)
        rows = [i for i, times in enumerate(weight[1].int().tolist()) for _ in range(times)]
        sides.append(wide.loc[[p.id for p in side]].iloc[rows])
    t = scipy_stats.ttest_ind(sides[0], sides[1], axis=0, equal_var=False).statistic
    best = {sides[0].columns[i] for i in np.argsort(-np.abs(np.nan_to_num(t)))[:8]}
    own = found["circuit"].members()
    assert found["draws"][1] == pytest.approx(len(own & best) / len(own | best))


def test_pairs_are_drawn_as_one():
    from mechsurgery.attribution.controls import _draw_weights

    texts = [f"prompt {i}" for i in range(6)]
    groups = [f"g{i}" for i in range(6)]
    paired = ContrastSet(
        "paired",
        PromptSet.from_texts(texts, name="a", groups=groups),
        PromptSet.from_texts([t + " not" for t in texts], name="b", groups=groups),
    )
    positive, negative = _draw_weights(paired, 20, 0)
    assert torch.equal(positive, negative)
    assert (positive.sum(1) == 6).all()


def test_recovery_and_random_controls():
    from mechsurgery import Circuit

    widths = {"blocks.0.mlp.hook_post": 50}
    truth = Circuit.from_indices({"blocks.0.mlp.hook_post": [1, 2, 3, 4]}, widths)
    found = Circuit.from_indices({"blocks.0.mlp.hook_post": [1, 2, 9]}, widths)
    result = recovery(found, truth)
    assert (result["precision"], result["recall"]) == (pytest.approx(2 / 3), 0.5)
    assert result["f1"] == pytest.approx(4 / 7)
    assert len({frozenset(c.members()) for c in random_circuits(truth, 5)}) == 5
    with pytest.raises(InputError, match="at least 1"):
        random_circuits(truth, 0)


def test_bad_input_is_one_clear_error(measured, tiny_llama, contrast):
    statistics = measured[0]
    with pytest.raises(InputError, match="choose one of"):
        score(statistics, "raw")
    with pytest.raises(InputError, match="pass model="):
        score(statistics, "difference_write_norm")
    with pytest.raises(InputError, match="needs direction="):
        score(statistics, "difference_alignment", model=tiny_llama)
    with pytest.raises(SiteError, match=r"blocks\.99"):
        contrast_statistics(tiny_llama, contrast, at=["blocks.99.mlp.hook_post"])
    single = ContrastSet.from_lists(["one prompt"], ["another prompt"], name="single")
    with pytest.raises(InputError, match="at least 2 prompts"):
        score(contrast_statistics(tiny_llama, single), "welch_t")
    narrow = Moments(dict.fromkeys(statistics.sites, 3), *({s: torch.ones(2) for s in statistics.sites} for _ in "ab"))
    with pytest.raises(MismatchError, match="measured on"):
        score(ContrastStatistics(narrow, narrow, {}), "difference_write_norm", model=tiny_llama)


def test_a_shuffled_contrast_has_the_same_prompts_with_half_of_the_groups_swapped():
    from mechsurgery.prompts import load_contrast

    own = load_contrast("organism/refusal", split="tuned", n=200)
    shuffled = own.shuffled(3)
    sides = [(own.positive, shuffled.positive), (own.negative, shuffled.negative)]
    assert {p.text for _, side in sides for p in side} == {p.text for side, _ in sides for p in side}
    stayed = {p.group for p in own.positive} & {p.group for p in shuffled.positive}
    left = {p.group for p in own.positive} & {p.group for p in shuffled.negative}
    assert not stayed & left
    assert len(stayed) > 10
    assert len(left) > 10
    assert own.shuffled(3).digest == shuffled.digest != own.shuffled(4).digest

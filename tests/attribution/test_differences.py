"""Rivals of latent attribution: activation differences equal a plain computation."""

import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import load_model, score
from mechsurgery.attribution.differences import completion_difference, model_difference, random_scores
from mechsurgery.attribution.statistics import contrast_statistics, unit_activations
from mechsurgery.errors import MismatchError
from mechsurgery.prompts.pairs import CompletionPairs

SITE = "blocks.1.hook_resid_post"
PAIRS = CompletionPairs(((5, 6, 7), (8, 9)), ((11, 12), (13,)), ((14,), (15, 16, 17)))


def latents(model, dictionary, row):
    kept = {}
    with torch.no_grad(), model.hooks(fwd_hooks=[(SITE, lambda a, hook: kept.update(a=a[0]))]):
        model(torch.tensor([row]))
    return dictionary.encode(kept["a"])


@pytest.fixture(scope="module")
def dictionary(tiny_llama):
    return random_dictionary(SITE, tiny_llama.cfg.d_model, k=5)


def test_completions_in_one_model(tiny_llama, dictionary):
    expected = 0
    for prompt, bad, good in zip(PAIRS.prompts, PAIRS.bad, PAIRS.good):
        for sign, side in ((1, bad), (-1, good)):
            expected = expected + sign * latents(tiny_llama, dictionary, [*prompt, *side])[len(prompt) :].mean(0) / 2
    found = completion_difference(tiny_llama, dictionary, PAIRS, max_rows=1)
    torch.testing.assert_close(found.scores[dictionary.site], expected, atol=1e-5, rtol=1e-4)


def test_between_models(tiny_llama, dictionary, tiny_checkpoint):
    other = load_model(tiny_checkpoint("llama", rms_norm_eps=1e-3))
    expected = 0
    for prompt, bad in zip(PAIRS.prompts, PAIRS.bad):
        for sign, model in ((1, tiny_llama), (-1, other)):
            expected = expected + sign * latents(model, dictionary, [*prompt, *bad]).mean(0) / 2
    assert float(expected.abs().max()) > 1e-4
    found = model_difference(tiny_llama, other, dictionary, PAIRS)
    torch.testing.assert_close(found.scores[dictionary.site], expected, atol=1e-5, rtol=1e-4)
    assert float(model_difference(tiny_llama, tiny_llama, dictionary, PAIRS).scores[dictionary.site].abs().max()) == 0
    narrow = load_model(tiny_checkpoint("llama", hidden_size=32, num_attention_heads=4, num_key_value_heads=2))
    with pytest.raises(MismatchError, match="twin"):
        model_difference(tiny_llama, narrow, dictionary, PAIRS)


def test_the_contrast_on_latents_takes_every_rule(tiny_llama, dictionary, contrast):
    statistics = contrast_statistics(tiny_llama, contrast, at=[SITE, dictionary])
    sides = [
        unit_activations(tiny_llama, side, [dictionary])[dictionary.site]
        for side in (contrast.positive, contrast.negative)
    ]
    expected = sides[0].mean(0) - sides[1].mean(0)
    torch.testing.assert_close(score(statistics, "difference").scores[dictionary.site], expected, atol=1e-5, rtol=1e-4)
    assert set(score(statistics, "effect_size").widths) == {SITE, dictionary.site}


def test_chance_depends_on_its_seed_alone(tiny_llama, dictionary):
    first, again, other = (random_scores(tiny_llama, dictionary, seed=s).scores[dictionary.site] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

"""Attribution of completions: equal to a naive implementation, to finite differences, and to the exact effect."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from reference import naive_attribution
from scipy.stats import spearmanr
from support.dictionaries import random_dictionary, random_sae

from mechsurgery import Circuit, PromptSet, ablate, applied, load_model
from mechsurgery.attribution.gradient import (
    exact_removal,
    latent_attribution,
    mean_activation,
    mean_activations,
    neuron_attribution,
    pair_batches,
)
from mechsurgery.attribution.splice import mean_latents, spliced_attribution
from mechsurgery.errors import ActivationError, InputError, MismatchError, PromptError, SiteError
from mechsurgery.models.dictionaries import Dictionary, identity, latent_means
from mechsurgery.prompts.pairs import CompletionPairs

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return tuple(torch.randint(5, 300, (n,), generator=generator).tolist())

    return CompletionPairs(
        tuple(draw(4 + i) for i in range(5)), tuple(draw(1 + i % 3) for i in range(5)), tuple(draw(2) for _ in range(5))
    )


@pytest.fixture(scope="module")
def dictionary(tiny_llama):
    return random_dictionary(SITE, tiny_llama.cfg.d_model)


@pytest.fixture(scope="module")
def mean(tiny_llama, contrast):
    return mean_activation(tiny_llama, contrast.negative, SITE)


def triples(pairs):
    return list(zip(pairs.prompts, pairs.bad, pairs.good))


@pytest.mark.parametrize("positions", ["prompt", "completion", "all"])
@pytest.mark.parametrize("max_rows", [1, 32])
def test_it_equals_the_naive_implementation(tiny_llama, tiny_llama_dir, dictionary, pairs, mean, positions, max_rows):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    expected = naive_attribution.delta_attribution(plain, 1, triples(pairs), dictionary.decoder, mean, positions)
    found = latent_attribution(tiny_llama, dictionary, pairs, mean, positions=positions, max_rows=max_rows)
    torch.testing.assert_close(found.scores[dictionary.site].double(), expected, atol=1e-5, rtol=1e-3)
    assert expected.abs().max() > 1e-3
    assert found.top(k=5, by="positive").widths == {dictionary.site: 48}


def test_both_sides_alone_make_the_difference_and_a_mean_loss_is_divided(tiny_llama, dictionary, pairs, mean):
    bad, good, both = (
        latent_attribution(tiny_llama, dictionary, pairs, mean, side=side).scores[dictionary.site]
        for side in ("bad", "good", "difference")
    )
    torch.testing.assert_close(bad - good, both, atol=1e-6, rtol=1e-4)
    one = CompletionPairs(pairs.prompts[:1], (pairs.bad[2],), (pairs.good[2][:1],))
    assert (len(one.bad[0]), len(one.good[0])) == (3, 1)
    parts = {
        r: [
            latent_attribution(tiny_llama, dictionary, one, mean, side=s, reduction=r).scores[dictionary.site]
            for s in ("bad", "good")
        ]
        for r in ("sum", "mean")
    }
    torch.testing.assert_close(parts["mean"][0], parts["sum"][0] / 3, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(parts["mean"][1], parts["sum"][1], atol=1e-6, rtol=1e-4)


def _call(a, hook, change, n_prompt):
    return change(a, n_prompt)


@torch.no_grad()
def metric(model, pairs, hook=None):
    """L(bad) − L(good) summed over pairs, one completion at a time."""
    total = 0.0
    for prompt, bad, good in triples(pairs):
        for completion, sign in ((bad, 1), (good, -1)):
            n_prompt = len(prompt)
            own = [] if hook is None else [(SITE, partial(_call, change=hook, n_prompt=n_prompt))]
            with model.hooks(fwd_hooks=own):
                log_probs = model(torch.tensor([[*prompt, *completion]])).double()[0].log_softmax(-1)
            total -= sign * float(sum(log_probs[len(prompt) - 1 + i, t] for i, t in enumerate(completion)))
    return total


def test_it_is_the_slope_of_removing_the_direction(tiny_llama_dir, dictionary, pairs, mean):
    model = load_model(tiny_llama_dir).double()
    unit = dictionary.unit_decoder().double()
    one = CompletionPairs(pairs.prompts[:1], pairs.bad[:1], pairs.good[:1])
    found = latent_attribution(model, dictionary, one, mean, positions="prompt").scores[dictionary.site].double()
    n = len(one.prompts[0])
    for i in found.abs().topk(6).indices.tolist():

        def shifted(a, n_prompt, i=i, step=0.0):
            along = ((a - mean.double()) @ unit[i])[..., None] * unit[i]
            along[:, n_prompt:] = 0
            return a - step * along

        up, down = (metric(model, one, lambda a, k, s=s, i=i: shifted(a, k, i, s)) for s in (5e-3, -5e-3))
        assert (up - down) / 1e-2 / n == pytest.approx(float(found[i]), rel=1e-3)


def test_exact_removal_is_what_really_happens(tiny_llama, dictionary, pairs, mean):
    latents = [0, 7, 30]
    found = exact_removal(tiny_llama, dictionary, latents, pairs, mean, max_rows=8)
    unit = dictionary.unit_decoder()
    for value, i in zip(found, latents):
        total = 0.0
        for j in range(len(pairs)):
            one = CompletionPairs(pairs.prompts[j : j + 1], pairs.bad[j : j + 1], pairs.good[j : j + 1])

            def remove(a, n_prompt, i=i):
                out = a.clone()
                out[:, :n_prompt] -= ((a[:, :n_prompt] - mean) @ unit[i])[..., None] * unit[i]
                return out

            total += (metric(tiny_llama, one, remove) - metric(tiny_llama, one)) / len(one.prompts[0]) / len(pairs)
        assert float(value) == pytest.approx(total, abs=1e-5)
    everything = exact_removal(tiny_llama, dictionary, range(48), pairs, mean)
    scores = latent_attribution(tiny_llama, dictionary, pairs, mean).scores[dictionary.site]
    assert spearmanr(everything, scores).statistic > 0.7


def orthonormal(width, seed=0):
    """A dictionary whose latents are the coordinates in another orthonormal basis: no rectifier, no bias, no error."""
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]

    class Basis(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("W_dec", basis)
            self.cfg = SimpleNamespace(d_in=width, d_sae=width)

        def encode(self, x):
            return x @ basis.T

        def decode(self, z):
            return z @ basis

    return Dictionary(Basis(), SITE, "orthonormal")


def test_with_an_orthonormal_dictionary_the_two_forms_agree(tiny_llama, pairs, mean):
    dictionary = orthonormal(tiny_llama.cfg.d_model)
    first = latent_attribution(tiny_llama, dictionary, pairs, mean).scores[dictionary.site]
    reference = {dictionary.site: dictionary.encode(mean)}
    second, rest = spliced_attribution(tiny_llama, [dictionary], pairs, reference)
    torch.testing.assert_close(second.scores[dictionary.site], first, atol=1e-5, rtol=1e-3)
    assert abs(rest[SITE]) < 1e-4


def test_neurons_as_units_give_the_gradient_counterpart_of_cna(tiny_llama, pairs, contrast):
    site = "blocks.1.mlp.hook_post"
    reference = mean_activation(tiny_llama, contrast.negative, site)
    neurons = identity(tiny_llama, site)
    found = latent_attribution(tiny_llama, neurons, pairs, reference)
    assert list(found.scores) == [site]
    full = Dictionary(neurons.sae, site, "not called identity")  # the d × d route
    again = latent_attribution(tiny_llama, full, pairs, reference)
    torch.testing.assert_close(again.scores[full.site], found.scores[site], atol=1e-6, rtol=1e-4)
    exact = exact_removal(tiny_llama, neurons, range(tiny_llama.cfg.d_mlp), pairs, reference)
    assert spearmanr(exact, found.scores[site]).statistic > 0.9
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(tiny_llama.cfg.n_layers)]
    means = mean_activations(tiny_llama, contrast.negative, names)
    every = neuron_attribution(tiny_llama, pairs, means)
    assert list(every.scores) == names
    for name in names:
        one = latent_attribution(tiny_llama, identity(tiny_llama, name), pairs, means[name])
        torch.testing.assert_close(every.scores[name], one.scores[name], atol=1e-6, rtol=1e-4)
    with pytest.raises(InputError, match="mean_activations"):
        neuron_attribution(tiny_llama, pairs, {})
    with pytest.raises(InputError, match="mean has shape"):
        neuron_attribution(tiny_llama, pairs, {names[0]: torch.zeros(3)})


@pytest.mark.parametrize("k", [None, 8])
def test_integrated_gradients_add_up_to_the_metrics_difference(tiny_llama, pairs, k):
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model, k=k)
    one = CompletionPairs(pairs.prompts[:1], pairs.bad[:1], pairs.good[:1])
    reference = {dictionary.site: torch.rand(48, generator=torch.Generator().manual_seed(1))}
    scores, rest = spliced_attribution(tiny_llama, [dictionary], one, reference, steps=64)
    n = len(one.prompts[0])

    def baseline(a, n_prompt):
        out = a.clone()
        out[:, :n_prompt] = dictionary.decode(reference[dictionary.site].expand(1, n_prompt, -1))
        return out

    expected = metric(tiny_llama, one, baseline) - metric(tiny_llama, one)
    total = n * (float(scores.scores[dictionary.site].sum()) + rest[SITE])
    assert abs(expected) > 0.05
    assert total == pytest.approx(expected, rel=0.01)


def test_live_errors_give_the_real_models_gradient_and_frozen_ones_another(tiny_llama, pairs):
    early = random_dictionary("blocks.0.hook_resid_post", tiny_llama.cfg.d_model, seed=1)
    late = random_dictionary(SITE, tiny_llama.cfg.d_model, seed=2)
    alone, _ = spliced_attribution(tiny_llama, [early], pairs)
    live, _ = spliced_attribution(tiny_llama, [early, late], pairs, errors="live")
    frozen, _ = spliced_attribution(tiny_llama, [early, late], pairs, errors="frozen")
    torch.testing.assert_close(live.scores[early.site], alone.scores[early.site], atol=1e-6, rtol=1e-3)
    assert (frozen.scores[early.site] - alone.scores[early.site]).abs().max() > 1e-4
    just_late, _ = spliced_attribution(tiny_llama, [late], pairs)
    torch.testing.assert_close(live.scores[late.site], just_late.scores[late.site], atol=1e-6, rtol=1e-3)


def test_a_planted_latent_is_found_and_larger_activations_are_not(tiny_llama, contrast):
    """One latent's direction raises the bad token over the good one; others are more active and do nothing."""
    site = f"blocks.{tiny_llama.cfg.n_layers - 1}.hook_resid_post"
    bad, good, width = 20, 30, tiny_llama.cfg.d_model
    driver = tiny_llama.ln_final.w * (tiny_llama.unembed.W_U[:, bad] - tiny_llama.unembed.W_U[:, good])
    others = torch.randn(40, width, generator=torch.Generator().manual_seed(5))
    others -= (others @ driver)[:, None] * driver / driver.norm() ** 2
    decoder = torch.cat([others, driver[None]])
    decoder = decoder / decoder.norm(dim=1, keepdim=True)
    dictionary = Dictionary(random_sae(site, width, 41, W_dec=decoder, W_enc=decoder.T), site, "planted")
    pairs = CompletionPairs(((5, 6, 7, 8), (9, 10, 11)), ((bad,), (bad,)), ((good,), (good,)))
    mean = mean_activation(tiny_llama, contrast.negative, site)
    found = latent_attribution(tiny_llama, dictionary, pairs, mean)
    assert found.rank_of(dictionary.site, 40) == 0
    activation = latent_means(tiny_llama, dictionary, pairs.prompts)
    assert int((activation > activation[40]).sum()) > 0


def test_sums_and_means_of_latents_equal_a_plain_forward(tiny_llama, dictionary, contrast):
    from mechsurgery.prompts.chat import encode

    ids = encode(tiny_llama.tokenizer, contrast.negative)
    kept = {}
    with torch.no_grad():
        each = []
        for row in ids:
            with tiny_llama.hooks(fwd_hooks=[(SITE, lambda a, hook: kept.update(a=a))]):
                tiny_llama(torch.tensor([row]))
            each.append(dictionary.encode(kept["a"][0]))
    expected = torch.cat(each).mean(0)
    found = mean_latents(tiny_llama, dictionary, contrast.negative, max_rows=5)[dictionary.site]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    last = latent_means(tiny_llama, dictionary, ids, n_completion=[2] * len(ids))
    torch.testing.assert_close(last, sum(z[-2:].mean(0) for z in each) / len(each), atol=1e-5, rtol=1e-4)


def test_pairs_of_texts_are_tokenised_after_their_prompts(tiny_llama):
    prompts = PromptSet.from_texts(["How do I bake a cake?", "The fox"])
    pairs = CompletionPairs.from_texts(tiny_llama.tokenizer, prompts, ["Take flour.", "jumps"], ["No.", "sleeps"])
    from mechsurgery.prompts.chat import encode

    assert [list(p) for p in pairs.prompts] == encode(tiny_llama.tokenizer, prompts)
    assert tiny_llama.tokenizer.decode(pairs.bad[1]).strip() == "jumps"

    class Triples:
        """Tokens of three characters, so that a completion merges with a prompt of four."""

        chat_template = eos_token_id = None
        all_special_tokens = ()

        def encode(self, text, **_):
            return [sum(map(ord, text[i : i + 3])) for i in range(0, len(text), 3)]

        def decode(self, ids, **_):
            return "".join(map(chr, ids))

    with pytest.raises(PromptError, match="merges with the last token"):
        CompletionPairs.from_texts(Triples(), PromptSet.from_texts(["abcd"]), ["x"], ["g"], template="raw")
    assert len(CompletionPairs.from_texts(Triples(), PromptSet.from_texts(["abc"]), ["x"], ["g"], template="raw")) == 1
    with pytest.raises(PromptError, match="is empty"):
        CompletionPairs.from_texts(tiny_llama.tokenizer, prompts, ["a", " "], ["b", "c"])
    with pytest.raises(PromptError, match="same completion twice"):
        CompletionPairs(((5,),), ((6,),), ((6,),))
    with pytest.raises(PromptError, match="empty bad"):
        CompletionPairs(((5,),), ((),), ((6,),))


def test_what_does_not_fit_is_one_clear_error(tiny_llama, pairs, mean, dictionary):
    with pytest.raises(SiteError, match="no hook point"):
        latent_attribution(tiny_llama, random_dictionary("blocks.9.hook_resid_post", 64), pairs, mean)
    with pytest.raises(MismatchError, match="reads 16 numbers"):
        latent_attribution(tiny_llama, random_dictionary(SITE, 16), pairs, mean)
    with pytest.raises(InputError, match="mean has shape"):
        latent_attribution(tiny_llama, dictionary, pairs, mean[:3])
    circuit = Circuit.from_indices({dictionary.site: [1]}, {dictionary.site: 48})
    with pytest.raises(SiteError, match="scale_latents"), applied(tiny_llama, ablate(circuit)):
        pass
    with pytest.raises(InputError, match="only one"):
        spliced_attribution(tiny_llama, [dictionary, dictionary], pairs, steps=4)
    broken = (("blocks.2.hook_resid_post" if tiny_llama.cfg.n_layers > 2 else SITE), lambda a, hook: a * float("nan"))
    with pytest.raises(ActivationError, match="NaN"), tiny_llama.hooks(fwd_hooks=[broken]):
        latent_attribution(tiny_llama, dictionary, pairs, mean)
    assert all(not point.fwd_hooks for point in tiny_llama.hook_dict.values())
    assert not any(p.requires_grad for p in tiny_llama.parameters())


def test_batches_hold_every_completion_once(tiny_llama, pairs):
    rows = [(pair, float(sign)) for b in pair_batches(tiny_llama, pairs, 3) for pair, sign in zip(b.pairs, b.sign)]
    assert sorted(rows) == sorted([(i, s) for i in range(len(pairs)) for s in (1.0, -1.0)])

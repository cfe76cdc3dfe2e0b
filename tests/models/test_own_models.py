"""Models that load_model did not make: folded and centred ones of TransformerLens, bridges, and what is no model."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from support.dictionaries import random_dictionary, random_transcoder
from transformer_lens import HookedTransformer

from mechsurgery.adapters.saelens import load_sae
from mechsurgery.attribution import (
    contrast_statistics,
    fit_probe,
    latent_attribution,
    locate,
    mean_activations,
    neuron_attribution,
    pair_bootstrap,
    score,
    spliced_attribution,
    universal_neurons,
)
from mechsurgery.attribution.decode import neurons_along
from mechsurgery.directions import Direction
from mechsurgery.errors import InputError
from mechsurgery.inspector import decoder_tokens, inspect, inspect_latents, token_effects
from mechsurgery.intervention import applied, scale_latents
from mechsurgery.models import capture, load_model, sites, tokens
from mechsurgery.models.divergence import divergence
from mechsurgery.models.generate import generate
from mechsurgery.models.protocol import Model
from mechsurgery.prompts import CompletionPairs
from mechsurgery.units import Circuit

NEURONS, RESIDUAL = "blocks.1.mlp.hook_post", "blocks.1.hook_resid_post"
PAIRS = CompletionPairs(((5, 6, 7), (8, 9)), ((11, 12), (13,)), ((14,), (15, 16, 17)))
FOLDED = {"fold_ln": True, "center_writing_weights": True, "center_unembed": True, "fold_value_biases": True}


def own_model(plain, **processing):
    """The same weights as TransformerLens processes them: parameters require grad, end tokens are not recorded."""
    config = copy.deepcopy(plain.cfg)
    config.init_weights = False
    model = HookedTransformer(config, move_to_device=False)
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    model.load_and_process_state_dict(weights, refactor_factored_attn_matrices=False, **{**FOLDED, **processing})
    model.tokenizer = plain.tokenizer
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def both(request, tiny_checkpoint):
    plain = load_model(tiny_checkpoint(request.param))
    # Centring the unembedding changes what a soft cap does to the logits: it would be another model.
    return plain, own_model(plain, center_unembed=plain.cfg.output_logits_soft_cap <= 0)


def test_folding_leaves_no_gain_and_parameters_that_require_grad(both):
    plain, folded = both
    assert plain.cfg.normalization_type != folded.cfg.normalization_type
    assert not hasattr(folded.ln_final, "w")
    assert all(p.requires_grad for p in folded.parameters())
    assert not hasattr(folded, "stop_token_ids")


def test_locate_and_inspect_agree_with_the_unfolded_model(both, contrast):
    _, folded = both
    ours, theirs = (locate(model, contrast, fraction=0.05) for model in both)
    assert ours.members() == theirs.members()
    for rule in ("effect_size", "difference_write_norm", "difference_alignment"):
        assert locate(folded, contrast, rule=rule, fraction=0.05, universal=contrast.negative) is not None
    views = [inspect(model, (NEURONS, 3), contrast) for model in both]
    plainly = views[0].ranks.set_index("rule")["score"]["difference"]
    assert views[1].ranks.set_index("rule")["score"]["difference"] == pytest.approx(plainly, abs=1e-4)
    for ours, theirs in ((views[0].writes, views[1].writes), (views[0].reads, views[1].reads)):
        assert ours["token"].tolist() == theirs["token"].tolist()
    assert views[1].effect_at(0.0) == pytest.approx(views[0].effect_at(0.0), abs=1e-3)


def test_token_effects_are_the_same_once_the_gain_is_in_the_unembedding(both):
    ours, theirs = (token_effects(model, NEURONS, 3, top=12) for model in both)
    assert ours["token"].tolist() == theirs["token"].tolist()
    torch.testing.assert_close(torch.tensor(ours["logit"]), torch.tensor(theirs["logit"]), atol=1e-4, rtol=1e-3)


def test_latents_are_read_as_in_the_unfolded_model(tiny_llama, contrast):
    folded = own_model(tiny_llama, center_unembed=False)
    dictionary = random_dictionary(RESIDUAL, tiny_llama.cfg.d_model, k=3)
    ours, theirs = (decoder_tokens(model, dictionary, 5, top=6) for model in (tiny_llama, folded))
    assert ours["token"].tolist() == theirs["token"].tolist()
    torch.testing.assert_close(torch.tensor(ours["cosine"]), torch.tensor(theirs["cosine"]), atol=1e-4, rtol=1e-3)
    views = [inspect_latents(model, dictionary, [5], contrast.positive)[0] for model in (tiny_llama, folded)]
    assert views[0].facts["density"] == pytest.approx(views[1].facts["density"], abs=0.02)


def test_every_verb_works_and_agrees(both, contrast):
    plain, folded = both
    dictionary = random_dictionary(RESIDUAL, plain.cfg.d_model, k=3)
    ids = [[5, 6, 7, 8], [9, 10]]
    plainly, processed = (capture.next_token_logits(model, ids).log_softmax(-1) for model in both)
    torch.testing.assert_close(plainly, processed, atol=1e-4, rtol=1e-3)
    options = {"max_new_tokens": 4, "stop": ()}
    assert generate(plain, ids, **options) == generate(folded, ids, **options)
    assert generate(folded, ids, max_new_tokens=4) is not None
    kl = divergence(folded, ids, [[11], []], hooks=lambda rows: [])
    assert float(kl.abs().max()) < 1e-5
    ours, theirs = (universal_neurons(model, contrast.positive, fraction=0.05, share=0.5) for model in both)
    assert ours.members() == theirs.members()
    scores = []
    for model in both:
        means = mean_activations(model, contrast.negative, [NEURONS, RESIDUAL])
        one = neuron_attribution(model, PAIRS, {NEURONS: means[NEURONS]})
        scores.append(one.scores[NEURONS])
        latent_attribution(model, dictionary, PAIRS, means[RESIDUAL])
        spliced_attribution(model, [dictionary], PAIRS)
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-3)
    assert not scores[1].requires_grad
    direction = Direction({RESIDUAL: torch.randn(plain.cfg.d_model, generator=torch.Generator().manual_seed(0))})
    statistics = contrast_statistics(folded, contrast)
    for how in ("cosine", "contribution", "contrast"):
        assert len(neurons_along(folded, direction, how, statistics=statistics)) == 2 * folded.cfg.d_mlp
    assert pair_bootstrap(folded, contrast, resamples=3, fraction=0.05)["n"] == 3
    assert fit_probe(folded, contrast, [NEURONS], folds=2, strengths=[0.1]).auroc >= 0
    assert len(score(statistics, "welch_t")) == folded.cfg.n_layers * folded.cfg.d_mlp


def test_splices_begin_at_the_first_autoencoder_whatever_requires_grad(tiny_llama):
    trainable = own_model(
        tiny_llama, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    dictionary = random_dictionary(RESIDUAL, tiny_llama.cfg.d_model, k=3)
    frozen, required = (
        spliced_attribution(model, [dictionary], PAIRS, errors="frozen", steps=4)[0].scores[dictionary.site]
        for model in (tiny_llama, trainable)
    )
    torch.testing.assert_close(frozen, required, atol=1e-6, rtol=1e-4)


def test_autoencoders_in_float32_splice_into_a_model_in_bfloat16(tiny_llama_dir):
    model = load_model(tiny_llama_dir, dtype="bfloat16")
    dictionaries = [random_dictionary(f"blocks.{layer}.hook_resid_post", model.cfg.d_model) for layer in (1, 2)]
    for errors in ("live", "frozen"):
        scores, _ = spliced_attribution(model, dictionaries, PAIRS, errors=errors)
        assert all(torch.isfinite(value).all() for value in scores.scores.values())


def test_a_bridge_is_a_model_too(tiny_llama, tiny_llama_dir, contrast, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bridge = TransformerBridge.boot_transformers(str(tiny_llama_dir), device="cpu")
    logging.set_verbosity(verbosity)
    bridge.tokenizer = tiny_llama.tokenizer
    assert isinstance(bridge, Model)
    assert isinstance(tiny_llama, Model)
    assert locate(bridge, contrast, fraction=0.05).members() == locate(tiny_llama, contrast, fraction=0.05).members()
    ours, theirs = (token_effects(model, NEURONS, 3, top=12) for model in (tiny_llama, bridge))
    assert ours["token"].tolist() == theirs["token"].tolist()
    torch.testing.assert_close(sites.write_rows(tiny_llama, 2), sites.write_rows(bridge, 2))
    _transcoders_are_the_same(tiny_llama, bridge, tmp_path)


def _transcoders_are_the_same(model, bridge, path):
    """A bridge has the hook point of what an MLP reads; elsewhere the norm's gain is folded into the transcoder."""
    random_transcoder("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", model.cfg.d_model).sae.save_model(path)
    ids, places = torch.tensor([[5, 9, 11, 30]]), {"hook_name": "layers.1.mlp.input", "write_name": "layers.1.mlp"}
    found = []
    for one in (model, bridge):
        dictionary = load_sae(path, **places, model=one)
        circuit = Circuit.from_indices({dictionary.site: range(12)}, {dictionary.site: dictionary.n_latents})
        with torch.no_grad(), applied(one, scale_latents(circuit, dictionary)):
            found.append(one(ids))
    assert dictionary.hook_name == "blocks.1.mlp.hook_in"
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-3)


def test_a_model_without_tokenizer_takes_ids_and_says_what_texts_need(tiny_llama):
    model = copy.copy(tiny_llama)
    model.tokenizer = None
    with pytest.raises(InputError, match=r"no tokenizer; set model\.tokenizer"):
        tokens.tokenizer_of(model)
    assert generate(model, [[5, 6], [7]], max_new_tokens=2, stop=()) == generate(
        tiny_llama, [[5, 6], [7]], max_new_tokens=2, stop=()
    )


def test_a_transformers_model_gets_one_clear_sentence(tiny_llama_dir):
    """In a process of its own: the run-time type checker of the tests would answer first."""
    code = textwrap.dedent("""
        import sys, transformers
        from mechsurgery import ContrastSet, PromptSet, locate
        from mechsurgery.attribution import fit_probe, mean_activations, universal_neurons
        from mechsurgery.errors import InputError, SiteError
        from mechsurgery.inspector import inspect
        model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
        contrast = ContrastSet.from_lists(["a", "b"], ["c", "d"])
        site = "blocks.1.mlp.hook_post"
        for call in (
            lambda: locate(model, contrast),
            lambda: inspect(model, (site, 1), contrast),
            lambda: universal_neurons(model, contrast.positive),
            lambda: mean_activations(model, contrast.positive, [site]),
            lambda: fit_probe(model, contrast, [site]),
        ):
            try:
                call()
            except InputError as error:
                assert "LlamaForCausalLM" in str(error) and "load_model" in str(error), error
            else:
                raise AssertionError("no error")
    """)
    command = [sys.executable, "-W", "ignore", "-c", code, str(tiny_llama_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

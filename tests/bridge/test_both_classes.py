"""A TransformerBridge gives what the HookedTransformer of its checkpoint gives, whatever is asked of it.

TransformerLens 4 has the bridge alone: there it is held against numbers that a HookedTransformer gave, which
`python tests/bridge/record.py` writes again.
"""

import json
from pathlib import Path

import pytest
import torch
from support import verbs

import mechsurgery as ms
from mechsurgery.attribution import gates
from mechsurgery.intervention import applied, bake, export, shift_weights
from mechsurgery.intervention.weights import shifted_weights
from mechsurgery.models import load_model, sites
from mechsurgery.models.boot import _has_hooked_transformer
from mechsurgery.training import LoRA, finetune

RECORD = json.loads((Path(__file__).parent / "hooked.json").read_text(encoding="utf-8"))
HOOKED = _has_hooked_transformer()
only_hooked = pytest.mark.skipif(not HOOKED, reason="TransformerLens 4 has no HookedTransformer")
FAMILIES = {"llama": tuple(verbs.VERBS), **dict.fromkeys(("qwen2", "gemma2", "gpt2", "neox"), verbs.CHIEF)}
CASES = [(family, verb) for family, names in FAMILIES.items() for verb in names]


@pytest.fixture(scope="module")
def directory(tiny_checkpoint):
    def find(family):
        return tiny_checkpoint(family, **({"n_layer": 2} if family == "gpt2" else {"num_hidden_layers": 2}))

    return find


@pytest.fixture(scope="module")
def of(directory):
    """`of(family, bridge)`: a model of a family, loaded once."""
    made = {}

    def load(family, bridge):
        if (family, bridge) not in made:
            made[family, bridge] = load_model(directory(family), bridge=bridge)
        return made[family, bridge]

    return load


def test_blocks_that_are_run_again_give_the_same_on_a_bridge_and_leave_it_as_it_was(of, monkeypatch):
    model = of("llama", True)
    expected, calls = verbs.gradients(model), []
    again = gates.checkpoint
    monkeypatch.setattr(gates, "checkpoint", lambda *args, **how: calls.append(1) or again(*args, **how))
    with monkeypatch.context() as patch:
        patch.setattr(gates, "HELD", 0)
        verbs.assert_same(verbs.gradients(model), expected)
    n = len(calls)
    assert n >= 2 * model.cfg.n_layers
    verbs.assert_same(verbs.gradients(model), expected)
    assert len(calls) == n


@pytest.mark.parametrize(("family", "verb"), CASES)
def test_a_verb_gives_the_same_on_both(family, verb, of):
    bridge = of(family, True)
    assert type(bridge).__name__ == "TransformerBridge"
    found, recorded = verbs.VERBS[verb](bridge), RECORD[family][verb]
    verbs.assert_same(verbs.short(found), recorded, tolerance=1e-3)
    if HOOKED:
        expected = verbs.VERBS[verb](of(family, False))
        verbs.assert_same(found, expected)
        verbs.assert_same(verbs.short(expected), recorded, tolerance=1e-3)


@only_hooked
@pytest.mark.parametrize("family", [*FAMILIES, "llama3", "qwen3", "mistral"])
def test_parameters_and_fingerprint_are_the_same(family, of, tiny_checkpoint):
    hooked, bridge = of(family, False), of(family, True)
    ours = dict(hooked.named_parameters())
    theirs = sites.parameters(bridge)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sites.fingerprint(hooked) == sites.fingerprint(bridge)
    with torch.no_grad():
        weight = sites.weight(bridge, "blocks.1.mlp.W_out")
        before = weight.value.clone()
        weight.write(before + 1e-3)
        assert sites.fingerprint(bridge) != sites.fingerprint(hooked)
        weight.write(before)
    assert sites.fingerprint(bridge) == sites.fingerprint(hooked)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_delta_goes_from_either_class_to_the_other_and_to_disk(family, of, directory, tmp_path):
    maker, user = of(family, not HOOKED), load_model(directory(family), bridge=True)
    delta = finetune(maker, verbs.EXAMPLES, "blocks" if family == "llama" else LoRA(rank=2), recipe=verbs.RECIPE)
    run = shift_weights(delta).at(-1.5)
    expected, plain = verbs.logits_of(maker, run), verbs.logits_of(user)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(verbs.logits_of(user, run), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(verbs.logits_of(user), plain)
    with shifted_weights(user, delta, 0.3) as weights, weights.off():
        assert torch.equal(verbs.logits_of(user), plain)
    found = load_model(export(directory(family), run, tmp_path / "out", progress=False), bridge=True)
    torch.testing.assert_close(verbs.logits_of(found), expected, atol=1e-4, rtol=1e-4)
    bake(user, run)
    torch.testing.assert_close(verbs.logits_of(user), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_what_is_baked_into_a_bridge_is_what_its_hooks_do(family, directory):
    """Biases that the architecture lacks, and embeddings that are tied, are the bridge's own then."""
    d = 48
    steered = ms.steer(
        ms.Direction({"blocks.0.hook_attn_out": verbs.vector(d), "blocks.1.hook_mlp_out": verbs.vector(d, 1)})
    )
    for make in (lambda model: ms.project_out(model, verbs.vector(d)), lambda model: steered, _scaled):
        model = load_model(directory(family), bridge=True)
        run = make(model)
        expected = verbs.logits_of(model, run)
        if family == "gemma2" and make is not _scaled:
            with pytest.raises(ms.errors.InputError, match="normalises"):
                bake(model, run)
            continue
        bake(model, run)
        torch.testing.assert_close(verbs.logits_of(model), expected, atol=1e-4, rtol=1e-4)


def _scaled(model):
    return ms.scale(verbs.circuit_of(model, heads=False), 0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_that_the_user_booted_runs_everything(family, directory, of):
    """Not loaded here: its parameters ask for gradients, and its configuration counts the tokenizer's words."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    from transformer_lens.model_bridge import TransformerBridge

    booted = TransformerBridge.boot_transformers(str(directory(family)), device="cpu")
    logging.set_verbosity(verbosity)
    booted.tokenizer = of(family, True).tokenizer
    assert booted.cfg.d_vocab < sites.vocabulary(booted)
    loaded = of(family, True)
    for verb in ("forward", "interventions", "generated"):
        verbs.assert_same(verbs.VERBS[verb](booted), verbs.VERBS[verb](loaded))
    delta = finetune(booted, verbs.EXAMPLES, "mlp", recipe=verbs.RECIPE)
    assert delta.norm() > 0
    assert all(p.requires_grad for p in booted.parameters() if p.is_leaf) or family == "gpt2"


def test_nothing_of_a_fine_tune_or_a_hook_stays_on_a_bridge(of):
    bridge = of("llama", True)
    names = [name for name, _ in bridge.named_parameters()]
    circuit = verbs.circuit_of(bridge)
    finetune(bridge, verbs.EXAMPLES, circuit, recipe=verbs.RECIPE)
    with pytest.raises(RuntimeError, match="on purpose"), applied(bridge, ms.ablate(circuit)):
        raise RuntimeError("on purpose")
    assert [name for name, _ in bridge.named_parameters() if not name.endswith("bias")] == [
        name for name in names if not name.endswith("bias")
    ]
    assert not any(point.fwd_hooks for point in bridge.hook_dict.values())
    assert not any(parameter.requires_grad for parameter in bridge.parameters())


@pytest.mark.skipif(not HOOKED, reason="SAELens needs TransformerLens 3")
@pytest.mark.parametrize("family", ["llama", "neox"])
def test_latents_are_the_same_on_both(family, of):
    from support.dictionaries import random_dictionary

    from mechsurgery.attribution.splice import spliced_attribution
    from mechsurgery.intervention import scale_latents
    from mechsurgery.prompts import CompletionPairs

    pairs = CompletionPairs(((5, 9, 11), (8, 3)), ((30, 40), (77, 21, 8)), ((33, 12, 7), (4,)))
    found = []
    for bridge in (False, True):
        model = of(family, bridge)
        both = [random_dictionary(f"blocks.{layer}.hook_resid_post", model.cfg.d_model, seed=layer) for layer in (0, 1)]
        scores, rest = spliced_attribution(model, both, pairs)
        circuit = ms.Circuit.from_indices({both[0].site: range(12)}, {both[0].site: both[0].n_latents})
        changed = verbs.logits_of(model, scale_latents(circuit, both[0], 2.0))
        found.append({"scores": verbs.scores_of(scores), "errors": list(rest.values()), "logits": changed})
    verbs.assert_same(found[1], found[0])

"""Architectures that only a bridge has, held against transformers: logits, answers, edits, what leaves to disk."""

import logging

import pytest
import torch
import transformers
from support import verbs

import mechsurgery as ms
from mechsurgery.errors import UnsupportedModelError
from mechsurgery.intervention import bake, export, shift_weights
from mechsurgery.models import generate, load_model, sites
from mechsurgery.models.boot import _has_hooked_transformer
from mechsurgery.training import finetune

FAMILIES = ("olmo2", "phi3", "gemma", "granite", "yarn", "dynamic", "longrope")


@pytest.fixture(scope="module")
def directory(tiny_checkpoint):
    return lambda family: tiny_checkpoint(family, num_hidden_layers=2)


@pytest.fixture(scope="module")
def of(directory):
    made = {}

    def load(family):
        if family not in made:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(directory(family), attn_implementation="eager")
            made[family] = load_model(directory(family)), theirs.eval()
        return made[family]

    return load


@torch.no_grad()
def alone(theirs, ids=verbs.IDS):
    """Transformers' logits after each prompt, one at a time."""
    return torch.cat([theirs(torch.tensor([row])).logits[:, -1] for row in ids])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_answers_are_those_of_transformers(family, of):
    model, theirs = of(family)
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(verbs.logits_of(model), alone(theirs), atol=1e-4, rtol=1e-4)
    expected = []
    for row in verbs.IDS:
        new = theirs.generate(torch.tensor([row]), max_new_tokens=8, do_sample=False, pad_token_id=0)[0, len(row) :]
        expected.append([token for token in new.tolist() if token != 2])
    assert generate.generate(model, verbs.IDS, max_new_tokens=8) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_that_are_put_out_are_gone_in_transformers_too(family, of):
    model, theirs = of(family)
    circuit = verbs.circuit_of(model, heads=False)
    handles = []
    for layer, (index, _) in zip((0, 1), circuit.units.values()):

        def put_out(module, args, index=index):
            changed = args[0].clone()
            changed[..., index] *= -0.5
            return (changed,)

        handles.append(theirs.model.layers[layer].mlp.down_proj.register_forward_pre_hook(put_out))
    expected = alone(theirs)
    for handle in handles:
        handle.remove()
    assert (expected - alone(theirs)).abs().max() > 1e-3
    torch.testing.assert_close(verbs.logits_of(model, ms.scale(circuit, -0.5)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_leaves_as_a_checkpoint(family, of, directory, tmp_path):
    """All weights of attention and MLPs, with multipliers on top, in memory and on disk."""
    model, _ = of(family)
    before = verbs.logits_of(model)
    delta = finetune(model, verbs.EXAMPLES, "blocks", recipe=verbs.RECIPE)
    assert delta.info["curve"][-1]["loss"] < delta.info["curve"][0]["loss"]
    run = shift_weights(delta) + ms.scale(verbs.circuit_of(model, heads=False), 0.5)
    expected = verbs.logits_of(model, run)
    assert (expected - before).abs().max() > 1e-3
    assert torch.equal(verbs.logits_of(model), before)
    out = export(directory(family), run, tmp_path / "out", progress=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
    torch.testing.assert_close(alone(theirs), expected, atol=1e-4, rtol=1e-4)
    baked = load_model(directory(family))
    bake(baked, run)
    torch.testing.assert_close(verbs.logits_of(baked), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["olmo2", "granite"])
def test_what_units_write_is_what_reaches_the_stream(family, of):
    """One neuron more: the stream after the block moves along its row, up to the scale of a norm between."""
    model, _ = of(family)
    site, ids = "blocks.1.mlp.hook_post", torch.tensor([verbs.IDS[0]])
    with torch.no_grad():
        before = sites.run(model, ids, torch.ones_like(ids), 2)
        more = torch.zeros(model.cfg.d_mlp)
        more[5] = 1e-2
        from mechsurgery.intervention import applied

        with applied(model, ms.steer(ms.Direction({site: more}))):
            moved = (sites.run(model, ids, torch.ones_like(ids), 2) - before)[0, -1]
    row = sites.write_rows(model, 1)[5]
    cosine = float(torch.cosine_similarity(moved, row, dim=0))
    assert cosine > (0.999 if family == "granite" else 0.8)
    if family == "granite":
        torch.testing.assert_close(moved, 1e-2 * row, atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("family", ["olmo2", "granite"])
def test_a_write_that_is_changed_afterwards_is_not_baked(family, of):
    model, _ = of(family)
    run = ms.project_out(model, verbs.vector(model.cfg.d_model))
    with pytest.raises(ms.errors.InputError, match="normalises what attention and MLP write, or scales it"):
        bake(model, run)


def test_which_class_is_chosen_and_what_is_refused(directory, caplog):
    with caplog.at_level(logging.INFO, logger="mechsurgery"):
        load_model(directory("olmo2"))
    assert "Olmo2ForCausalLM can only be a TransformerBridge" in caplog.text
    for family in ("olmo2", "yarn"):
        with pytest.raises(UnsupportedModelError, match="TransformerBridge|rotary scaling"):
            load_model(directory(family), bridge=False)
    chosen = type(load_model(directory("llama"))).__name__
    assert chosen == ("HookedTransformer" if _has_hooked_transformer() else "TransformerBridge")


def test_the_tokenizer_is_the_checkpoints_own(directory):
    model = load_model(directory("llama"), bridge=True)
    own = transformers.AutoTokenizer.from_pretrained(directory("llama"))
    assert model.tokenizer("how are you")["input_ids"] == own("how are you")["input_ids"]
    assert model.tokenizer.chat_template == own.chat_template

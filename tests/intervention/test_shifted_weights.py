"""Weight differences as interventions: exact both ways, undone whatever happens, refused on another model."""

import pytest
import torch

from mechsurgery.delta_parts import Dense, LowRank, Rows
from mechsurgery.deltas import WeightDelta, difference
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.intervention import ablate, applied, shift_weights, with_controls
from mechsurgery.intervention.weights import shifted_weights
from mechsurgery.models import load_model, sites
from mechsurgery.units import Circuit

IDS = torch.tensor([[5, 6, 7, 8, 30]])


def random(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def delta_of(model, **info):
    """One difference of each form."""
    d, n, heads, d_head = model.cfg.d_model, model.cfg.d_mlp, model.cfg.n_heads, model.cfg.d_head
    parts = {
        "blocks.0.mlp.W_in": Rows(torch.tensor([1, 7]), random(d, 2), 1, n),
        "blocks.1.attn.W_Q": LowRank(random(d, 2), random(2, heads * d_head), (heads, d, d_head)),
        "blocks.2.mlp.W_out": Dense(random(n, d)),
        "ln_final.w": Dense(random(d)),
    }
    return WeightDelta(parts, "mine", info)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def logits(model):
    return model(IDS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strength", [1.0, -2.0, 0.0])
def test_weights_are_the_original_plus_strength_times_the_difference(tiny_llama_dir, dtype, strength):
    model = load_model(tiny_llama_dir, dtype=dtype)
    delta, before, plain = delta_of(model), weights(model), logits(model)
    with applied(model, shift_weights(delta).at(strength)):
        for name, weight in model.named_parameters():
            expected = before[name]
            if name in delta.parts:
                expected = (expected.double() + strength * delta.parts[name].dense().double()).to(expected.dtype)
            assert torch.equal(weight, expected), name
        assert torch.equal(logits(model), plain) == (strength == 0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_weights_are_undone_whatever_happens_inside(tiny_llama_dir, error):
    model = load_model(tiny_llama_dir, dtype="bfloat16")
    before, run = weights(model), shift_weights(delta_of(model)).at(3)

    def same():
        return all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())

    def fail_in_the_body():
        with applied(model, run):
            assert not same()
            raise error

    def fail_with_the_original_weights():
        with shifted_weights(model, run.delta, 1.0) as shifted:
            shifted.set(-0.5)
            with shifted.off():
                assert same()
                raise error

    for fail in (fail_in_the_body, fail_with_the_original_weights):
        with pytest.raises(error):
            fail()
        assert same()


def test_a_difference_of_two_models_gives_one_from_the_other(tiny_llama_dir, tiny_checkpoint):
    model = load_model(tiny_llama_dir)
    other = load_model(tiny_llama_dir)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(random(*weight.shape))
    delta = difference(weights(other), weights(model), fingerprint=sites.fingerprint(model))
    with applied(model, shift_weights(delta)):
        assert sites.fingerprint(model) == sites.fingerprint(other)
        assert torch.equal(logits(model), logits(other))


def test_weights_and_neurons_together(tiny_llama):
    site = sites.neuron_sites(tiny_llama)[2]
    circuit = Circuit.from_indices({site: [0, 3]}, {site: tiny_llama.cfg.d_mlp})
    delta = delta_of(tiny_llama)
    both = shift_weights(delta).at(2) + ablate(circuit).at(0.5) + shift_weights(delta).at(-0.5)
    for strength in (1.0, -0.5):
        with applied(tiny_llama, both.at(strength)):
            together = logits(tiny_llama)
        with (
            shifted_weights(tiny_llama, delta, 1.5 * strength),
            applied(tiny_llama, ablate(circuit).at(0.5 * strength)),
        ):
            torch.testing.assert_close(logits(tiny_llama), together, atol=1e-5, rtol=1e-4)
    assert both.kind == "weights + scaling + weights"
    assert both.at(0).weights_key is None


def test_what_stands_for_weights_and_where_they_push(tiny_llama):
    delta = delta_of(tiny_llama)
    runs = shift_weights(delta).at([-1, 0, 2])
    assert [run.toward for run in runs] == [-1, 0, 2]
    assert [run.toward for run in shift_weights(delta, pushes=-1).at([-1, 2])] == [1, -2]
    assert shift_weights(delta, pushes=0).toward is None
    assert len({run.weights_key for run in runs}) == 3
    assert runs[1].weights_key is None
    assert runs[0].digest == runs[2].digest == shift_weights(delta.named("other")).digest
    assert runs[0].m is None
    with pytest.raises(InputError, match="no multiplier"):
        runs[0].at(m=0)
    _, control = with_controls(runs[2:], 1, seed=4)
    assert (control.control_of, control.strength, control.kind, control.toward) == ("mine", 2.0, "weights", 2)
    assert control.delta.norms() == pytest.approx(delta.norms(), rel=1e-4)
    assert control.digest == shift_weights(delta.random_like(4)).digest


def test_what_was_made_for_other_weights_is_refused(tiny_llama_dir, tiny_llama, tiny_checkpoint):
    half = load_model(tiny_llama_dir, dtype="bfloat16")
    wide = delta_of(tiny_llama, fingerprint=sites.fingerprint(tiny_llama), dtype="float32")
    with applied(tiny_llama, shift_weights(wide)):
        pass
    narrow = load_model(tiny_checkpoint("llama", intermediate_size=64))
    retrained = load_model(tiny_checkpoint("llama", rms_norm_eps=1e-3))
    shallow = WeightDelta({"blocks.77.mlp.W_in": Dense(torch.ones(2))})
    for model, delta, reason in (
        (half, wide, "was made on float32 weights, this model has bfloat16; load it with dtype='float32'"),
        (retrained, wide, "load the model it was trained from"),
        (narrow, wide, r"blocks.0.mlp.W_in has shape \(48, 64\) in this model and \(48, 112\) in delta 'mine'"),
        (tiny_llama, shallow, "has no parameter 'blocks.77.mlp.W_in'"),
        (tiny_llama, WeightDelta({"blocks.0.attn.W_K": Dense(torch.ones(4, 48, 12))}), "no parameter"),
    ):
        before = weights(model)
        with pytest.raises(MismatchError, match=reason), applied(model, shift_weights(delta)):
            pass
        assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())

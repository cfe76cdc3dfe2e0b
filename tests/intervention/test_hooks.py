"""Interventions: what they do to logits equals doing it to the weights, and nothing stays behind."""

import pytest
import torch

from mechsurgery import Circuit, ablate, applied, bake, baked, scale
from mechsurgery.errors import InputError, MismatchError, SiteError
from mechsurgery.intervention import row_hooks
from mechsurgery.models import load_model, sites


@pytest.fixture(scope="module")
def circuit(tiny_llama):
    """A few neurons in each layer."""
    names = sites.neuron_sites(tiny_llama)
    widths = {site: sites.width(tiny_llama, site) for site in names}
    return Circuit.from_indices({site: range(i, widths[site], 3) for i, site in enumerate(names)}, widths)


@pytest.fixture(scope="module")
def batch(tiny_llama):
    ids = torch.randint(5, tiny_llama.cfg.d_vocab, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


@torch.no_grad()
def logits(model, batch):
    return model(batch[0], attention_mask=batch[1])


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def no_trace(model, before):
    assert all(not point.fwd_hooks and not point.bwd_hooks for point in model.hook_dict.values())
    assert all(not point._forward_hooks for point in model.hook_dict.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("m", [0.0, 0.5, 1.5, -1.0])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_hooks_equal_scaling_the_rows_of_w_out(family, m, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family))
    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    circuit = Circuit.from_indices({site: range(0, widths[site], 2) for site in names}, widths)
    ids = torch.randint(5, model.cfg.d_vocab, (2, 6), generator=torch.Generator().manual_seed(0))
    batch = (ids, torch.ones_like(ids))
    plain = logits(model, batch)
    with applied(model, scale(circuit, m)):
        hooked = logits(model, batch)
    with baked(model, circuit, m):
        in_weights = logits(model, batch)
    torch.testing.assert_close(hooked, in_weights, atol=2e-5, rtol=1e-4)
    assert (hooked - plain).abs().max() > 1e-3
    assert torch.equal(logits(model, batch), plain)


def test_ablation_equals_zeroing_the_rows_by_hand(tiny_llama_dir, circuit, batch):
    model = load_model(tiny_llama_dir)
    with applied(model, ablate(circuit)):
        hooked = logits(model, batch)
    with torch.no_grad():
        for layer, (indices, _) in enumerate(circuit.units.values()):
            model.blocks[layer].mlp.W_out[indices] = 0
    torch.testing.assert_close(logits(model, batch), hooked, atol=1e-5, rtol=1e-4)


def test_strength_zero_is_the_identity_bit_for_bit(tiny_llama, circuit, batch):
    plain = logits(tiny_llama, batch)
    with applied(tiny_llama, ablate(circuit).at(0)):
        assert torch.equal(logits(tiny_llama, batch), plain)
    with applied(tiny_llama, scale(circuit, 1.0)):
        assert torch.equal(logits(tiny_llama, batch), plain)


def test_strength_runs_from_one_to_m(tiny_llama, circuit, batch):
    for strength, m in ((0.75, 0.25), (-1.0, 2.0), (1.5, -0.5)):
        with applied(tiny_llama, ablate(circuit).at(strength)):
            by_strength = logits(tiny_llama, batch)
        with applied(tiny_llama, scale(circuit, m)):
            torch.testing.assert_close(by_strength, logits(tiny_llama, batch), atol=1e-5, rtol=1e-4)


def test_m_may_differ_per_neuron(tiny_llama, batch):
    site = sites.neuron_sites(tiny_llama)[0]
    width = sites.width(tiny_llama, site)
    both = Circuit.from_indices({site: [3, 8]}, {site: width})
    a, b = (Circuit.from_indices({site: [i]}, {site: width}) for i in (3, 8))
    with applied(tiny_llama, scale(both, {site: [0.0, 2.0]})):
        together = logits(tiny_llama, batch)
    with applied(tiny_llama, ablate(a) + scale(b, 2.0)):
        torch.testing.assert_close(logits(tiny_llama, batch), together, atol=1e-6, rtol=1e-5)


def test_rows_of_one_batch_carry_their_own_strength_and_intervention(tiny_llama, circuit, batch):
    full, other = ablate(circuit), ablate(circuit.random_like(0))
    mixed = row_hooks([full.at(1), None, other.at(0.5)], [1.0, 0.0, 0.5])
    with tiny_llama.hooks(fwd_hooks=mixed):
        together = logits(tiny_llama, batch)
    for row, run in enumerate((full, full.at(0), other.at(0.5))):
        with applied(tiny_llama, run):
            alone = logits(tiny_llama, (batch[0][row : row + 1], batch[1][row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_sweep_shares_one_set_of_hooks(circuit):
    full = ablate(circuit)
    assert len(row_hooks([full.at(s) for s in (0.1, 0.5, 1.0)], [0.1, 0.5, 1.0])) == len(circuit.units)


def test_combined_interventions_keep_their_own_strengths(tiny_llama, circuit, batch):
    one, two = circuit, circuit.random_like(1)
    combined = ablate(one).at(0.5) + ablate(two).at(-1.0)
    with applied(tiny_llama, combined):
        together = logits(tiny_llama, batch)
    with applied(tiny_llama, scale(one, 0.5)), applied(tiny_llama, scale(two, 2.0)):
        torch.testing.assert_close(logits(tiny_llama, batch), together, atol=1e-5, rtol=1e-4)


def test_nothing_stays_behind_also_after_an_exception(tiny_llama, circuit, batch):
    before = state(tiny_llama)

    def fail(x, hook):
        raise RuntimeError("in the middle")

    for context in (applied(tiny_llama, ablate(circuit)), baked(tiny_llama, circuit)):
        with pytest.raises(RuntimeError, match="in the middle"), context:
            tiny_llama.run_with_hooks(batch[0], fwd_hooks=[("blocks.1.hook_resid_post", fail)])
        no_trace(tiny_llama, before)


def test_a_hook_of_the_users_own_survives(tiny_llama, circuit, batch):
    seen = []
    tiny_llama.hook_dict["blocks.0.hook_resid_post"].add_hook(lambda x, hook: seen.append(1))
    try:
        with applied(tiny_llama, ablate(circuit)):
            logits(tiny_llama, batch)
        logits(tiny_llama, batch)
        assert len(seen) == 2
    finally:
        tiny_llama.reset_hooks()


def test_bake_is_permanent(tiny_llama_dir, circuit, batch):
    model = load_model(tiny_llama_dir)
    with applied(model, ablate(circuit)):
        hooked = logits(model, batch)
    bake(model, circuit, 0.0)
    torch.testing.assert_close(logits(model, batch), hooked, atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_the_model_is_refused_before_it_runs(tiny_llama, circuit):
    wide = Circuit.from_indices({"blocks.0.mlp.hook_post": [999]}, {"blocks.0.mlp.hook_post": 1000})
    with pytest.raises(MismatchError, match="locate the circuit again"), applied(tiny_llama, ablate(wide)):
        pass
    deep = Circuit.from_indices({"blocks.77.mlp.hook_post": [0]}, {"blocks.77.mlp.hook_post": 4})
    with pytest.raises(SiteError, match=r"blocks\.77"), applied(tiny_llama, ablate(deep)):
        pass
    with pytest.raises(InputError, match="no units"):
        ablate(Circuit({}, circuit.widths))
    with pytest.raises(InputError, match="one each"):
        scale(circuit, {site: [1.0, 2.0] for site in circuit.units})
    with pytest.raises(InputError, match="not finite"):
        scale(circuit, float("nan"))
    residual = Circuit.from_indices({"blocks.0.hook_resid_post": [0]}, {"blocks.0.hook_resid_post": 4})
    with pytest.raises(InputError, match="W_out"):
        bake(tiny_llama, residual)

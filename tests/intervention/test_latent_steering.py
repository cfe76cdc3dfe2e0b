"""Interventions on latents: scaling is a change of the reconstruction, steering adds what it says."""

import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery.errors import InputError, MismatchError, SiteError
from mechsurgery.intervention import ablate, applied, scale_latents, steer_latents
from mechsurgery.models import load_model
from mechsurgery.models.capture import median_norm
from mechsurgery.models.dictionaries import identity
from mechsurgery.units import Circuit

SITE = "blocks.1.hook_resid_post"
IDS = torch.tensor([[5, 9, 11, 30, 7]])


@pytest.fixture(scope="module")
def dictionary(tiny_llama):
    return random_dictionary(SITE, tiny_llama.cfg.d_model)


def residual(model):
    kept = {}
    with torch.no_grad(), model.hooks(fwd_hooks=[(SITE, lambda a, hook: kept.update(a=a.clone()))]):
        model(IDS)
    return kept["a"]


@pytest.mark.parametrize("m", [0.0, -1.0, 3.0])
def test_scaling_changes_the_reconstruction_and_keeps_the_error(tiny_llama, dictionary, m):
    before = residual(tiny_llama)
    z = dictionary.encode(before)
    active = (z > 0).any(0).any(0).nonzero()[:3, 0].tolist()
    assert active
    circuit = Circuit.from_indices({dictionary.site: active}, {dictionary.site: dictionary.n_latents})
    expected = before.clone()
    for latent in active:
        expected += (m - 1) * z[..., latent, None] * dictionary.decoder[latent]
    with applied(tiny_llama, scale_latents(circuit, dictionary, m)):
        torch.testing.assert_close(residual(tiny_llama), expected, atol=1e-5, rtol=1e-4)
    with applied(tiny_llama, scale_latents(circuit, dictionary, m).at(0.0)):
        torch.testing.assert_close(residual(tiny_llama), before, atol=0, rtol=0)
    torch.testing.assert_close(residual(tiny_llama), before, atol=0, rtol=0)


def test_latents_of_the_identity_are_neurons(tiny_llama):
    site = "blocks.0.mlp.hook_post"
    own = identity(tiny_llama, site)
    latents = Circuit.from_indices({own.site: [1, 4]}, {own.site: own.n_latents})
    with torch.no_grad():
        with applied(tiny_llama, scale_latents(latents, own)):
            found = tiny_llama(IDS)
        with applied(tiny_llama, ablate(Circuit.from_indices({site: [1, 4]}, {site: own.n_latents}))):
            expected = tiny_llama(IDS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_steering_adds_a_fraction_of_the_norm_along_the_unit_decoder(tiny_llama, dictionary):
    before = residual(tiny_llama)
    norm = median_norm(tiny_llama, IDS.tolist(), SITE)
    assert norm == pytest.approx(float(before.norm(dim=-1).median()), rel=1e-5)
    (run,) = steer_latents(dictionary, [7], norm)
    unit = dictionary.decoder[7] / dictionary.decoder[7].norm()
    with applied(tiny_llama, run.at(-0.4)):
        torch.testing.assert_close(residual(tiny_llama), before - 0.4 * norm * unit, atol=1e-4, rtol=1e-4)


def test_wrong_use_gets_one_clear_error(tiny_llama, dictionary, tiny_checkpoint):
    neurons = Circuit.from_indices({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 8})
    with pytest.raises(SiteError, match="none at"):
        scale_latents(neurons, dictionary)
    narrow = Circuit.from_indices({dictionary.site: [1]}, {dictionary.site: 5})
    with pytest.raises(MismatchError):
        scale_latents(narrow, dictionary)
    with pytest.raises(SiteError, match="latents 0 to 47"):
        steer_latents(dictionary, [48], 1.0)
    with pytest.raises(InputError, match="median_norm"):
        steer_latents(dictionary, [1], 0.0)
    other = load_model(tiny_checkpoint("llama", hidden_size=32, num_attention_heads=4, num_key_value_heads=2))
    (run,) = steer_latents(dictionary, [1], 1.0)
    with pytest.raises(MismatchError, match="units at"), applied(other, run):
        pass

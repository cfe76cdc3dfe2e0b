"""Decoding a probe into the residual stream, and neurons matched to it: planted directions are found."""

import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import Direction, load_model
from mechsurgery.attribution import contrast_statistics
from mechsurgery.attribution.decode import decoded_direction, neurons_along
from mechsurgery.attribution.probes import fit_probe
from mechsurgery.attribution.statistics import unit_activations
from mechsurgery.errors import InputError, SiteError
from mechsurgery.models import sites
from mechsurgery.models.sites import write_rows

SITE = "blocks.1.hook_resid_post"


def test_a_neurons_own_write_row_finds_the_neuron(tiny_llama):
    row = tiny_llama.blocks[0].mlp.W_out[5].detach()
    scores = neurons_along(tiny_llama, Direction({SITE: 3 * row}))
    assert scores.rank_of("blocks.0.mlp.hook_post", 5) == 0
    assert scores.score_of("blocks.0.mlp.hook_post", 5) == pytest.approx(1, abs=1e-5)
    assert list(scores.scores) == sites.neuron_sites(tiny_llama, [0, 1])
    assert list(neurons_along(tiny_llama, Direction({"blocks.1.hook_resid_pre": row})).scores) == [
        "blocks.0.mlp.hook_post"
    ]


def test_contrast_is_what_each_neuron_adds_along_the_direction(tiny_llama, contrast):
    vector = torch.randn(tiny_llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    statistics = contrast_statistics(tiny_llama, contrast)
    found = neurons_along(tiny_llama, Direction({SITE: vector}), "contrast", statistics=statistics)
    out = [f"blocks.{layer}.hook_mlp_out" for layer in (0, 1)]
    sides = [unit_activations(tiny_llama, side, out) for side in (contrast.positive, contrast.negative)]
    for layer, name in enumerate(out):
        added = (sides[0][name].mean(0) - sides[1][name].mean(0)) @ (vector / vector.norm())
        assert float(found.scores[f"blocks.{layer}.mlp.hook_post"].sum()) == pytest.approx(float(added), abs=1e-4)
    typical = neurons_along(tiny_llama, Direction({SITE: vector}), "contribution", statistics=statistics)
    site = "blocks.0.mlp.hook_post"
    values = torch.cat([unit_activations(tiny_llama, s, [site])[site] for s in (contrast.positive, contrast.negative)])
    expected = (write_rows(tiny_llama, 0) @ (vector / vector.norm())) * values.pow(2).mean(0).sqrt()
    torch.testing.assert_close(typical.scores[site], expected.detach(), atol=1e-5, rtol=1e-4)


def test_the_gain_of_a_norm_after_the_mlp_is_accounted_for(tiny_checkpoint):
    model = load_model(tiny_checkpoint("gemma2"))
    with torch.no_grad():
        model.blocks[0].ln2_post.w.copy_(torch.rand(model.cfg.d_model, generator=torch.Generator().manual_seed(3)))
    kept = {}
    site = "blocks.0.mlp.hook_post"
    ids = torch.tensor([[5, 6, 7]])

    def only(activation, hook):
        activation[:] = 0
        activation[..., 4] = 2.0
        return activation

    hooks = [(site, only), ("blocks.0.hook_mlp_out", lambda a, hook: kept.update(a=a[0, -1]))]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(ids)
    written = write_rows(model, 0)[4]
    assert float(torch.cosine_similarity(kept["a"], written, dim=0)) == pytest.approx(1, abs=1e-5)
    assert float(torch.cosine_similarity(kept["a"], model.blocks[0].mlp.W_out[4], dim=0)) < 0.99
    scores = neurons_along(model, Direction({"blocks.0.hook_resid_post": written}))
    assert scores.rank_of(site, 4) == 0


def test_a_probe_on_latents_is_decoded_by_its_formula(tiny_llama, contrast):
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model)
    probe = fit_probe(tiny_llama, contrast, [dictionary, SITE], folds=3)
    found = decoded_direction(probe, dictionary)
    expected = sum(
        float(w / s) * row
        for w, s, row in zip(probe.weights[dictionary.site], probe.scales[dictionary.site], dictionary.decoder)
    )
    torch.testing.assert_close(found.at(SITE), expected, atol=1e-4, rtol=1e-3)
    plain = decoded_direction(probe, site=SITE).at(SITE)
    torch.testing.assert_close(plain, probe.weights[SITE] / probe.scales[SITE])
    with pytest.raises(SiteError, match="dictionary="):
        decoded_direction(probe)


def test_bad_input(tiny_llama):
    direction = Direction({SITE: torch.ones(tiny_llama.cfg.d_model)})
    with pytest.raises(InputError, match="statistics="):
        neurons_along(tiny_llama, direction, "contrast")
    with pytest.raises(InputError, match="no layer"):
        neurons_along(tiny_llama, Direction({"blocks.0.hook_resid_pre": torch.ones(tiny_llama.cfg.d_model)}))
    with pytest.raises(InputError, match="single vector"):
        neurons_along(tiny_llama, Direction({SITE: torch.ones(4), "blocks.0.hook_resid_post": torch.ones(4)}))

"""Taking a direction out, and its affine variant, equal the papers' own way on a plain transformers model."""

import pytest
import torch
from reference import refusal_direction
from support.changes import IDS
from transformers import AutoModelForCausalLM

from mechsurgery.attribution import contrast_statistics
from mechsurgery.errors import InputError, SiteError
from mechsurgery.intervention import applied, bake, project_out
from mechsurgery.models import load_model, sites
from mechsurgery.organisms.registry import organism_path
from mechsurgery.prompts import load_contrast
from mechsurgery.prompts.chat import encode

FAMILIES = ["llama", "qwen2", "gpt2", "neox"]
MASK = torch.ones_like(IDS)


def vector(d, seed=0):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def means_of(model, seed=1):
    d = model.cfg.d_model
    return {site: vector(d, seed + i) for i, site in enumerate(sites.residual_writes(model))}


def plain(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def under(model, run):
    with applied(model, run):
        return model(IDS, attention_mask=MASK)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_direction_is_taken_out_as_in_the_papers_code(family, tiny_checkpoint):
    model, reference = load_model(tiny_checkpoint(family)), plain(tiny_checkpoint(family))
    own = vector(model.cfg.d_model)
    expected = refusal_direction.ablated_logits(reference, own, IDS, MASK)
    torch.testing.assert_close(under(model, project_out(model, own)), expected, atol=1e-4, rtol=1e-4)
    assert (expected - reference(input_ids=IDS).logits).abs().max() > 1e-2


def test_the_directions_of_an_organism_are_those_of_the_papers_code():
    model, reference = load_model("organism/instruct"), plain(organism_path("organism/instruct"))
    contrast = load_contrast("organism/refusal", split="tuned", n=12)
    sides = [encode(model.tokenizer, list(side)) for side in (contrast.positive, contrast.negative)]
    candidates = refusal_direction.candidates(reference, *sides)
    residual = sites.residual_sites(model)
    statistics = contrast_statistics(model, contrast, at=residual)
    assert candidates[0].norm() < 1e-6  # the last token is the same in every prompt
    for found, site in zip(candidates[1:], residual):
        torch.testing.assert_close(statistics.difference(site), found, atol=1e-3, rtol=1e-4)
    run = project_out(model, statistics.difference(residual[2]))
    expected = refusal_direction.ablated_logits(reference, candidates[3], IDS % 100, MASK)
    with torch.no_grad(), applied(model, run):
        found = model(IDS % 100, attention_mask=MASK)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_affine_variant_puts_every_projection_at_the_means(family, tiny_checkpoint):
    model, reference = load_model(tiny_checkpoint(family)), plain(tiny_checkpoint(family))
    own, means = vector(model.cfg.d_model), means_of(model)
    level = {site: float(mean @ (own / own.norm())) for site, mean in means.items()}
    layers = range(model.cfg.n_layers)
    levels = [(level[f"blocks.{i}.hook_attn_out"], level[f"blocks.{i}.hook_mlp_out"]) for i in layers]
    before = [sum(v for site, v in level.items() if "embed" in site) + sum(map(sum, levels[:i])) for i in layers]
    expected = refusal_direction.affine_logits(reference, own, before, levels, IDS, MASK)
    run = project_out(model, own, to=means)
    torch.testing.assert_close(under(model, run), expected, atol=1e-4, rtol=1e-4)
    assert (expected - under(model, project_out(model, own))).abs().max() > 1e-2
    bake(model, run)
    torch.testing.assert_close(model(IDS, attention_mask=MASK), expected, atol=1e-4, rtol=1e-4)


def test_the_streams_projection_is_that_of_the_side_the_means_are_of(tiny_llama, contrast):
    writes, residual = sites.residual_writes(tiny_llama), sites.residual_sites(tiny_llama)
    statistics = contrast_statistics(tiny_llama, contrast, at=[*writes, *residual])
    own = statistics.difference(residual[1]).float()
    unit, seen = own / own.norm(), {}
    run = project_out(tiny_llama, own, to=statistics.negative.mean)
    watch = [(site, lambda a, hook: seen.update({hook.name: a @ unit})) for site in residual]
    with torch.no_grad(), applied(tiny_llama, run), tiny_llama.hooks(fwd_hooks=watch):
        tiny_llama(IDS, attention_mask=MASK)
    for site in residual:
        expected = (statistics.negative.mean[site].float() @ unit).expand(2, 7)
        torch.testing.assert_close(seen[site], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, -0.5])
def test_strength_moves_a_share_of_the_way(strength, tiny_llama):
    means, own = means_of(tiny_llama), vector(tiny_llama.cfg.d_model)
    unit = own / own.norm()
    run = project_out(tiny_llama, own, to=means).at(strength)
    assert run.toward == -strength
    a = vector(2 * 3 * own.numel(), 7).reshape(2, 3, -1)
    for (site, hook), mean in zip(run.hooks(), means.values()):
        expected = a + strength * ((mean @ unit) - a @ unit)[..., None] * unit
        torch.testing.assert_close(hook(a), expected, atol=1e-5, rtol=1e-5, msg=site)


def test_controls_and_digests_depend_on_the_means(tiny_llama):
    means, own = means_of(tiny_llama), vector(tiny_llama.cfg.d_model)
    run = project_out(tiny_llama, own, to=means)
    others = [project_out(tiny_llama, own), project_out(tiny_llama, own, to=means_of(tiny_llama, 50))]
    assert len({one.digest for one in (run, *others)}) == 3
    assert run.digest == project_out(tiny_llama, 2 * own, to=means).digest
    random = run.random_like(3)
    drawn = {edit.site: edit.change for edit in random.edits}
    assert random.control_of == run.name
    assert random.digest != run.digest
    for site, change in drawn.items():
        assert change.level == pytest.approx(float(means[site] @ change.unit), abs=1e-4)


def test_means_that_do_not_fit_are_one_clear_error(tiny_llama):
    own, means = vector(tiny_llama.cfg.d_model), means_of(tiny_llama)
    first = next(iter(means))
    with pytest.raises(SiteError, match="to has no mean for .*residual_writes"):
        project_out(tiny_llama, own, to={first: means[first]})
    for wrong in (torch.ones(3), torch.full_like(own, torch.nan)):
        with pytest.raises(InputError, match="must be .* finite numbers"):
            project_out(tiny_llama, own, to=means | {first: wrong})

"""Rival interventions: each equals an independent computation, and rows of one batch may mix them all."""

import pytest
import torch
from support.changes import every

from mechsurgery.directions import Direction
from mechsurgery.errors import InputError, SiteError
from mechsurgery.intervention import (
    Custom,
    Edit,
    Intervention,
    ablate,
    applied,
    mean_ablate,
    project_out,
    row_hooks,
    scale,
    steer,
)
from mechsurgery.models import load_model, sites
from mechsurgery.units import Circuit

FAMILIES = ["llama", "gemma2", "gpt2", "neox", "qwen2"]


def vector(model, seed=0):
    return torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))


def batch_of(model, rows=2):
    ids = torch.randint(5, model.cfg.d_vocab, (rows, 6), generator=torch.Generator().manual_seed(1))
    return ids, torch.ones_like(ids)


@torch.no_grad()
def logits(model, batch, hooks=()):
    with model.hooks(fwd_hooks=list(hooks)):
        return model(batch[0], attention_mask=batch[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_along_a_projected_direction(family, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family))
    unit = vector(model) / vector(model).norm()
    seen = {}

    def look(activation, hook):
        seen[hook.name] = (activation @ unit).abs().max()

    watch = [(site, look) for site in sites.residual_sites(model)]
    plain = logits(model, batch_of(model), watch)
    before = dict(seen)
    with applied(model, project_out(model, vector(model))):
        ablated = logits(model, batch_of(model), watch)
    assert all(before[site] > 1e-3 for site in before)
    assert all(seen[site] < 1e-5 for site in seen)
    assert (ablated - plain).abs().max() > 1e-4


def test_projection_equals_projected_weights(tiny_llama_dir):
    model, by_hand = load_model(tiny_llama_dir), load_model(tiny_llama_dir)
    unit = vector(model) / vector(model).norm()
    with torch.no_grad():
        for weight in (by_hand.embed.W_E, *(w for b in by_hand.blocks for w in (b.attn.W_O, b.mlp.W_out))):
            weight -= (weight @ unit)[..., None] * unit
    with applied(model, project_out(model, vector(model))):
        hooked = logits(model, batch_of(model))
    torch.testing.assert_close(hooked, logits(by_hand, batch_of(model)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "strength"), [(1.0, -1.0), (1.0, 0.5), (2.0, 1.5)])
def test_steering_equals_adding_in_plain_transformers(length, strength, tiny_llama_dir):
    from transformers import AutoModelForCausalLM

    model = load_model(tiny_llama_dir)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    own = vector(model)

    def add(module, args, output):
        first = output[0] if isinstance(output, tuple) else output
        moved = first + length * strength * own
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = plain.model.layers[0].register_forward_hook(add)
    ids, mask = batch_of(model)
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask).logits
    handle.remove()
    direction = Direction({sites.residual_sites(model, [0])[0]: own})
    run = steer(direction, length).at(strength)
    assert run.toward == strength
    with applied(model, run):
        torch.testing.assert_close(logits(model, (ids, mask)), expected, atol=1e-4, rtol=1e-4)


def test_mean_ablation_puts_the_mean_there(tiny_llama):
    circuit = every(3, tiny_llama)
    means = {site: torch.linspace(-1, 1, width) for site, width in circuit.widths.items()}
    seen = {}
    watch = [(site, lambda a, hook: seen.update({hook.name: a.clone()})) for site in circuit.widths]
    plain = logits(tiny_llama, batch_of(tiny_llama), watch)
    before = {site: value.clone() for site, value in seen.items()}
    with applied(tiny_llama, mean_ablate(circuit, means)):
        logits(tiny_llama, batch_of(tiny_llama), watch)
    for site, (indices, _) in circuit.units.items():
        torch.testing.assert_close(seen[site][..., indices], means[site][indices].expand(2, 6, -1))
    first = next(iter(circuit.widths))
    others = torch.ones(circuit.widths[first], dtype=torch.bool)
    others[circuit.units[first][0]] = False
    assert torch.equal(seen[first][..., others], before[first][..., others])
    with applied(tiny_llama, mean_ablate(circuit, means).at(0)):
        assert torch.equal(logits(tiny_llama, batch_of(tiny_llama)), plain)


def everything(model):
    """One intervention of every kind, and a sum of several at one hook point."""
    circuit = every(3, model)
    means = {site: torch.full((width,), 0.3) for site, width in circuit.widths.items()}
    residual = sites.residual_sites(model)
    steering = steer(Direction({site: vector(model, i) for i, site in enumerate(residual)}))
    mlp = steer(Direction({site: vector(model, 9) for site in sites.mlp_out_sites(model)}), 1.0)
    projection = project_out(model, vector(model, 5))
    affine = project_out(model, vector(model, 6), to={s: vector(model, 7) for s in sites.residual_writes(model)})
    cube = Intervention(
        "cube", (Edit(residual[0], Custom(lambda a, s: a + s * a**3, "cube"), model.cfg.d_model),), kind="custom"
    )
    return [
        None,
        ablate(circuit),
        ablate(circuit).at(-1),
        scale(circuit, 0.5),
        mean_ablate(circuit, means),
        steering,
        steering.at(0.5),
        mlp.at(0.7),
        projection,
        projection.at(0.4),
        affine,
        affine.at(0.4),
        affine + projection.at(0.3),
        cube,
        cube.at(0.0),
        steering.at(0.0),
        projection + mlp.at(0.5) + projection.at(0.5),
        mlp + cube + steering + ablate(circuit).at(0.5),
    ]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_rows_with_any_interventions_equal_each_alone(family, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family))
    runs = everything(model)
    ids, mask = batch_of(model, 1)
    mixed = logits(
        model,
        (ids.repeat(len(runs), 1), mask.repeat(len(runs), 1)),
        row_hooks(runs, [0.0 if run is None else run.strength for run in runs]),
    )
    plain = logits(model, (ids, mask))
    for row, run in enumerate(runs):
        alone = plain if run is None else logits(model, (ids, mask), run.hooks())
        torch.testing.assert_close(mixed[row], alone[0], atol=2e-5, rtol=1e-4)
        if run is not None:
            moved = (alone - plain).abs().max()
            assert moved == 0 if run.strength == 0 else moved > 1e-4, run.name


def test_a_sum_is_done_in_order(tiny_llama):
    site = sites.residual_sites(tiny_llama)[0]
    add = steer(Direction({site: torch.ones(tiny_llama.cfg.d_model)}), 1.0)
    double = Intervention("double", (Edit(site, Custom(lambda a, s: a * (1 + s), "double"), tiny_llama.cfg.d_model),))
    a = torch.zeros(1, 2, tiny_llama.cfg.d_model)
    for run, expected in ((add + double, 2.0), (double + add, 1.0), (add + add + double + add.at(0.5), 4.5)):
        ((_, hook),) = run.hooks()
        torch.testing.assert_close(hook(a), torch.full_like(a, expected))


def test_scaling_after_adding_scales_what_was_added(tiny_llama):
    """Neighbouring affine edits are joined into one; the joined one must keep their order."""
    site = sites.neuron_sites(tiny_llama)[0]
    width = tiny_llama.cfg.d_mlp
    add = steer(Direction({site: torch.ones(width)}), 1.0)
    half = scale(Circuit.from_indices({site: range(width)}, {site: width}), 0.5)
    a = torch.full((1, 2, width), 3.0)
    for run, expected in ((add + half, 2.0), (half + add, 2.5), (half + add + half, 1.25)):
        ((_, hook),) = run.hooks()
        torch.testing.assert_close(hook(a), torch.full_like(a, expected))


@pytest.mark.parametrize("strength", [0.25, 1.0, -0.5])
def test_a_projection_takes_away_its_strength_of_the_component(tiny_llama, strength):
    unit = vector(tiny_llama) / vector(tiny_llama).norm()
    a = torch.randn(2, 3, tiny_llama.cfg.d_model, generator=torch.Generator().manual_seed(7))
    for _, hook in project_out(tiny_llama, vector(tiny_llama)).at(strength).hooks()[:2]:
        torch.testing.assert_close(hook(a), a - strength * (a @ unit)[..., None] * unit, atol=1e-5, rtol=1e-5)


def test_the_digest_stands_for_what_an_intervention_does(tiny_llama):
    runs = [run for run in everything(tiny_llama) if run is not None]
    again = [run for run in everything(tiny_llama) if run is not None]
    assert [run.digest for run in runs] == [run.digest for run in again]
    assert len({run.digest for run in runs}) == len({id(run.edits) for run in runs}) - 1  # ablate stands twice
    assert runs[0].named("other", "kind").at(3).digest == runs[0].digest
    direction = Direction({sites.residual_sites(tiny_llama)[0]: vector(tiny_llama)})
    assert steer(direction).digest != steer(direction, 1.1).digest


def test_what_removes_pushes_against_a_behaviour(tiny_llama):
    circuit = every(3, tiny_llama)
    means = {site: torch.zeros(width) for site, width in circuit.widths.items()}
    for run in (project_out(tiny_llama, vector(tiny_llama)), mean_ablate(circuit, means)):
        assert [at.toward for at in run.at([1, 0, -0.5])] == [-1, 0, 0.5]
        assert run.m is None


def test_bad_input_is_one_clear_error(tiny_llama):
    circuit = every(3, tiny_llama)
    with pytest.raises(InputError, match="zero or infinite vector"):
        project_out(tiny_llama, torch.zeros(tiny_llama.cfg.d_model))
    with pytest.raises(InputError, match="3 numbers in a residual stream"):
        project_out(tiny_llama, torch.ones(3))
    for length in (0.0, -1.0, float("inf")):
        with pytest.raises(InputError, match="the sign belongs to the strength|is not finite"):
            steer(Direction({"blocks.0.hook_resid_post": torch.ones(4)}), length)
    with pytest.raises(SiteError, match="means has nothing for"):
        mean_ablate(circuit, {})
    with pytest.raises(InputError, match="2 means for"):
        mean_ablate(circuit, {site: torch.zeros(2) for site in circuit.widths})

"""Interventions on neurons equal changed weights; strengths, sums and controls mean what they say; nothing stays."""

from dataclasses import replace
from inspect import unwrap

import numpy as np
import pytest
import torch

from mechsurgery.digests import digest_of
from mechsurgery.directions import Direction
from mechsurgery.errors import InputError, MismatchError, SiteError
from mechsurgery.intervention import (
    BASELINE,
    ablate,
    applied,
    mean_ablate,
    project_out,
    row_hooks,
    scale,
    steer,
    with_controls,
)
from mechsurgery.intervention.changes import Project
from mechsurgery.models import load_model, sites
from mechsurgery.units import Circuit


@pytest.fixture(scope="module")
def circuit(tiny_llama):
    """A few neurons in each layer."""
    names = sites.neuron_sites(tiny_llama)
    widths = {site: sites.width(tiny_llama, site) for site in names}
    return Circuit.from_indices({site: range(i, widths[site], 3) for i, site in enumerate(names)}, widths, name="some")


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
def test_scaling_equals_scaling_the_rows_of_w_out(family, m, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family))
    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    circuit = Circuit.from_indices({site: range(0, widths[site], 2) for site in names}, widths)
    ids = torch.randint(5, model.cfg.d_vocab, (2, 6), generator=torch.Generator().manual_seed(0))
    batch = (ids, torch.ones_like(ids))
    plain = logits(model, batch)
    with applied(model, scale(circuit, m)):
        hooked = logits(model, batch)
    assert torch.equal(logits(model, batch), plain)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.W_out[::2] *= m
    torch.testing.assert_close(hooked, logits(model, batch), atol=2e-5, rtol=1e-4)
    assert (hooked - plain).abs().max() > 1e-3


def test_strength_zero_is_the_identity_bit_for_bit(tiny_llama, circuit, batch):
    plain = logits(tiny_llama, batch)
    for run in (ablate(circuit).at(0), scale(circuit, 1.0), BASELINE, ablate(circuit).at(0) + ablate(circuit).at(0)):
        with applied(tiny_llama, run):
            assert torch.equal(logits(tiny_llama, batch), plain)


def test_strength_runs_from_one_to_m(tiny_llama, circuit, batch):
    for strength, m in ((0.75, 0.25), (-1.0, 2.0), (1.5, -0.5)):
        with applied(tiny_llama, ablate(circuit).at(strength)):
            by_strength = logits(tiny_llama, batch)
        with applied(tiny_llama, scale(circuit, m)):
            torch.testing.assert_close(by_strength, logits(tiny_llama, batch), atol=1e-5, rtol=1e-4)


def test_strength_m_and_the_push_belong_together(circuit):
    """Ablating and halving push against a behaviour, doubling toward it; the same m is the same push."""
    sweep = ablate(circuit).at(m=[0, 0.5, 1, 2])
    assert [run.strength for run in sweep] == [1.0, 0.5, 0.0, -1.0]
    assert [run.m for run in sweep] == [0, 0.5, 1, 2]
    assert [run.toward for run in sweep] == [-1, -0.5, 0, 1]
    assert [run.m for run in ablate(circuit).at([1, 0.5])] == [0, 0.5]
    assert [run.strength for run in scale(circuit, 0.5).at(m=[0, 0.75, 1.5])] == [2.0, 0.5, -1.0]
    doubled = scale(circuit, 2.0)
    assert (doubled.strength, doubled.m, doubled.toward) == (1.0, 2.0, 1.0)
    assert doubled.at(m=0.0).toward < 0
    assert (BASELINE.strength, BASELINE.m, BASELINE.toward, BASELINE.kind) == (0.0, 1.0, 0.0, "baseline")
    each = scale(circuit, {site: [0.5] * len(i) for site, (i, _) in circuit.units.items()})
    assert (each.m, each.toward, each.at(0).toward) == (None, None, 0.0)
    for wrong in ({"m": 0.5}, {}, {"strength": 1, "m": 0.5}):
        with pytest.raises(InputError, match="give"):
            each.at(**wrong)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="not finite"):
            ablate(circuit).at(wrong)


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
    with tiny_llama.hooks(fwd_hooks=full.hooks(torch.tensor([1.0, 0.0, 0.5]))):
        same = logits(tiny_llama, batch)
    for row, run in enumerate((full, full.at(0), other.at(0.5))):
        with applied(tiny_llama, run):
            alone = logits(tiny_llama, (batch[0][row : row + 1], batch[1][row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
        if row < 2:
            torch.testing.assert_close(same[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_sweep_shares_one_set_of_hooks(circuit):
    sweep = ablate(circuit).at([0.1, 0.5, 1.0])
    assert len(row_hooks(sweep, [run.strength for run in sweep])) == len(circuit.units)


def test_combined_interventions_keep_their_own_strengths(tiny_llama, circuit, batch):
    one, two = circuit, circuit.random_like(1)
    combined = ablate(one).at(0.5) + ablate(two).at(-1.0)
    for strength in (1.0, 0.5):
        with applied(tiny_llama, combined.at(strength)):
            together = logits(tiny_llama, batch)
        with applied(tiny_llama, scale(one, 1 - 0.5 * strength)), applied(tiny_llama, scale(two, 1 + strength)):
            torch.testing.assert_close(logits(tiny_llama, batch), together, atol=1e-5, rtol=1e-4)


def test_a_sum_pushes_where_both_parts_do(circuit):
    against, toward = ablate(circuit), ablate(circuit).at(-1)
    assert (against + against).toward == -1
    assert (toward + toward).toward == 1
    assert (against + toward).toward is None
    summed = against + steer(Direction({"blocks.0.hook_resid_post": torch.ones(4)}, "v"))
    assert (summed.name, summed.kind, summed.m) == ("some + v", "scaling + steering", None)
    assert (against + against).kind == "scaling"
    assert [part["name"] for part in summed.info["parts"]] == ["some", "v"]


def test_controls_are_as_large_and_say_whose_they_are(tiny_llama, circuit):
    direction = Direction({"blocks.1.hook_resid_post": 3 * torch.ones(tiny_llama.cfg.d_model)}, "v")
    means = {site: torch.ones(width) for site, width in circuit.widths.items()}
    one = ablate(circuit).at(0.5)
    for run in (
        one,
        mean_ablate(circuit, means),
        steer(direction, 2.0).at(-1),
        project_out(tiny_llama, torch.ones(48)),
    ):
        control, again, other = run.random_like(0), run.random_like(0), run.random_like(1)
        assert control.digest == again.digest != other.digest
        assert control.digest != run.digest
        assert (control.strength, control.kind, control.control_of) == (run.strength, run.kind, run.name)
        assert len({run.name, control.name, other.name}) == 3
        assert [edit.site for edit in control.edits] == [edit.site for edit in run.edits]
    for ours, theirs in zip(one.edits, one.random_like(0).edits):
        assert len(ours.change.indices) == len(theirs.change.indices)
    (added,) = steer(direction, 2.0).random_like(0).edits
    assert float(added.change.offset.norm()) == pytest.approx(2 * 3 * 48**0.5, rel=1e-5)
    summed = (one + steer(direction)).at(0.5).random_like(3)
    assert (summed.strength, summed.control_of, len(summed.edits)) == (0.5, "some + v", len(one.edits) + 1)
    each = scale(circuit, {site: [0.5] * len(i) for site, (i, _) in circuit.units.items()})
    drawn = each.random_like(0).edits[0].change
    assert drawn.m.tolist() == [0.5] * len(drawn.indices)
    with pytest.raises(InputError, match="no matched random control"):
        BASELINE.random_like(0)
    runs = with_controls([one, each], 2, seed=5)
    assert [run.control_of for run in runs] == [None, "some", "some", None, "some", "some"]
    assert runs[1].digest == one.random_like(5).digest


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_behind_also_after_an_exception(tiny_llama, circuit, batch, error):
    before = state(tiny_llama)

    def fail(x, hook):
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"), applied(tiny_llama, ablate(circuit)):
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
    with pytest.raises(InputError, match="gives nothing for"):
        scale(circuit, {})
    with pytest.raises(InputError, match="not finite"):
        scale(circuit, float("nan"))


def test_a_digest_tells_apart_what_has_the_same_numbers_in_other_places(circuit):
    site = "blocks.0.mlp.hook_post"
    two = Circuit.from_indices({site: [0, 1]}, circuit.widths, name="two")
    means = torch.zeros(circuit.widths[site])
    means[0] = 2.0
    assert scale(two, {site: [0.0, 2.0]}).digest != mean_ablate(two, {site: means}).digest
    assert digest_of(Project(torch.ones(4, dtype=torch.bfloat16))) != digest_of(
        Project(torch.ones(8, dtype=torch.bfloat16))
    )


def test_a_control_is_of_the_kind_and_pushes_the_way_of_what_it_controls():
    direction = Direction({"blocks.1.hook_resid_post": torch.ones(48)}, "v")
    latent = replace(steer(direction).named("latent 3", "latents"), pushes=-1).at(2)
    control = latent.random_like(0)
    assert (control.kind, control.toward, control.control_of) == ("latents", -2.0, "latent 3")


def test_the_parts_of_a_sums_control_are_drawn_apart():
    """One seed for all gave one random vector as many times, longer than what it is to be compared with."""
    generator = torch.Generator().manual_seed(0)
    directions = [Direction({"blocks.1.hook_resid_post": torch.randn(48, generator=generator)}, n) for n in "abc"]
    a, b, c = map(steer, directions)
    vectors = [edit.change.offset for edit in (a + b + c).random_like(0).edits]
    for i, first in enumerate(vectors):
        for second in vectors[i + 1 :]:
            assert abs(torch.cosine_similarity(first, second, dim=0)) < 0.5


def test_a_part_that_does_nothing_has_no_say_in_which_way_a_sum_pushes(circuit):
    steering = steer(Direction({"blocks.1.hook_resid_post": torch.ones(48)}, "v"))
    removal = ablate(circuit)
    for nothing in (BASELINE, removal.at(0), removal.at(-0.0)):
        assert (nothing + steering).toward == (steering + nothing).toward == 1
    assert (removal + steering).toward is None
    assert (removal.at(-1) + steering).toward == 1
    assert (removal + steering.at(-0.5)).at(2).toward == -2


def test_numbers_may_be_numpys_or_torchs(circuit, tiny_llama):
    """Such a multiplier used to count as one for each unit, without controls; such a layer was said not to exist."""
    for number in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        run = scale(circuit, number)
        assert (run.full_m, run.pushes) == (0.5, -1)
        assert run.random_like(0).m == 0.5
    # Without the tests' run-time type check, which users do not have.
    assert unwrap(sites.check_layers)(tiny_llama, np.arange(2)) == [0, 1]

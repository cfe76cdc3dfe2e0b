"""Baked and exported weights give the logits of the running intervention; what cannot be weights is refused."""

import pytest
import torch
from support.changes import IDS, every, random
from support.dictionaries import random_dictionary

from mechsurgery.deltas import Dense, LowRank, Rows, WeightDelta
from mechsurgery.directions import Direction
from mechsurgery.errors import ActivationError, InputError, MismatchError
from mechsurgery.intervention import (
    BASELINE,
    Custom,
    Edit,
    Intervention,
    ablate,
    applied,
    bake,
    export,
    mean_ablate,
    project_out,
    scale,
    scale_latents,
    shift_weights,
    steer,
)
from mechsurgery.models import load_model, sites
from mechsurgery.models.streaming import Checkpoint, stream_difference
from mechsurgery.units import Circuit

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "neox"]
NORMED = ["gemma2", "gemma3"]


def difference_of(model):
    """Whole, low-rank and row differences of weights of every kind, of those a checkpoint has."""
    parts = {}
    for seed, (name, weight) in enumerate(model.named_parameters()):
        leaf, shape = name.rpartition(".")[2], tuple(weight.shape)
        if leaf in ("W_E", "W_U") or not weight.any():  # may be tied; a bias the architecture lacks
            continue
        if leaf == "W_out":
            parts[name] = Rows(torch.tensor([0, 5]), 0.1 * random(2, shape[1], seed=seed), 0, shape[0])
        elif leaf in ("W_Q", "_W_K", "W_V"):
            d_in, d_out = shape[1], shape[0] * shape[2]
            parts[name] = LowRank(0.1 * random(d_in, 2, seed=seed), random(2, d_out, seed=seed), shape)
        else:
            parts[name] = Dense(0.1 * random(*shape, seed=seed))
    return WeightDelta(parts)


def written(model):
    """A mean for everything that is added into the residual stream."""
    return {site: random(model.cfg.d_model, seed=i) for i, site in enumerate(sites.residual_writes(model))}


def runs(model):
    """{name: intervention} of every kind that can be weights in some architecture."""
    circuit = every(3, model)
    means = {site: 0.3 * random(width, seed=i) for i, (site, width) in enumerate(circuit.widths.items())}
    d = model.cfg.d_model
    steered = {kind: {site.format(i): random(d, seed=i) for i in (0, 2)} for kind, site in SITES.items()}
    found = {
        "scaling": scale(circuit, 0.5),
        "ablation at -1": ablate(circuit).at(-1),
        "per neuron": scale(circuit, {s: torch.linspace(-1, 2, len(i)) for s, (i, _) in circuit.units.items()}),
        "mean ablation": mean_ablate(circuit, means).at(0.7),
        "projection": project_out(model, random(d)).at(0.8),
        "affine projection": project_out(model, random(d), to=written(model)).at(0.8),
        "weights": shift_weights(difference_of(model)).at(-1.5),
        **{kind: steer(Direction(vectors)).at(0.5) for kind, vectors in steered.items()},
    }
    neurons = found["scaling"] + found["mean ablation"].at(-0.4)
    found["weights and neurons"] = neurons + found["weights"].at(0.5)
    found["all"] = (
        found["after a block"] + found["projection"] + found["mlp"] + neurons + found["weights"] + found["projection"]
    )
    return found


#: What an export adds to the files of its source.
CARDS = {"README.md", "mechsurgery.json"}
SITES = {
    "attention": "blocks.{}.hook_attn_out",
    "mlp": "blocks.{}.hook_mlp_out",
    "after a block": "blocks.{}.hook_resid_post",
}
KINDS = [
    *("scaling", "ablation at -1", "per neuron", "mean ablation", "weights", "weights and neurons"),
    *("projection", "affine projection", "all", *SITES),
]
NEURONS = KINDS[:6]


@torch.no_grad()
def logits(model):
    return model(IDS, attention_mask=torch.ones_like(IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_baked_weights_give_the_logits_of_the_hooks(family, tiny_checkpoint):
    for kind in KINDS:
        model = load_model(tiny_checkpoint(family))
        plain, run = logits(model), runs(model)[kind]
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with applied(model, run):
            expected = logits(model)
        assert (expected - plain).abs().max() > 1e-3, kind
        if family in NORMED and kind not in NEURONS:
            with pytest.raises(InputError, match="normalises what attention and MLP write"):
                bake(model, run)
            assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        else:
            bake(model, run)
            torch.testing.assert_close(logits(model), expected, atol=1e-5 * expected.abs().max(), rtol=0, msg=kind)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_with_folded_norms_and_centred_weights_is_baked_too(family, tiny_checkpoint):
    for kind in ("mean ablation", "projection", "after a block"):
        model = load_model(tiny_checkpoint(family))
        model.process_weights_(fold_ln=True, center_writing_weights=family == "gpt2", center_unembed=True)
        run = runs(model)[kind]
        with applied(model, run):
            expected = logits(model)
        bake(model, run)
        torch.testing.assert_close(logits(model), expected, atol=1e-5 * expected.abs().max(), rtol=0, msg=kind)


#: Why a family's checkpoint cannot hold an intervention: it has no bias there and no setting that would add one.
def refusal(family, kind):
    if family in NORMED and kind not in NEURONS:
        return "normalises"
    added = ("mean ablation", "weights and neurons", "affine projection", "all", *SITES)
    if family in ("gpt2", "neox", "llama") or kind not in added or (family == "qwen3" and kind == "attention"):
        return None
    return "no place in a checkpoint .* no setting that adds one"


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_checkpoints_load_with_the_logits_of_the_hooks(family, tiny_checkpoint, tmp_path):
    source = tiny_checkpoint(family)
    model = load_model(source)
    for kind in KINDS:
        run, out = runs(model)[kind], tmp_path / kind
        if reason := refusal(family, kind):
            with pytest.raises(InputError, match=reason):
                export(source, run, out)
            assert not out.exists()
            continue
        with applied(model, run):
            expected = logits(model)
        found = logits(load_model(export(source, run, out)))
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max(), rtol=0, msg=kind)
    assert not list(tmp_path.glob(".*"))


def test_only_what_an_intervention_changes_differs_in_the_file(tiny_llama_dir, tiny_llama, tmp_path):
    circuit = every(3, tiny_llama)
    out = export(tiny_llama_dir, ablate(circuit), tmp_path / "out")
    old, new = Checkpoint(tiny_llama_dir), Checkpoint(out)
    for name in old.facts:
        assert torch.equal(old(name), new(name)) == ("down_proj" not in name)
    for layer, (indices, _) in enumerate(circuit.units.values()):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        expected = old(name).clone()
        expected[:, indices] = 0
        assert torch.equal(new(name), expected)
    assert {p.name for p in out.iterdir()} - {p.name for p in tiny_llama_dir.iterdir()} == CARDS


def test_scaled_rows_are_exact_in_bfloat16(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama", dtype="bfloat16", max_shard_size="60KB")
    model = load_model(source, dtype="bfloat16")
    circuit = every(3, model)
    expected = {layer: model.blocks[layer].mlp.W_out.clone() for layer in range(model.cfg.n_layers)}
    for layer, (indices, _) in enumerate(circuit.units.values()):
        expected[layer][indices] *= 0.5
    written = load_model(export(source, scale(circuit, 0.5), tmp_path / "out"), dtype="bfloat16")
    bake(model, scale(circuit, 0.5))
    for layer, weight in expected.items():
        assert torch.equal(model.blocks[layer].mlp.W_out, weight)
        assert torch.equal(written.blocks[layer].mlp.W_out, weight)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2


def test_the_dtype_may_be_another(tiny_checkpoint, tiny_llama, tmp_path):
    source = tiny_checkpoint("llama", dtype="bfloat16")
    model = load_model(source, dtype="float32")
    run = shift_weights(difference_of(model) * 1e-4)
    with applied(model, run):
        expected = logits(model)
    written = load_model(export(source, run, tmp_path / "wide", dtype="float32"), dtype="float32")
    torch.testing.assert_close(logits(written), expected, atol=1e-4, rtol=1e-4)
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(tmp_path / "wide").dtype == torch.float32
    assert {dtype for dtype, _ in Checkpoint(tmp_path / "wide").facts.values()} == {torch.float32}
    with pytest.raises(InputError, match="dtype="):
        export(source, run, tmp_path / "x", dtype="int8")
    with pytest.raises(ActivationError, match="float16; lower the strength"):
        export(source, run.at(1e9), tmp_path / "x", dtype="float16")
    assert not (tmp_path / "x").exists()


def test_strength_zero_and_the_baseline_change_nothing(tiny_llama_dir, tmp_path):
    model = load_model(tiny_llama_dir)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bake(model, BASELINE)
    bake(model, runs(model)["all"].at(0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    copy = Checkpoint(export(tiny_llama_dir, runs(model)["all"].at(0), tmp_path / "copy"))
    assert all(torch.equal(copy(name), Checkpoint(tiny_llama_dir)(name)) for name in copy.facts)


def test_what_cannot_be_weights_is_refused_by_name_and_changes_nothing(tiny_llama_dir, tmp_path):
    model = load_model(tiny_llama_dir)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    d, site = model.cfg.d_model, "blocks.1.hook_resid_post"
    dictionary = random_dictionary(site, d)
    latents = scale_latents(Circuit.from_indices({dictionary.site: [1]}, {dictionary.site: 48}), dictionary)
    cube = Intervention("cube", (Edit(site, Custom(lambda a, s: a + s * a**3, "cube"), d),), kind="custom")
    residual = Circuit.from_indices({site: [0]}, {site: d}, name="channel")
    early = steer(Direction({"blocks.1.hook_resid_pre": torch.ones(d)}, "early"))
    for run, reason in (
        (cube, "'cube' .custom. cannot be changed in the weights: it is a function"),
        (latents, "it is a function of the activation"),
        (ablate(residual), "'channel' .scaling. .* earlier layers"),
        (early, "blocks.1.hook_resid_pre.*only MLP neurons"),
        (ablate(every(3, model)) + cube, "it is a function"),
    ):
        for write in (lambda r: bake(model, r), lambda r: export(tiny_llama_dir, r, tmp_path / "out")):
            with pytest.raises(InputError, match=reason):
                write(run)
    with pytest.raises(ActivationError, match="lower the strength"):
        bake(model, shift_weights(difference_of(model) * 1e34).at(1e9))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    bake(model, ablate(every(3, model)) + cube.at(0))
    assert not list(tmp_path.iterdir())


def test_what_was_made_for_another_model_is_refused(tiny_llama_dir, tiny_checkpoint, tiny_llama, tmp_path):
    other = tiny_checkpoint("llama", intermediate_size=64)
    for run, reason in (
        (ablate(every(3, tiny_llama)), "was made for 112 units"),
        (shift_weights(difference_of(tiny_llama)), "has shape"),
    ):
        with pytest.raises(MismatchError, match=reason):
            export(other, run, tmp_path / "out")
        with pytest.raises(MismatchError):
            bake(load_model(other), run)
    with pytest.raises(MismatchError, match="another model"):
        export(tiny_checkpoint("gpt2"), shift_weights(difference_of(tiny_llama)), tmp_path / "out")
    shorter = tiny_checkpoint("llama", num_hidden_layers=2)
    with pytest.raises(MismatchError, match="another model"):
        export(shorter, shift_weights(difference_of(tiny_llama)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_names_without_the_models_prefix_are_found(tiny_checkpoint, tmp_path):
    """The published GPT-2 calls its tensors h.0.… and not transformer.h.0.…."""
    import shutil

    from safetensors.torch import load_file, save_file

    source = tmp_path / "short"
    shutil.copytree(tiny_checkpoint("gpt2"), source)
    tensors = load_file(source / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(short, source / "model.safetensors", metadata={"format": "pt"})
    model = load_model(source)
    run = shift_weights(difference_of(model))
    with applied(model, run):
        expected = logits(model)
    torch.testing.assert_close(
        logits(load_model(export(source, run, tmp_path / "out"))), expected, atol=1e-4, rtol=1e-4
    )


def test_a_difference_on_disk_is_added_at_a_strength(tiny_checkpoint, tmp_path):
    before = tiny_checkpoint("llama")
    model = load_model(before)
    after = export(before, shift_weights(difference_of(model)), tmp_path / "after")
    difference = stream_difference(after, before, tmp_path / "difference")
    again = Checkpoint(export(before, difference, tmp_path / "again"))
    assert all(torch.equal(again(name), Checkpoint(after)(name)) for name in again.facts)
    twice = Checkpoint(export(before, difference, tmp_path / "twice", strength=-2.0))
    for name in twice.facts:
        expected = Checkpoint(before)(name).double() - 2 * Checkpoint(difference)(name).double()
        assert torch.equal(twice(name), expected.float())
    with pytest.raises(InputError, match=r"give intervention\.at\(2"):
        export(before, ablate(every(3, model)), tmp_path / "x", strength=2)
    with pytest.raises(InputError, match="exists"):
        export(before, difference, tmp_path / "twice")
    with pytest.raises(MismatchError, match="does not fit"):
        export(tiny_checkpoint("gpt2"), difference, tmp_path / "x")


def test_a_killed_export_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    from mechsurgery.models import streaming

    source = tiny_checkpoint("llama", max_shard_size="60KB")
    plain, calls = streaming.write_safetensors, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(streaming, "write_safetensors", dying)
    with pytest.raises(KeyboardInterrupt):
        export(source, BASELINE, tmp_path / "out")
    assert not list(tmp_path.iterdir())

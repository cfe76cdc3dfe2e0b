"""A PEFT adapter loaded by PEFT itself gives the logits of the running change; what is no LoRA is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.changes import IDS, every, random

from mechsurgery.deltas import Dense, LowRank, Rows, WeightDelta
from mechsurgery.directions import Direction
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.intervention import ablate, applied, export_adapter, mean_ablate, scale, shift_weights, steer
from mechsurgery.models import load_model
from mechsurgery.prompts import Examples
from mechsurgery.training import LoRA, Recipe, finetune

peft = pytest.importorskip("peft")
# PEFT asks transformers for a name that transformers is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "neox"]


def lora_of(model, rank=2, seed=0, layers=None):
    """A low-rank difference of every linear map of attention and MLP."""
    parts = {}
    for place, (name, weight) in enumerate(model.named_parameters()):
        leaf, shape = name.rpartition(".")[2], tuple(weight.shape)
        if leaf.lstrip("_") not in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out") or name.endswith("U"):
            continue
        if layers is not None and int(name.split(".")[1]) not in layers:
            continue
        output = leaf == "W_O"
        d_in, d_out = shape if len(shape) == 2 else (shape[1], shape[0] * shape[2])
        if output:
            d_in, d_out = shape[0] * shape[1], shape[2]
        left, right = 0.2 * random(d_in, rank, seed=seed + place), random(rank, d_out, seed=seed + place)
        parts[name] = LowRank(left, right, shape, output)
    return WeightDelta(parts, f"lora {seed}")


@torch.no_grad()
def live(model, run):
    with applied(model, run):
        return model(IDS, attention_mask=torch.ones_like(IDS))


@torch.no_grad()
def loaded_by_peft(source, folder):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(plain, folder).eval()(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_logits_of_the_running_change(family, tiny_checkpoint, tmp_path):
    changes = {"sliding_window": None} if family == "mistral" else {}
    source = tiny_checkpoint(family, **changes)
    model = load_model(source)
    delta, other = lora_of(model), lora_of(model, seed=7, layers=[1])
    runs = {
        "a difference of two": shift_weights((delta - other) * 0.5).at(-0.8),
        "one layer and neurons": shift_weights(other) + scale(every(25, model), -0.5),
    }
    plain = live(model, shift_weights(delta).at(0))
    for name, run in runs.items():
        expected = live(model, run)
        assert (expected - plain).abs().max() > 1e-2
        found = loaded_by_peft(source, export_adapter(source, run, tmp_path / name))
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max(), rtol=0, msg=f"{family} {name}")
    if family == "llama":
        written = json.loads((tmp_path / "one layer and neurons" / "adapter_config.json").read_text())
        assert all(target.startswith("model.layers.") for target in written["target_modules"])
        card = (tmp_path / "a difference of two" / "README.md").read_text()
        assert "lora 0 − lora 7" in card
        assert "library_name: peft" in card


def test_a_trained_lora_and_a_whole_difference_of_low_rank(tiny_llama_dir, tmp_path):
    model = load_model(tiny_llama_dir)
    data = Examples(((5, 6, 7),) * 4, ((8, 9),) * 4)
    trained = finetune(model, data, LoRA(rank=2), recipe=Recipe(steps=3, batch=2, lr=1e-1))
    whole = WeightDelta({name: Dense(part.dense()) for name, part in lora_of(model, rank=3).parts.items()}, "whole")
    for name, delta in (("trained", trained), ("whole", whole)):
        out = export_adapter(tiny_llama_dir, delta, tmp_path / name, strength=0.5)
        expected = live(model, shift_weights(delta).at(0.5))
        torch.testing.assert_close(
            loaded_by_peft(tiny_llama_dir, out), expected, atol=1e-4 * expected.abs().max(), rtol=0
        )
    assert json.loads((tmp_path / "whole" / "adapter_config.json").read_text())["r"] == 3


def test_few_rows_and_columns_are_a_low_rank(tiny_llama_dir, tmp_path):
    model = load_model(tiny_llama_dir)
    d, n = model.cfg.d_model, model.cfg.d_mlp
    parts = {
        "blocks.0.mlp.W_out": Rows(torch.tensor([3, 9]), random(2, d), 0, n),
        "blocks.2.mlp.W_gate": Rows(torch.tensor([5]), random(d, 1), 1, n),
    }
    out = export_adapter(tiny_llama_dir, WeightDelta(parts), tmp_path / "rows")
    tensors = load_file(out / "adapter_model.safetensors")
    assert {tuple(t.shape) for key, t in tensors.items() if "lora_A" in key} == {(2, n), (2, d)}
    expected = live(model, shift_weights(WeightDelta(parts)))
    torch.testing.assert_close(loaded_by_peft(tiny_llama_dir, out), expected, atol=1e-4, rtol=1e-4)


def test_what_is_no_lora_is_refused(tiny_llama_dir, tiny_checkpoint, tmp_path):
    model = load_model(tiny_llama_dir)
    d, circuit = model.cfg.d_model, every(25, model)
    full = {"blocks.1.mlp.W_out": Dense(random(model.cfg.d_mlp, d))}
    norm = {"blocks.1.ln1.w": Dense(torch.ones(d))}
    direction = Direction({"blocks.1.hook_resid_post": torch.ones(d)})
    for change, reason in (
        (WeightDelta(full), "rank 48, above max_rank = 16; use export"),
        (WeightDelta(norm | lora_of(model).parts), "linear maps of attention and MLPs alone.*blocks.1.ln1.w"),
        (steer(direction), "blocks.1.hook_resid_post.*no low-rank difference"),
        (mean_ablate(circuit, {site: torch.ones(w) for site, w in circuit.widths.items()}), "no low-rank difference"),
        (ablate(circuit).at(0), "changes nothing"),
    ):
        with pytest.raises(InputError, match=reason):
            export_adapter(tiny_llama_dir, change, tmp_path / "out", max_rank=16)
    with pytest.raises(MismatchError, match="another model"):
        export_adapter(tiny_checkpoint("gpt2"), lora_of(model), tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_adapter(tiny_llama_dir, lora_of(model), tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]

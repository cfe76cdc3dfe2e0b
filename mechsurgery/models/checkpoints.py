"""From differences of HookedTransformer's parameters to differences of a Hugging Face checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..deltas import Part, WeightDelta
from ..errors import MismatchError, UnsupportedModelError, listed

_GATED = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3")
_NORMS = {
    "ln1.w": "input_layernorm",
    "ln2.w": "post_attention_layernorm",
    "attn.q_norm.w": "self_attn.q_norm",
    "attn.k_norm.w": "self_attn.k_norm",
}
_GEMMA_NORMS = {
    **_NORMS,
    "ln1_post.w": "post_attention_layernorm",
    "ln2.w": "pre_feedforward_layernorm",
    "ln2_post.w": "post_feedforward_layernorm",
}
_PROJECTIONS = {"Q": "q_proj", "K": "k_proj", "V": "v_proj"}
_MLP = {"W_in": "up_proj", "W_gate": "gate_proj", "W_out": "down_proj"}


def checkpoint_difference(config: dict[str, Any], delta: WeightDelta) -> dict[str, Callable[[], Tensor]]:
    """{tensor name in the checkpoint: a function that makes its difference, in the checkpoint's layout}.

    `config` is the content of config.json. Raises `UnsupportedModelError` for an architecture that cannot be written,
    `MismatchError` for a parameter that has no place in the checkpoint.
    """
    architecture = (config.get("architectures") or ["unknown"])[0]
    if architecture == "GPT2LMHeadModel":
        place: Any = _gpt2
    elif architecture == "GPTNeoXForCausalLM":
        place = _neox
    elif architecture.startswith(_GATED):
        place = _gated
    else:
        raise UnsupportedModelError(f"deltas cannot be written into {architecture}; supported: {listed(_GATED)}, …")
    changes: dict[str, Callable[[], Tensor]] = {}
    for name, part in delta.parts.items():
        where = place(name, config, architecture)
        if where is None:
            raise MismatchError(f"parameter {name!r} has no tensor of its own in a checkpoint of {architecture}")
        key, change = where
        before = changes.get(key)
        changes[key] = partial(_summed, part, change, before)
    return changes


def _summed(part: Part, layout: Callable[[Tensor], Tensor], before: Callable[[], Tensor] | None) -> Tensor:
    """The part in the checkpoint's layout, added to what other parts change in the same tensor."""
    difference = layout(part.dense())
    return difference if before is None else difference + before()


def _split(name: str) -> tuple[int, str] | None:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return (int(match.group(1)), match.group(2)) if match else None


def _gated(name: str, config: dict[str, Any], architecture: str) -> Any:
    gemma = architecture.startswith("Gemma")
    tied = config.get("tie_word_embeddings", gemma)
    if name == "ln_final.w":
        return "model.norm.weight", lambda d: d
    if name == "embed.W_E" and not tied:
        return "model.embed_tokens.weight", lambda d: d / config["hidden_size"] ** 0.5 if gemma else d
    if name == "unembed.W_U" and not tied:
        return "lm_head.weight", lambda d: d.T
    inside = _split(name)
    if inside is None:
        return None
    layer, leaf = inside
    prefix = f"model.layers.{layer}"
    norms = _GEMMA_NORMS if gemma else _NORMS
    if leaf in norms:
        return f"{prefix}.{norms[leaf]}.weight", lambda d: d
    kind, _, own = leaf.partition(".")
    if kind == "mlp" and own in _MLP:
        return f"{prefix}.mlp.{_MLP[own]}.weight", lambda d: d.T
    if kind == "attn" and own == "W_O":
        return f"{prefix}.self_attn.o_proj.weight", lambda d: rearrange(d, "n h m -> m (n h)")
    match = re.fullmatch(r"_?([Wb])_([QKV])", own) if kind == "attn" else None
    if match is None:
        return None
    linear = f"{prefix}.self_attn.{_PROJECTIONS[match.group(2)]}"
    if match.group(1) == "b":
        return f"{linear}.bias", lambda d: rearrange(d, "n h -> (n h)")
    return f"{linear}.weight", lambda d: rearrange(d, "n m h -> (n h) m")


def _gpt2(name: str, config: dict[str, Any], architecture: str) -> Any:
    if name == "pos_embed.W_pos":
        return "transformer.wpe.weight", lambda d: d
    if name in ("ln_final.w", "ln_final.b"):
        return f"transformer.ln_f.{_leaf(name)}", lambda d: d
    inside = _split(name)
    if inside is None:
        return None
    layer, leaf = inside
    prefix = f"transformer.h.{layer}"
    simple = {
        "mlp.W_in": ("mlp.c_fc.weight", None),
        "mlp.b_in": ("mlp.c_fc.bias", None),
        "mlp.W_out": ("mlp.c_proj.weight", None),
        "mlp.b_out": ("mlp.c_proj.bias", None),
        "attn.W_O": ("attn.c_proj.weight", "n h m -> (n h) m"),
        "attn.b_O": ("attn.c_proj.bias", None),
        "ln1.w": ("ln_1.weight", None),
        "ln1.b": ("ln_1.bias", None),
        "ln2.w": ("ln_2.weight", None),
        "ln2.b": ("ln_2.bias", None),
    }
    if leaf in simple:
        key, pattern = simple[leaf]
        return f"{prefix}.{key}", (lambda d: d) if pattern is None else (lambda d: rearrange(d, pattern))
    match = re.fullmatch(r"attn\.([Wb])_([QKV])", leaf)
    if match is None:
        return None
    slot = "QKV".index(match.group(2))
    if match.group(1) == "b":
        return f"{prefix}.attn.c_attn.bias", lambda d: rearrange(_slot(d, slot), "qkv n h -> (qkv n h)")
    return f"{prefix}.attn.c_attn.weight", lambda d: rearrange(_slot(d, slot), "qkv n m h -> m (qkv n h)")


def _neox(name: str, config: dict[str, Any], architecture: str) -> Any:
    if name in ("ln_final.w", "ln_final.b"):
        return f"gpt_neox.final_layer_norm.{_leaf(name)}", lambda d: d
    if not config.get("tie_word_embeddings", False):
        if name == "embed.W_E":
            return "gpt_neox.embed_in.weight", lambda d: d
        if name == "unembed.W_U":
            return "embed_out.weight", lambda d: d.T
    inside = _split(name)
    if inside is None:
        return None
    layer, leaf = inside
    prefix = f"gpt_neox.layers.{layer}"
    simple = {
        "mlp.W_in": ("mlp.dense_h_to_4h.weight", "a b -> b a"),
        "mlp.b_in": ("mlp.dense_h_to_4h.bias", "a -> a"),
        "mlp.W_out": ("mlp.dense_4h_to_h.weight", "a b -> b a"),
        "mlp.b_out": ("mlp.dense_4h_to_h.bias", "a -> a"),
        "attn.W_O": ("attention.dense.weight", "n h m -> m (n h)"),
        "attn.b_O": ("attention.dense.bias", "a -> a"),
        "ln1.w": ("input_layernorm.weight", "a -> a"),
        "ln1.b": ("input_layernorm.bias", "a -> a"),
        "ln2.w": ("post_attention_layernorm.weight", "a -> a"),
        "ln2.b": ("post_attention_layernorm.bias", "a -> a"),
    }
    if leaf in simple:
        key, pattern = simple[leaf]
        return f"{prefix}.{key}", lambda d: rearrange(d, pattern)
    match = re.fullmatch(r"attn\.([Wb])_([QKV])", leaf)
    if match is None:
        return None
    slot = "QKV".index(match.group(2))
    fused = f"{prefix}.attention.query_key_value"
    if match.group(1) == "b":
        return f"{fused}.bias", lambda d: rearrange(_slot(d, slot), "qkv n h -> (n qkv h)")
    return f"{fused}.weight", lambda d: rearrange(_slot(d, slot), "qkv n m h -> (n qkv h) m")


def _slot(value: Tensor, slot: int) -> Tensor:
    """The difference in its place among query, key and value, zero in the others."""
    parts = [torch.zeros_like(value)] * 3
    parts[slot] = value
    return torch.stack(parts)


def _leaf(name: str) -> str:
    return {"w": "weight", "b": "bias"}[name.rpartition(".")[2]]

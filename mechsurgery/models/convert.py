"""From a transformers model to a HookedTransformer, without processing and without a second copy.

Linear layers become views of transformers' own tensors. That is also the memory layout in which
HookedTransformer's forward needs no copies: it runs `F.linear(x, W.T.contiguous())` and einops
rearrangements of the attention weights at every call, and both are views of an [out, in] matrix.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import UnsupportedModelError, listed
from . import sites
from .architectures import lens_config
from .protocol import Model

# How each weight lies in memory, as a permutation of its logical axes.
_LAYOUT = {
    **dict.fromkeys(("W_Q", "W_K", "W_V", "_W_K", "_W_V"), (0, 2, 1)),
    "W_O": (2, 0, 1),
    **dict.fromkeys(("W_in", "W_gate", "W_out", "W_U"), (1, 0)),
}
Weights = Iterator[tuple[str, Tensor]]


@torch.no_grad()
def convert(source: Any, *, name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A HookedTransformer with the weights of a transformers model, which is emptied on the way.

    Parameters come out frozen (`requires_grad` False) and the model in eval mode.
    """
    from accelerate import init_empty_weights
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    architecture = type(source).__name__
    config = HookedTransformerConfig(
        **lens_config(source.config, architecture),
        model_name=name,
        default_prepend_bos=False,
        init_weights=False,
        dtype=dtype,
        device=str(device),
    )
    with warnings.catch_warnings(), init_empty_weights(include_buffers=False):
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(config, move_to_device=False)
    read = {"GPT2LMHeadModel": _gpt2, "GPTNeoXForCausalLM": _neox}.get(architecture, _gated)
    for parameter, tensor in read(source, config):
        _assign(model, parameter, tensor, dtype, device)
    _zero_biases(model, dtype, device)
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    return model.eval()


def _assign(model: Any, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    expected = owner._parameters[leaf].shape
    if tensor.shape != expected:
        raise UnsupportedModelError(
            f"{name} has shape {tuple(tensor.shape)} in the checkpoint and {tuple(expected)} by its config.json; "
            "the two do not belong together"
        )
    tensor = tensor.detach().to(device=device, dtype=dtype)
    order = _LAYOUT.get(leaf, tuple(range(tensor.ndim)))
    tensor = tensor.permute(order).contiguous()
    if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        tensor = tensor.clone()
    back = [order.index(axis) for axis in range(tensor.ndim)]
    owner._parameters[leaf] = nn.Parameter(tensor.permute(back), requires_grad=False)


def _zero_biases(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """HookedTransformer has biases everywhere; those an architecture lacks are zero."""
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if not leaf.lstrip("_").startswith("b"):
                raise UnsupportedModelError(f"no weights found for {leaf} of {type(module).__name__}")
            zeros = torch.zeros(parameter.shape, dtype=dtype, device=device)
            module._parameters[leaf] = nn.Parameter(zeros, requires_grad=False)


def _emptied(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _gated(source: Any, cfg: Any) -> Weights:
    """Llama, Mistral, Qwen and Gemma share their module names."""
    gemma = cfg.original_architecture.startswith("Gemma")
    inner = source.model
    embedding, head = inner.embed_tokens.weight, source.lm_head.weight
    if gemma:
        yield "embed.W_E", embedding * torch.tensor(cfg.d_model**0.5, dtype=embedding.dtype)
    else:
        yield "embed.W_E", embedding.clone() if head.data_ptr() == embedding.data_ptr() else embedding
    yield "unembed.W_U", head.T
    _emptied(inner.embed_tokens)
    _emptied(source.lm_head)
    yield "ln_final.w", _gain(inner.norm, gemma)
    for index, layer in enumerate(inner.layers):
        block = f"blocks.{index}"
        yield f"{block}.ln1.w", _gain(layer.input_layernorm, gemma)
        if gemma:
            yield f"{block}.ln1_post.w", _gain(layer.post_attention_layernorm, gemma)
            yield f"{block}.ln2.w", _gain(layer.pre_feedforward_layernorm, gemma)
            yield f"{block}.ln2_post.w", _gain(layer.post_feedforward_layernorm, gemma)
        else:
            yield f"{block}.ln2.w", _gain(layer.post_attention_layernorm, gemma)
        yield from _attention(f"{block}.attn", layer.self_attn, cfg, gemma)
        for ours, theirs in (("in", "up_proj"), ("gate", "gate_proj"), ("out", "down_proj")):
            yield f"{block}.mlp.W_{ours}", getattr(layer.mlp, theirs).weight.T
        _emptied(layer)


def _gain(norm: nn.Module, gemma: bool) -> Tensor:
    """Gemma's norms store their gain less one."""
    return 1.0 + norm.weight.float() if gemma else norm.weight


def _attention(name: str, attention: Any, cfg: Any, gemma: bool) -> Weights:
    kv_heads, mark = (cfg.n_heads, "") if cfg.n_key_value_heads is None else (cfg.n_key_value_heads, "_")
    parts = (("Q", "q_proj", cfg.n_heads, ""), ("K", "k_proj", kv_heads, mark), ("V", "v_proj", kv_heads, mark))
    for letter, key, heads, underscore in parts:
        linear = getattr(attention, key)
        yield f"{name}.{underscore}W_{letter}", rearrange(linear.weight, "(n h) m -> n m h", n=heads)
        if linear.bias is not None:
            yield f"{name}.{underscore}b_{letter}", rearrange(linear.bias, "(n h) -> n h", n=heads)
    yield f"{name}.W_O", rearrange(attention.o_proj.weight, "m (n h) -> n h m", n=cfg.n_heads)
    if attention.o_proj.bias is not None:
        yield f"{name}.b_O", attention.o_proj.bias
    if cfg.use_qk_norm:
        yield f"{name}.q_norm.w", _gain(attention.q_norm, gemma)
        yield f"{name}.k_norm.w", _gain(attention.k_norm, gemma)


def _gpt2(source: Any, cfg: Any) -> Weights:
    inner = source.transformer
    tied = source.lm_head.weight.data_ptr() == inner.wte.weight.data_ptr()
    yield "embed.W_E", inner.wte.weight.clone() if tied else inner.wte.weight
    yield "unembed.W_U", source.lm_head.weight.T
    yield "pos_embed.W_pos", inner.wpe.weight
    for module in (inner.wte, source.lm_head, inner.wpe):
        _emptied(module)
    yield from _layer_norm("ln_final", inner.ln_f)
    for index, layer in enumerate(inner.h):
        block = f"blocks.{index}"
        yield from _layer_norm(f"{block}.ln1", layer.ln_1)
        yield from _layer_norm(f"{block}.ln2", layer.ln_2)
        weight = rearrange(layer.attn.c_attn.weight, "m (qkv n h) -> qkv n m h", qkv=3, n=cfg.n_heads)
        bias = rearrange(layer.attn.c_attn.bias, "(qkv n h) -> qkv n h", qkv=3, n=cfg.n_heads)
        for letter, w, b in zip("QKV", weight, bias):
            yield f"{block}.attn.W_{letter}", w
            yield f"{block}.attn.b_{letter}", b
        yield f"{block}.attn.W_O", rearrange(layer.attn.c_proj.weight, "(n h) m -> n h m", n=cfg.n_heads)
        yield f"{block}.attn.b_O", layer.attn.c_proj.bias
        for ours, theirs in (("in", layer.mlp.c_fc), ("out", layer.mlp.c_proj)):
            yield f"{block}.mlp.W_{ours}", theirs.weight
            yield f"{block}.mlp.b_{ours}", theirs.bias
        _emptied(layer)


def _neox(source: Any, cfg: Any) -> Weights:
    inner, head = source.gpt_neox, source.get_output_embeddings()
    tied = head.weight.data_ptr() == inner.embed_in.weight.data_ptr()
    yield "embed.W_E", inner.embed_in.weight.clone() if tied else inner.embed_in.weight
    yield "unembed.W_U", head.weight.T
    _emptied(inner.embed_in)
    _emptied(head)
    yield from _layer_norm("ln_final", inner.final_layer_norm)
    for index, layer in enumerate(inner.layers):
        block = f"blocks.{index}"
        yield from _layer_norm(f"{block}.ln1", layer.input_layernorm)
        yield from _layer_norm(f"{block}.ln2", layer.post_attention_layernorm)
        fused, dense = layer.attention.query_key_value, layer.attention.dense
        weight = rearrange(fused.weight, "(n qkv h) m -> qkv n m h", qkv=3, n=cfg.n_heads)
        for letter, w in zip("QKV", weight):
            yield f"{block}.attn.W_{letter}", w
        if fused.bias is not None:
            bias = rearrange(fused.bias, "(n qkv h) -> qkv n h", qkv=3, n=cfg.n_heads)
            for letter, b in zip("QKV", bias):
                yield f"{block}.attn.b_{letter}", b
        yield f"{block}.attn.W_O", rearrange(dense.weight, "m (n h) -> n h m", n=cfg.n_heads)
        if dense.bias is not None:
            yield f"{block}.attn.b_O", dense.bias
        for ours, theirs in (("in", layer.mlp.dense_h_to_4h), ("out", layer.mlp.dense_4h_to_h)):
            yield f"{block}.mlp.W_{ours}", theirs.weight.T
            yield f"{block}.mlp.b_{ours}", theirs.bias
        _emptied(layer)


def _layer_norm(name: str, norm: nn.Module) -> Weights:
    yield f"{name}.w", norm.weight
    yield f"{name}.b", norm.bias


@torch.no_grad()
def check_neurons(model: Model, ids: Tensor) -> None:
    """Raise `UnsupportedModelError` unless activations at `mlp.hook_post` times W_out is what each MLP adds.

    With norms after the MLP (Gemma) the sum passes through them first.
    """
    seen: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any = None) -> None:
        seen[hook.name] = activation[:, -1:].clone()

    names = [*sites.neuron_sites(model), *sites.mlp_out_sites(model)]
    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        model(ids, attention_mask=torch.ones_like(ids), stop_at_layer=model.cfg.n_layers)
    wrong = []
    for layer, (neurons, added) in enumerate(zip(sites.neuron_sites(model), sites.mlp_out_sites(model))):
        product = sites.mlp_write(model, layer, seen[neurons])
        tolerance = 1e-3 if model.cfg.dtype == torch.float32 else 5e-2
        if not (product - seen[added]).abs().max() <= tolerance * (1e-6 + seen[added].abs().max()):
            wrong.append(layer)
    if wrong:
        raise UnsupportedModelError(
            f"in layers {listed(wrong)} the MLP does not add its neurons times W_out to the residual stream, so "
            "neuron edits would not mean what they say; use another architecture"
        )

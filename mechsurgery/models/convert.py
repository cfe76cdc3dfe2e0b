"""From a transformers model to a HookedTransformer, without processing and without a second copy.

TransformerLens' own conversions say which weight goes where; here they are laid into memory one by one.
Linear layers become views of transformers' own tensors. That is also the memory layout in which
HookedTransformer's forward needs no copies: it runs `F.linear(x, W.T.contiguous())` and einops
rearrangements of the attention weights at every call, and both are views of an [out, in] matrix.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .. import names as spelled
from ..checks import check_arguments
from ..errors import LoadError, UnsupportedModelError, listed
from . import sites
from .architectures import lens_config
from .experts import mixtures
from .protocol import Model
from .spread import Spread
from .turns import LOADING, Turn
from .with_hooks import with_hooks

# How each weight lies in memory, as a permutation of its logical axes.
_LAYOUT = {
    **dict.fromkeys(("W_Q", "W_K", "W_V", "_W_K", "_W_V"), (0, 2, 1)),
    "W_O": (2, 0, 1),
    **dict.fromkeys(("W_in", "W_gate", "W_out", "W_U"), (1, 0)),
}
#: Which of TransformerLens' conversions reads an architecture.
_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma",
    "Gemma3ForCausalLM": "gemma",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "neox",
}


@torch.no_grad()
def convert(source: Any, *, name: str, dtype: torch.dtype, spread: Spread) -> Any:
    """A HookedTransformer with the weights of a transformers model, which is emptied on the way.

    Parameters come out frozen (`requires_grad` False) and the model in eval mode.
    """
    from transformer_lens import HookedTransformerConfig

    architecture = type(source).__name__
    config = HookedTransformerConfig(
        **lens_config(source.config, architecture),
        model_name=name,
        default_prepend_bos=False,
        init_weights=False,
        dtype=dtype,
        device=str(spread.first),
    )
    model = empty_model(config)
    weights = _weights(source, config)
    taken: set[int] = set()
    for parameter in list(weights):
        _assign(model, parameter, weights.pop(parameter).to(spread.home_of(parameter)), taken)
    _zero_biases(model, dtype, spread)
    for path, module in model.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(spread.home_of(path))
    return model.eval()


def empty_model(cfg: Any) -> Any:
    """A HookedTransformer of a configuration whose parameters have shapes and no memory."""
    from transformer_lens import HookedTransformer

    with warnings.catch_warnings(), Turn(LOADING, _without_memory, ends_all=True):
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(cfg, move_to_device=False)


def _without_memory(turn: Turn) -> None:
    """Have the parameters of modules that this thread makes take no memory until a turn ends."""
    own, here = nn.Module.register_parameter, threading.get_ident()

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        own(module, name, parameter)
        if parameter is not None and threading.get_ident() == here:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    turn.undo(setattr, nn.Module, "register_parameter", own)
    nn.Module.register_parameter = register  # type: ignore[method-assign]


def _assign(model: Any, name: str, tensor: Tensor, taken: set[int]) -> None:
    """Make a weight the model's own, in the layout its forward wants; `taken` are the memories that others lie in."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    expected = owner._parameters[leaf].shape
    if tensor.shape != expected:
        raise UnsupportedModelError(
            f"{name} has shape {tuple(tensor.shape)} in the checkpoint and {tuple(expected)} by its config.json; "
            "the two do not belong together"
        )
    tensor = tensor.to(dtype=model.cfg.dtype)
    if tensor.numel() and not all(torch.isfinite(end) for end in tensor.aminmax()):
        raise LoadError(f"{name} has weights that are NaN or infinite in {model.cfg.dtype}; fetch the model again")
    order = _LAYOUT.get(leaf, tuple(range(tensor.ndim)))
    tensor = tensor.permute(order).contiguous()
    memory = tensor.untyped_storage()
    if memory.nbytes() > tensor.numel() * tensor.element_size() or memory.data_ptr() in taken:
        tensor = tensor.clone()
    taken.add(tensor.untyped_storage().data_ptr())
    back = [order.index(axis) for axis in range(tensor.ndim)]
    owner._parameters[leaf] = nn.Parameter(tensor.permute(back), requires_grad=False)


def _zero_biases(model: Any, dtype: torch.dtype, spread: Spread) -> None:
    """HookedTransformer has biases everywhere; those an architecture lacks are zero."""
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if not leaf.lstrip("_").startswith("b"):
                raise UnsupportedModelError(f"no weights found for {leaf} of {type(module).__name__}")
            zeros = torch.zeros(parameter.shape, dtype=dtype, device=spread.home_of(path))
            module._parameters[leaf] = nn.Parameter(zeros, requires_grad=False)


def _weights(source: Any, cfg: Any) -> dict[str, Tensor]:
    """{parameter: weight} by TransformerLens' own conversion, nearly all views of the tensors of the source.

    The source is emptied, so that a tensor is freed as soon as its last view is.
    """
    from transformer_lens.pretrained import weight_conversions

    _fill_missing_biases(source)
    read = getattr(weight_conversions, f"convert_{_FAMILIES[cfg.original_architecture]}_weights")
    weights = {**read(source, cfg), **dict(_attention_biases(source, cfg)), **dict(_mlp_biases(source))}
    weights = {name: weight.detach() for name, weight in weights.items()}
    for parameter in source.parameters():
        parameter.data = parameter.data.new_empty(0)
    return weights


def _fill_missing_biases(source: Any) -> None:
    """Zeros for what a GPT-NeoX without attention biases lacks: its conversion reads them."""
    for layer in source.gpt_neox.layers if hasattr(source, "gpt_neox") else ():
        for linear in (layer.attention.query_key_value, layer.attention.dense):
            if linear.bias is None:
                linear.bias = nn.Parameter(linear.weight.new_zeros(len(linear.weight)))


def _attention_biases(source: Any, cfg: Any) -> Iterator[tuple[str, Tensor]]:
    """The biases of checkpoints with `attention_bias`, which the conversions of Llama and its like set to zero."""
    mark = "" if cfg.n_key_value_heads is None else "_"
    for index, layer in enumerate(source.model.layers if hasattr(source, "model") else ()):
        for leaf, key in (("b_Q", "q_proj"), (f"{mark}b_K", "k_proj"), (f"{mark}b_V", "v_proj")):
            bias = getattr(layer.self_attn, key).bias
            if bias is not None:
                yield f"blocks.{index}.attn.{leaf}", rearrange(bias, "(n h) -> n h", h=cfg.d_head)
        if layer.self_attn.o_proj.bias is not None:
            yield f"blocks.{index}.attn.b_O", layer.self_attn.o_proj.bias


def _mlp_biases(source: Any) -> Iterator[tuple[str, Tensor]]:
    """The biases of a Llama with `mlp_bias`; a HookedTransformer has them after the gate alone."""
    for index, layer in enumerate(source.model.layers if getattr(source.config, "mlp_bias", False) else ()):
        if layer.mlp.gate_proj.bias.any() or layer.mlp.up_proj.bias.any():
            raise UnsupportedModelError(
                f"layer {index} has biases before its gate (mlp_bias = true), which a HookedTransformer has not; only "
                "biases of down_proj are supported, use another checkpoint of this family"
            )
        yield f"blocks.{index}.mlp.b_out", layer.mlp.down_proj.bias


@torch.no_grad()
def check_neurons(model: Model, ids: Tensor) -> None:
    """Raise `UnsupportedModelError` unless activations at `mlp.hook_post` times W_out is what each MLP adds.

    With norms after the MLP (Gemma) the sum passes through them first. Experts, which run one by one where they are
    hooked, must add what they add together.
    """
    seen: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any = None, *, name: str) -> None:
        seen[name] = activation[:, -1:].clone()

    def read(names: list[str]) -> None:
        with with_hooks(model, [(name, partial(keep, name=name)) for name in names]):
            sites.run(model, ids, torch.ones_like(ids), model.cfg.n_layers)

    outputs = sites.mlp_out_sites(model)
    if mixtures(model):
        read(outputs)
    together = dict(seen)
    read([*sites.neuron_sites(model), *outputs])
    wrong = []
    for layer, added in enumerate(outputs):
        own = sites.neuron_sites(model, [layer])
        alone = own == [spelled.neurons(layer)]
        product = sites.mlp_write(model, layer, seen[own[0]]) if alone else together[added]
        tolerance = 1e-3 if model.cfg.dtype == torch.float32 else 5e-2
        if not (product - seen[added]).abs().max() <= tolerance * (1e-6 + seen[added].abs().max()):
            wrong.append(layer)
    if wrong:
        raise UnsupportedModelError(
            f"in layers {listed(wrong)} the MLP does not add its neurons times W_out to the residual stream, so "
            "neuron edits would not mean what they say; use another architecture"
        )


check_arguments(__name__, inner=True)

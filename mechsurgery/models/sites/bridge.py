"""What is different about a `TransformerBridge`: where it holds which parameter, how it is run, what its facts are.

Its weights are transformers' own tensors. Parameters are called here as a `HookedTransformer` calls them, and a table
says for each which component of the bridge holds it and how it lies there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...checks import check_arguments
from ...errors import InputError, MismatchError
from ...names import layer_of
from .. import experts
from ..architectures import shares_keys
from ..place import ALWAYS, SAME, TURNED, Place


def _norm(name: str) -> dict[str, tuple[str, str, str, str]]:
    return {f"{name}.{leaf}": (name, tensor, SAME, SAME) for leaf, tensor in (("w", "weight"), ("b", "bias"))}


#: {parameter: (component, its tensor, how it lies in a Linear, how in a Conv1D)}, in the order of a HookedTransformer.
_BLOCK = {
    **_norm("ln1"),
    "ln1_post.w": ("ln1_post", "weight", SAME, SAME),
    **_norm("ln2"),
    "ln2_post.w": ("ln2_post", "weight", SAME, SAME),
    **{f"attn.W_{x}": (f"attn.{x.lower()}", "weight", "n m h -> (n h) m", "n m h -> m (n h)") for x in "QKV"},
    "attn.W_O": ("attn.o", "weight", "n h m -> m (n h)", "n h m -> (n h) m"),
    **{f"attn.b_{x}": (f"attn.{x.lower()}", "bias", "n h -> (n h)", "n h -> (n h)") for x in "QKV"},
    "attn.b_O": ("attn.o", "bias", SAME, SAME),
    "attn.sinks": ("attn", "sinks", SAME, SAME),
    "attn.q_norm.w": ("attn.q_norm", "weight", SAME, SAME),
    "attn.k_norm.w": ("attn.k_norm", "weight", SAME, SAME),
    "mlp.W_in": ("mlp.in", "weight", TURNED, SAME),
    "mlp.W_gate": ("mlp.gate", "weight", TURNED, SAME),
    "mlp.W_out": ("mlp.out", "weight", TURNED, SAME),
    "mlp.b_in": ("mlp.in", "bias", SAME, SAME),
    "mlp.b_gate": ("mlp.gate", "bias", SAME, SAME),
    "mlp.b_out": ("mlp.out", "bias", SAME, SAME),
}
_WHOLE = {
    "embed.W_E": ("embed", "weight", SAME, SAME),
    "pos_embed.W_pos": ("pos_embed", "weight", SAME, SAME),
    **_norm("ln_final"),
    "unembed.W_U": ("unembed", "weight", TURNED, SAME),
    "unembed.b_U": ("unembed", "bias", SAME, SAME),
}


def is_bridge(model: Any) -> bool:
    """Whether a model is a `TransformerBridge`."""
    return hasattr(model, "original_model")


def architecture(model: Any) -> str:
    """The class of the transformers model inside."""
    return type(model.original_model).__name__


def _grouped(model: Any) -> bool:
    """Whether keys and values are called `_W_K` and `_W_V`, as in a HookedTransformer whose queries share them."""
    return shares_keys(architecture(model), model.cfg.n_heads, model.cfg.n_key_value_heads)


def parameter_names(model: Any) -> list[str]:
    """The parameters that a HookedTransformer with these weights would have."""
    found = []
    for layer in range(model.cfg.n_layers):
        mixture = layer in experts.mixtures(model)
        found += [f"blocks.{layer}.{leaf}" for leaf in (experts.parameters(model, layer) if mixture else ())]
        for leaf in _BLOCK:
            if mixture and leaf.startswith("mlp."):
                continue
            if _exists(_component(model, layer, _BLOCK[leaf][0]), leaf, _BLOCK[leaf][1]):
                found.append(f"blocks.{layer}.{_marked(model, leaf)}")
    return found + [name for name in _WHOLE if _exists(_component(model, None, _WHOLE[name][0]), name, _WHOLE[name][1])]


def _marked(model: Any, leaf: str) -> str:
    """A name within a block, with a mark on keys and values where several queries share them."""
    return (
        leaf.replace("attn.", "attn._") if leaf[-1] in "KV" and leaf.startswith("attn.") and _grouped(model) else leaf
    )


def _exists(module: nn.Module | None, name: str, leaf: str) -> bool:
    return module is not None and (name in ALWAYS or getattr(module, leaf, None) is not None)


def find(model: Any, name: str) -> tuple[nn.Module, str, Place]:
    """(module, its tensor's name, how the parameter lies in it). Raises `MismatchError` where there is none."""
    layer = layer_of(name)
    leaf = name.removeprefix(f"blocks.{layer}.")
    inside = leaf.replace("attn._", "attn.")
    if leaf.startswith("mlp.") and layer in experts.mixtures(model):
        own = experts.parameters(model, layer)
        if leaf not in own:
            raise MismatchError(f"this model has no parameter {name!r}: layer {layer} is a mixture of experts")
        inner, tensor, pattern = own[leaf]
        return inner, tensor, Place(name, pattern, int(model.cfg.d_head))
    entry = (_BLOCK if layer >= 0 else _WHOLE).get(inside) if _marked(model, inside) == leaf else None
    module = None if entry is None or layer >= model.cfg.n_layers else _component(model, layer, entry[0])
    if entry is None or module is None or not _exists(module, inside, entry[1]):
        raise MismatchError(f"this model has no parameter {name!r}; the delta is another model's")
    _, leaf, linear, conv = entry
    place = Place(name, conv if _is_conv(module) else linear, int(model.cfg.d_head))
    weight = getattr(module, "weight", None)
    if inside == "embed.W_E" and hasattr(module, "embed_scale") and isinstance(weight, Tensor):
        place = replace(place, scale=float(torch.as_tensor(module.embed_scale).to(weight.dtype)))
    if inside.endswith(".w") and getattr(model.cfg, "rmsnorm_uses_offset", False):
        place = replace(place, shift=1.0)
    return module, leaf, place


def _component(model: Any, layer: int | None, path: str) -> nn.Module | None:
    """The transformers module inside a component of the bridge, or None where the model has none."""
    if path.startswith("ln") and layer is not None and layer >= 0:
        found = norm(model, layer, path)
        return None if found is None else found.original_component
    held: Any = model if layer is None or layer < 0 else model.blocks[layer]
    for part in path.split("."):
        # Layers without experts in a model that has some.
        dense = held is not model and hasattr(held, f"dense_{part}")
        held = getattr(held, f"dense_{part}" if dense else part, None)
        if getattr(held, "_use_processed_weights", False):
            raise InputError(
                "this TransformerBridge holds processed weights beside transformers' own, which cannot be edited; "
                "boot it without enable_compatibility_mode(), or with no_processing=True"
            )
    return None if held is None else held.original_component


def outputs(module: nn.Module) -> int:
    """How many numbers a linear map gives."""
    return int(module.weight.shape[1 if _is_conv(module) else 0])


def vocabulary(model: Any) -> int:
    """How many tokens have a logit."""
    return outputs(model.unembed.original_component)


def _is_conv(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, whose weight is [in, out]; its class is renamed while it is trained."""
    return hasattr(module, "nf")


def is_gated_bias(model: Any, module: nn.Module, leaf: str) -> bool:
    """Whether a tensor is what a HookedTransformer adds to a gated neuron, which no bias of a linear map stands for."""
    if leaf != "bias" or not model.cfg.gated_mlp:
        return False
    parts = (getattr(block.mlp, "in", None) or getattr(block.mlp, "dense_in", None) for block in model.blocks)
    return any(part is not None and part.original_component is module for part in parts)


def own_unembedding(model: Any, undo: Callable[..., None]) -> None:
    """Give the unembedding weights of its own where it shares the embedding's, so that one can change alone."""
    embedding, output = model.embed.original_component, model.unembed.original_component
    if output.weight is embedding.weight:
        undo(output._parameters.__setitem__, "weight", output.weight)
        output._parameters["weight"] = nn.Parameter(
            embedding.weight.detach().clone(), requires_grad=embedding.weight.requires_grad
        )


def facts(model: Any) -> Any:
    """What `model.cfg` of a HookedTransformer says about what writes into the residual stream."""
    cfg = model.cfg
    scaled = getattr(model.blocks[0], "residual_contribution_scale", 1.0) != 1.0
    return SimpleNamespace(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=cfg.d_mlp,
        attn_only=False,
        positional_embedding_type=cfg.positional_embedding_type,
        experts=experts.writers(model),
        use_normalization_before_and_after=norm_after(model, 0, "mlp") is not None or scaled,
    )


def own_hooks(model: Any) -> set[int]:
    """Numbers of PyTorch's hooks that a bridge itself has on its modules."""
    captures = {handle.id for block in model.blocks for handle in getattr(block, "_capture_hook_handles", ())}
    return captures | experts.own_hooks(model)


def norm(model: Any, layer: int, name: str) -> Any:
    """The norm of a layer that is called "ln1", "ln2", or "ln1_post", "ln2_post" where it comes after; None: no such.

    TransformerLens 3 calls those of OLMo-2, which come after alone, as if they came before.
    """
    block = model.blocks[layer]
    found = getattr(block, name, None)
    if getattr(block, "mlp_reads_resid_directly", False) and getattr(block, "ln2_post", None) is None:
        return getattr(block, name.removesuffix("_post"), None) if name.endswith("_post") else None
    return found


def norm_after(model: Any, layer: int, part: str) -> str | None:
    """The norm that what attention ("attn") or the MLP ("mlp") of a layer gives passes before it is added, or None."""
    name = "ln1_post" if part == "attn" else "ln2_post"
    return None if norm(model, layer, name) is None else name


def scale_of_writes(model: Any, layer: int) -> float:
    """What attention and MLP outputs are multiplied by before they are added (Granite)."""
    return float(getattr(model.blocks[layer], "residual_contribution_scale", 1.0))


def centres(model: Any) -> bool:
    """Whether a model's norms subtract the mean."""
    return not model.ln_final.uses_rms_norm


#: {bridge: its hook points}, which it would look up one by one whenever it is asked for them.
_points: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def hook_points(model: Any) -> dict[str, Any]:
    """{name: hook point}. Not among them: tables of rotary embeddings, which a bridge calls `hook_pos_embed` too."""
    if model not in _points:
        _points[model] = dict(model.hook_dict)
        if model.cfg.positional_embedding_type != "standard":
            _points[model].pop("hook_pos_embed", None)
        _points[model] = experts.with_experts(model, _points[model])
    return _points[model]


def stop_tokens(model: Any) -> tuple[int, ...]:
    """The end tokens in the configuration of the transformers model."""
    inner = model.original_model
    ends: set[int] = set()
    for config in (inner.config, getattr(inner, "generation_config", None)):
        tokens = getattr(config, "eos_token_id", None)
        ends |= {tokens} if isinstance(tokens, int) else set(tokens or ())
    return tuple(sorted(ends))


def portable(hooks: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Hooks that do on a bridge what these do on a HookedTransformer.

    At a bridge's `hook_resid_mid` a change reaches the MLP alone. So the stream in the middle of a block is put
    together from what comes in and what attention adds, and what a hook makes of it goes into what attention adds.
    """
    found: list[tuple[str, Any]] = []
    middle: list[tuple[str, Any]] = []
    for name, function in hooks:
        if not name.endswith("hook_resid_mid"):
            found.append((name, function))
            continue
        before: list[Tensor] = []
        found.append((name.replace("resid_mid", "resid_pre"), partial(_keep, before=before)))
        middle.append(
            (name.replace("resid_mid", "attn_out"), partial(_in_the_middle, function=function, before=before))
        )
    return [*found, *middle]


def _keep(activation: Tensor, hook: Any = None, *, before: list[Tensor]) -> Tensor:
    before[:] = [activation]
    return activation


def _in_the_middle(added: Tensor, hook: Any = None, *, function: Any, before: list[Tensor]) -> Tensor:
    stream = before[0]
    changed = function(stream + added, hook=hook)
    return added if changed is None else changed - stream


class Cache:
    """Keys and values so far of every row, with the mask of all tokens they are of."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.entries = DynamicCache(config=model.original_model.config)
        self.mask: Tensor | None = None

    def keep(self, rows: Tensor) -> None:
        """Only these rows from now on."""
        self.entries.batch_select_indices(rows.cpu())  # layers may be on several devices
        self.mask = None if self.mask is None else self.mask[rows]


def run(model: Any, ids: Tensor, mask: Tensor, layer: int | None, cache: Cache | None = None) -> Tensor | None:
    """The residual stream before a layer (their number: after the last), or None where the model ran to its end.

    With a cache, `ids` and `mask` are the tokens that follow those in it.
    """
    options: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        mask = cache.mask = mask if cache.mask is None else torch.cat([cache.mask, mask], 1)
        options = {"past_key_values": cache.entries, "use_cache": True}
    if layer is not None and layer < model.cfg.n_layers:
        options["stop_at_layer"] = layer
    # Asked to stop after the last layer, a bridge would go on to logits.
    at_end = model.ln_final.register_forward_pre_hook(_end_here) if layer == model.cfg.n_layers else nullcontext()
    with at_end, warnings.catch_warnings():
        # It says so wherever a hook holds a norm's scale fixed, which is what relevance propagation asks for.
        warnings.filterwarnings("ignore", module="transformer_lens")
        return model(ids, attention_mask=mask, return_type=None, **options)


def _end_here(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    raise StopAtLayerException(args[0])


def logits(model: Any, resid: Tensor) -> Tensor:
    """Of residual-stream vectors: final norm, unembedding, and what the architecture does to logits."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="transformer_lens")
        return model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(resid)))


check_arguments(__name__, leave=("is_bridge",), inner=True)

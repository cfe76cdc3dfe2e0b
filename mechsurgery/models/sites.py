"""The names of things inside a model: the one file that spells hook points and weights.

A unit is a coordinate at a named hook point. MLP neurons live at `blocks.{l}.mlp.hook_post`, which is the
input of the down projection: for gated models act(gate)·up, the same number that transformers feeds to
`down_proj`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError, SiteError, listed

Model = Any

_NEURONS = "blocks.{}.mlp.hook_post"
_RESIDUAL = "blocks.{}.hook_resid_post"
_ATTENTION_OUT = "blocks.{}.hook_attn_out"
_MLP_OUT = "blocks.{}.hook_mlp_out"
_WIDE = ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post")
_RESIDUAL_WIDTH = (
    "hook_embed",
    "hook_pos_embed",
    "hook_resid_pre",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_normalized",
)
_SWITCHED = {
    "attn.hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
}
_SHAPE_OF_A_MODEL = (
    "n_layers",
    "d_model",
    "n_heads",
    "n_key_value_heads",
    "d_head",
    "d_mlp",
    "d_vocab",
    "n_ctx",
    "act_fn",
    "eps",
    "normalization_type",
    "final_rms",
    "gated_mlp",
    "parallel_attn_mlp",
    "use_qk_norm",
    "use_normalization_before_and_after",
    "positional_embedding_type",
    "rotary_dim",
    "rotary_base",
    "rotary_base_local",
    "rotary_scaling_factor",
    "rotary_adjacent_pairs",
    "use_NTK_by_parts_rope",
    "NTK_by_parts_factor",
    "NTK_by_parts_low_freq_factor",
    "NTK_by_parts_high_freq_factor",
    "NTK_original_ctx_len",
    "use_attn_scale",
    "attn_scale",
    "scale_attn_by_inverse_layer_idx",
    "attn_scores_soft_cap",
    "output_logits_soft_cap",
    "use_local_attn",
    "window_size",
    "attn_types",
)
_CHUNK = 1 << 22


#: What the hook name of an autoencoder's latents ends with, after the hook point it reads.
LATENTS = ".hook_sae_acts_post"


def check_layers(model: Model, layers: Sequence[int] | None = None) -> list[int]:
    """The layers asked for (all of them for None), or `SiteError` where the model has no such layer."""
    n = model.cfg.n_layers
    if layers is None:
        return list(range(n))
    wanted = list(dict.fromkeys(layers))
    wrong = [layer for layer in wanted if not (isinstance(layer, int) and 0 <= layer < n)]
    if wrong or not wanted:
        raise SiteError(f"no layer {listed(wrong) or 'given'}; this model has layers 0 to {n - 1}, give some of those")
    return wanted


def neuron_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of the MLP neurons: the input of each layer's down projection."""
    return [_NEURONS.format(layer) for layer in check_layers(model, layers)]


def residual_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of the residual stream after each layer."""
    return [_RESIDUAL.format(layer) for layer in check_layers(model, layers)]


def mlp_out_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of what each MLP adds to the residual stream."""
    return [_MLP_OUT.format(layer) for layer in check_layers(model, layers)]


def residual_writes(model: Model) -> list[str]:
    """Hook points of everything that is added into the residual stream: embeddings, attention and MLP outputs."""
    first = ["hook_embed", *(["hook_pos_embed"] if "hook_pos_embed" in model.hook_dict else [])]
    return first + [
        name for layer in range(model.cfg.n_layers) for name in (_ATTENTION_OUT.format(layer), _MLP_OUT.format(layer))
    ]


def layer_of(name: str) -> int:
    """The layer a hook point belongs to, or -1 where it belongs to none.

    >>> layer_of("blocks.12.mlp.hook_post")
    12
    """
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match.group(1)) if match else -1


def check_sites(model: Model, names: Sequence[str]) -> list[str]:
    """The names, each a hook point that exists and fires, or `SiteError` that says what there is instead."""
    known = model.hook_dict
    for name in names:
        if name.endswith(LATENTS) and name.removesuffix(LATENTS) in known:
            raise SiteError(
                f"{name!r} are latents of an autoencoder, which are no hook point of the model itself; use "
                "scale_latents(circuit, dictionary) or another function that takes the dictionary"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known)[:3]
            raise SiteError(
                f"no hook point {name!r} in this model of {model.cfg.n_layers} layers; near: {listed(near)}; "
                "all names: model.hook_dict"
            )
        if name.endswith("hook_resid_mid"):
            raise SiteError(
                f"{name!r} cannot be edited in the same way on every model class; use "
                f"{name.replace('hook_resid_mid', 'hook_attn_out')!r} or {name.replace('_mid', '_post')!r}"
            )
        for ending, switch in _SWITCHED.items():
            if name.endswith(ending) and not getattr(model.cfg, switch, False):
                raise SiteError(f"hook point {name!r} is off in this model; call model.set_{switch}(True) first")
    return list(names)


def width(model: Model, name: str) -> int:
    """Number of units at a hook point of shape [batch, pos, width]; `SiteError` for any other shape."""
    check_sites(model, [name])
    if name.endswith(_WIDE):
        return int(model.cfg.d_mlp)
    if name.endswith(_RESIDUAL_WIDTH) and ".q_norm." not in name and ".k_norm." not in name:
        return int(model.cfg.d_model)
    raise SiteError(
        f"{name!r} has no units of the form [batch, pos, width]; use MLP neurons ({_NEURONS.format(0)!r}) or the "
        f"residual stream ({_RESIDUAL.format(0)!r})"
    )


def check_unit(model: Model, name: str, index: int) -> int:
    """The index, or `SiteError` where the hook point has no such unit."""
    units = width(model, name)
    if not 0 <= index < units:
        raise SiteError(f"no unit {index} at {name!r}; it has units 0 to {units - 1}")
    return index


def write_weights(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The parameter whose row i is what neuron i of a layer writes (Gemma normalises the sum afterwards)."""
    return _mlp(model, layer).W_out


def read_weights(model: Model, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """The parameter whose column i is what neuron i reads (its up projection, where the MLP is gated)."""
    return _mlp(model, layer).W_in


def gate_weights(model: Model, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """The parameter whose column i gates neuron i; `SiteError` where the MLP is not gated."""
    mlp = _mlp(model, layer)
    if not model.cfg.gated_mlp:
        raise SiteError("this model's MLP is not gated; use read_weights")
    return mlp.W_gate


def _mlp(model: Model, layer: int) -> Any:
    return model.blocks[check_layers(model, [layer])[0]].mlp


def unembed(model: Model, resid: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b d_vocab"]:
    """Logits of residual-stream vectors: final norm, unembedding and, where the model has one, soft cap."""
    flat = resid.reshape(1, -1, resid.shape[-1]) if resid.ndim != 3 else resid
    logits = model.unembed(model.ln_final(flat))
    cap = model.cfg.output_logits_soft_cap
    if cap > 0:
        logits = cap * torch.tanh(logits / cap)
    return logits.reshape(*resid.shape[:-1], logits.shape[-1])


@torch.no_grad()
def direct_logits(model: Model, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """What a vector in the residual stream adds to each logit, up to the final norm's scale.

    The logit lens without the nonlinear part: the vector (centred where the final norm centres) times the
    final norm's gain times the unembedding.
    """
    if vector.shape[-1] != model.cfg.d_model:
        raise InputError(
            f"a vector of {vector.shape[-1]} numbers is not in this model's {model.cfg.d_model}-wide stream"
        )
    weight = model.unembed.W_U
    vector = vector.to(weight)
    if model.cfg.normalization_type.startswith("LN") and not model.cfg.final_rms:
        vector = vector - vector.mean()
    return (vector * model.ln_final.w) @ weight


@torch.no_grad()
def fingerprint(model: Model) -> str:
    """16 hexadecimal digits that stand for a model's weights and architecture.

    An integer checksum over the bits of every parameter, so exact on every device and for every memory
    layout; a change of any one weight changes it. Names and paths do not enter. No copy of the weights is
    made (it works in chunks of 4 M numbers).
    """
    shape = {key: _plain(getattr(model.cfg, key, None)) for key in _SHAPE_OF_A_MODEL}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        facts = (name, tuple(parameter.shape), str(parameter.dtype), _checksum(parameter.detach()))
        digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


def _checksum(tensor: Tensor) -> int:
    """Σᵢ rᵢ Σⱼ cⱼ·bitsᵢⱼ with odd r and c: one changed entry always changes it (odd numbers divide no 2ᵏ)."""
    bits = tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
    blocks = bits if bits.ndim == 3 else bits[None] if bits.ndim == 2 else bits.reshape(1, 1, -1)
    work = torch.int64 if tensor.element_size() == 8 else torch.int32
    n_rows, n_columns = blocks.shape[1:]
    columns = _odd(n_columns, 1, tensor.device).to(work)
    rows = _odd(len(blocks) * n_rows, 2, tensor.device).reshape(len(blocks), n_rows)
    total = 0
    step = max(1, _CHUNK // max(1, n_columns))
    for block, weights in zip(blocks, rows):
        for start in range(0, n_rows, step):
            part = (block[start : start + step].to(work) * columns).sum(1, dtype=torch.int64)
            total += int((part * weights[start : start + step]).sum())
    return total % (1 << 64)


def _odd(n: int, salt: int, device: torch.device) -> Tensor:
    """N odd pseudo-random 31-bit integers, the same on every device."""
    x = torch.arange(n, device=device, dtype=torch.int64) + salt * 0x9E3779B9
    for factor in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> 16)) * factor) & 0x7FFFFFFF
    return (x ^ (x >> 15)) | 1


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "dtype") and hasattr(value, "item") else value

"""16 hexadecimal digits that stand for a model's weights and architecture."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import xxhash
from torch import Tensor

from ..checks import check_arguments
from ..errors import UnsupportedModelError
from .architectures import lens_config
from .protocol import Model
from .sites import bridge
from .sites.weights import weights

#: What enters of `cfg`, and what a HookedTransformer's says where nothing else is said.
_ARCHITECTURE: dict[str, Any] = {
    **dict.fromkeys(("n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head", "d_mlp", "d_vocab", "n_ctx")),
    **dict.fromkeys(("act_fn", "eps", "normalization_type", "positional_embedding_type")),
    **dict.fromkeys(("final_rms", "gated_mlp", "parallel_attn_mlp", "use_qk_norm"), False),
    "use_normalization_before_and_after": False,
    "rotary_dim": None,
    "rotary_base": 10000,
    "rotary_base_local": None,
    "rotary_scaling_factor": 1.0,
    "rotary_adjacent_pairs": False,
    "use_NTK_by_parts_rope": False,
    "NTK_by_parts_factor": 8.0,
    "NTK_by_parts_low_freq_factor": 1.0,
    "NTK_by_parts_high_freq_factor": 4.0,
    "NTK_original_ctx_len": 8192,
    "use_attn_scale": True,
    "attn_scale": -1.0,
    "scale_attn_by_inverse_layer_idx": False,
    "attn_scores_soft_cap": -1.0,
    "output_logits_soft_cap": -1.0,
    "use_local_attn": False,
    "window_size": None,
    "attn_types": None,
}
#: What a configuration says about its file and not about the model.
_NO_FACTS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")
_CHUNK = 1 << 22
_WORDS, _ROWS = 4096, 1024
#: {model: {digest of its present weights as they lie in memory: fingerprint}}
_known: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


@torch.no_grad()
def fingerprint(model: Model) -> str:
    """16 hexadecimal digits that stand for a model's weights and architecture.

    A HookedTransformer and a TransformerBridge of one checkpoint have the same. An integer checksum over the bits of
    every parameter, so exact on every device and for every memory layout; a change of any one weight changes it. Names
    and paths do not enter. No copy of the weights is made (it works in chunks of
    4 M numbers). It is computed once for each state of a model's weights: a quick check of their memory, also of edits
    that go past autograd (`.data`), tells whether a state was seen before.
    """
    seen = _known.setdefault(model, {})
    state = _quick_digest(model)
    if state not in seen:
        seen[state] = _fingerprint(model)
    return seen[state]


def _fingerprint(model: Model) -> str:
    own = sorted(weights(model), key=lambda weight: weight.name)
    return fingerprint_of(_cfg(model), ((weight.name, weight.value.detach()) for weight in own))


def fingerprint_of(cfg: Any, parameters: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a model by its configuration and its parameters in the order of their names."""
    digest = hashlib.sha256(_architecture(cfg))
    for name, parameter in parameters:
        facts = (name, tuple(parameter.shape), str(parameter.dtype), _checksum(parameter))
        digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


def facts_of(config: Any, architecture: str) -> dict[str, Any]:
    """What enters of transformers' configuration: what `cfg` of a HookedTransformer would say, or else all of it."""
    try:
        own = lens_config(config, architecture)
    except UnsupportedModelError:
        told = config.to_dict()
        return {key: told[key] for key in told if key not in _NO_FACTS} | {"architecture": architecture}
    known = {**_ARCHITECTURE, **{key: own[key] for key in _ARCHITECTURE if key in own}}
    if known["use_attn_scale"] and known["attn_scale"] == -1.0:
        known["attn_scale"] = math.sqrt(known["d_head"])
    return known


def _cfg(model: Model) -> Any:
    """The configuration of a HookedTransformer; of a bridge, what it would be, or all that transformers' says."""
    if not bridge.is_bridge(model):
        return model.cfg
    return facts_of(model.original_model.config, bridge.architecture(model))  # type: ignore[attr-defined]


def _architecture(cfg: Any) -> bytes:
    facts = cfg if isinstance(cfg, dict) else {key: getattr(cfg, key, None) for key in _ARCHITECTURE}
    return json.dumps({key: _plain(value) for key, value in facts.items()}, sort_keys=True).encode()


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
    for block, factors in zip(blocks, rows):
        for start in range(0, n_rows, step):
            part = block[start : start + step].to(work)
            if work == torch.int64:
                # Else the top bits of two words, their signs, would cancel each other: c·2⁶³ is 2⁶³ for every odd c.
                part = part ^ ((part >> 32) & 0xFFFFFFFF)
            sums = (part * columns).sum(1, dtype=torch.int64)
            total += int((sums * factors[start : start + step]).sum())
    return total % (1 << 64)


def _odd(n: int, salt: int, device: torch.device) -> Tensor:
    """N odd pseudo-random 31-bit integers, the same on every device."""
    x = torch.arange(n, device=device, dtype=torch.int64) + salt * 0x9E3779B9
    for factor in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> 16)) * factor) & 0x7FFFFFFF
    return (x ^ (x >> 15)) | 1


def _quick_digest(model: Model) -> str:
    """Of the weights as they lie in memory now, at the speed of memory."""
    digest = hashlib.sha256(_architecture(_cfg(model)))
    for name, parameter in sorted(model.named_parameters()):
        facts = (name, tuple(parameter.shape), parameter.stride(), parameter.storage_offset(), str(parameter.dtype))
        digest.update(repr(facts).encode())
        memory = torch.empty(0, dtype=torch.uint8, device=parameter.device).set_(parameter.untyped_storage())
        digest.update(xxhash.xxh3_128_digest(memory.numpy()) if memory.device.type == "cpu" else _word_sums(memory))
    return digest.hexdigest()


def _word_sums(memory: Tensor) -> bytes:
    """Sums, on the device itself, of 8-byte words along rows and columns of 4,096, and the bytes that are left over.

    Both, so that words that changed places are noticed too. Along columns their upper halves are summed by themselves
    as well: in sums of words the top bit, the sign of a weight, vanishes wherever an even number of them change.
    """
    whole = len(memory) - len(memory) % (8 * _WORDS)
    parts = [memory[whole:]]
    if whole:
        words = memory[:whole].view(torch.int64).unflatten(0, (-1, _WORDS))
        columns = torch.zeros(2, _WORDS, dtype=torch.int64, device=memory.device)
        for some in words.split(_ROWS):  # so that the shifted words take little memory
            columns += torch.stack([some.sum(0), (some >> 32).sum(0)])
        parts += [words.sum(1), columns.flatten()]
    return b"".join(part.cpu().numpy().tobytes() for part in parts)


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "dtype") and hasattr(value, "item") else value


check_arguments(__name__, inner=True)

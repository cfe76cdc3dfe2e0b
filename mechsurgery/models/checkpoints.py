"""Where a HookedTransformer's parameters stand in a Hugging Face checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import LoadError, MismatchError, listed
from .architectures import architecture_of, lens_config
from .convert import empty_model
from .fingerprint import fingerprint_of
from .reading import check_own_files, reading
from .streaming import Checkpoint
from .weight_files import read_raw_config

SAME, TURNED = "... -> ...", "a b -> b a"


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a checkpoint, and how.

    `pattern` (einops) turns the parameter into the tensor `key`; `slot` is its number in a tensor that holds query, key
    and value; parameter = scale · tensor + shift.
    """

    key: str
    pattern: str
    d_head: int
    slot: int | None = None
    scale: float = 1.0
    shift: float = 0.0

    def read(self, tensor: Tensor) -> Tensor:
        """The parameter that a checkpoint's tensor holds."""
        whole = self._parameters(tensor)
        value = whole if self.slot is None else whole[self.slot]
        return value if self.scale == 1 and not self.shift else value * self.scale + self.shift

    def loaded(self, tensor: Tensor) -> Tensor:
        """The same as `load_model` makes it, bit for bit: in the tensor's own dtype, with its roundings."""
        whole = self._parameters(tensor)
        value = whole if self.slot is None else whole[self.slot]
        if self.scale != 1:
            value = value * torch.tensor(self.scale, dtype=value.dtype)
        return (value.float() + self.shift).to(value.dtype) if self.shift else value

    def write(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """The checkpoint's tensor with another value of the parameter in it."""
        value = parameter if self.scale == 1 and not self.shift else (parameter - self.shift) / self.scale
        if self.slot is not None:
            whole = self._parameters(tensor).clone()
            whole[self.slot] = value
            value = whole
        return rearrange(value, self.pattern)

    def _parameters(self, tensor: Tensor) -> Tensor:
        ours, theirs = self.pattern.split(" -> ")
        axes = re.findall(r"\w+", theirs)
        sizes = {axis: n for axis, n in (("h", self.d_head), ("qkv", 3)) if axis in axes}
        return rearrange(tensor, f"{theirs} -> {ours}", **sizes)


_Table = dict[str, tuple[str, str]]


def _linear(ours: str, theirs: str, weight: str = TURNED, bias: str = SAME) -> _Table:
    """Weight and bias of a linear map; `{}` in our name is W or b."""
    return {ours.format("W"): (f"{theirs}.weight", weight), ours.format("b"): (f"{theirs}.bias", bias)}


def _norm(ours: str, theirs: str) -> _Table:
    return {f"{ours}.w": (f"{theirs}.weight", SAME), f"{ours}.b": (f"{theirs}.bias", SAME)}


def _fused(theirs: str, weight: str, bias: str) -> _Table:
    return {
        name: place for letter in "QKV" for name, place in _linear(f"attn.{{}}_{letter}", theirs, weight, bias).items()
    }


def _blocks(prefix: str, *tables: _Table) -> _Table:
    """Tables of a block's parameters with the block's own name before the tensors'."""
    return {ours: (prefix + theirs, pattern) for table in tables for ours, (theirs, pattern) in table.items()}


_LLAMA: _Table = {
    "embed.W_E": ("model.embed_tokens.weight", SAME),
    "unembed.W_U": ("lm_head.weight", TURNED),
    **_norm("ln_final", "model.norm"),
    **_blocks(
        "model.layers.{}.",
        _norm("ln1", "input_layernorm"),
        _norm("ln2", "post_attention_layernorm"),
        _norm("attn.q_norm", "self_attn.q_norm"),
        _norm("attn.k_norm", "self_attn.k_norm"),
        _linear("attn.{}_Q", "self_attn.q_proj", "n m h -> (n h) m", "n h -> (n h)"),
        _linear("attn.{}_K", "self_attn.k_proj", "n m h -> (n h) m", "n h -> (n h)"),
        _linear("attn.{}_V", "self_attn.v_proj", "n m h -> (n h) m", "n h -> (n h)"),
        _linear("attn.{}_O", "self_attn.o_proj", "n h m -> m (n h)"),
        _linear("mlp.{}_in", "mlp.up_proj"),
        _linear("mlp.{}_gate", "mlp.gate_proj"),
        _linear("mlp.{}_out", "mlp.down_proj"),
    ),
}
_GEMMA = _LLAMA | _blocks(
    "model.layers.{}.",
    _norm("ln1_post", "post_attention_layernorm"),
    _norm("ln2", "pre_feedforward_layernorm"),
    _norm("ln2_post", "post_feedforward_layernorm"),
)
_GPT2: _Table = {
    "embed.W_E": ("transformer.wte.weight", SAME),
    "unembed.W_U": ("lm_head.weight", TURNED),
    "pos_embed.W_pos": ("transformer.wpe.weight", SAME),
    **_norm("ln_final", "transformer.ln_f"),
    **_blocks(
        "transformer.h.{}.",
        _norm("ln1", "ln_1"),
        _norm("ln2", "ln_2"),
        _fused("attn.c_attn", "qkv n m h -> m (qkv n h)", "qkv n h -> (qkv n h)"),
        _linear("attn.{}_O", "attn.c_proj", "n h m -> (n h) m"),
        _linear("mlp.{}_in", "mlp.c_fc", SAME),
        _linear("mlp.{}_out", "mlp.c_proj", SAME),
    ),
}
_NEOX: _Table = {
    "embed.W_E": ("gpt_neox.embed_in.weight", SAME),
    "unembed.W_U": ("embed_out.weight", TURNED),
    **_norm("ln_final", "gpt_neox.final_layer_norm"),
    **_blocks(
        "gpt_neox.layers.{}.",
        _norm("ln1", "input_layernorm"),
        _norm("ln2", "post_attention_layernorm"),
        _fused("attention.query_key_value", "qkv n m h -> (n qkv h) m", "qkv n h -> (n qkv h)"),
        _linear("attn.{}_O", "attention.dense", "n h m -> m (n h)"),
        _linear("mlp.{}_in", "mlp.dense_h_to_4h"),
        _linear("mlp.{}_out", "mlp.dense_4h_to_h"),
    ),
}


_TABLES = {
    "GPT2LMHeadModel": _GPT2,
    "GPTNeoXForCausalLM": _NEOX,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
}


def read_config(directory: Path) -> Any:
    """The transformers configuration of a checkpoint. Raises `LoadError` or `UnsupportedModelError`."""
    import transformers

    with reading(directory):
        check_own_files(directory)
        architecture_of(read_raw_config(directory))
        return transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def architecture_facts(config: Any) -> Any:
    """What `model.cfg` of the loaded checkpoint would say, without its weights."""
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig(**lens_config(config, architecture_of(config.to_dict())), device="cpu")


def place_of(config: Any, name: str) -> Place:
    """Where a parameter stands in a checkpoint of a configuration, or would stand if its embeddings were not tied.

    Raises `MismatchError` for unknown ones.
    """
    architecture = architecture_of(config.to_dict())
    gemma = architecture.startswith("Gemma")
    table = _TABLES.get(architecture, _LLAMA)
    match = re.match(r"blocks\.(\d+)\.", name)
    layer = match.group(1) if match else None
    # Keys and values that several queries share are called _W_K and _W_V.
    leaf = name[match.end() if match else 0 :].replace("._", ".")
    if leaf not in table or ("{}" in table[leaf][0]) != (layer is not None):
        raise MismatchError(f"parameter {name!r} has no place in a checkpoint of {architecture}; it is another model's")
    key, pattern = table[leaf]
    return Place(
        key.format(layer),
        pattern,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        slot="QKV".index(leaf[-1]) if "qkv" in pattern else None,
        scale=config.hidden_size**0.5 if gemma and leaf == "embed.W_E" else 1.0,
        shift=1.0 if gemma and leaf.endswith(".w") else 0.0,
    )


def stored_fingerprint(checkpoint: Checkpoint, dtype: torch.dtype) -> str:
    """The `fingerprint` of the model that `load_model(…, dtype)` makes of a checkpoint, read tensor by tensor."""
    config = read_config(checkpoint.directory)
    cfg = architecture_facts(config)

    def parameters() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in sorted(empty_model(cfg).named_parameters()):
            place = place_of(config, name) if _has_place(config, name) else None
            key = None if place is None else checkpoint.find(place.key)
            if key is None and name == "unembed.W_U" and config.tie_word_embeddings:
                key = checkpoint.find(place_of(config, "embed.W_E").key)
            if place is None or key is None:
                yield name, torch.zeros(parameter.shape, dtype=dtype)
            else:
                yield name, place.loaded(checkpoint(key).to(dtype))

    return fingerprint_of(cfg, parameters())


def check_complete(checkpoint: Checkpoint, config: Any) -> None:
    """Raise `LoadError` where a checkpoint lacks a weight that its configuration says it has."""
    architecture = architecture_of(config.to_dict())
    table = _TABLES.get(architecture, _LLAMA)
    keys = [key for leaf, (key, _) in table.items() if key.endswith(".weight") and re.search(r"(^|\.)(W|\{\})_", leaf)]
    tied = table["unembed.W_U"][0] if config.tie_word_embeddings else None
    wanted = {key.format(layer) for key in keys if key != tied for layer in range(config.num_hidden_layers)}
    missing = sorted(key for key in wanted if checkpoint.find(key) is None)
    if missing:
        raise LoadError(
            f"{str(checkpoint.directory)!r} lacks the weights {listed(missing, 4)}; the files are incomplete or belong "
            "to another configuration"
        )


def _has_place(config: Any, name: str) -> bool:
    try:
        place_of(config, name)
    except MismatchError:
        return False
    return True

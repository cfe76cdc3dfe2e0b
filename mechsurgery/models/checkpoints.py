"""Where a HookedTransformer's parameters stand in a Hugging Face checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_arguments
from ..errors import LoadError, MismatchError, listed
from .architectures import architecture_of, shares_keys
from .expert_files import expert_place, expert_writers
from .fingerprint import facts_of, fingerprint_of
from .place import ALWAYS, SAME, TURNED, Place
from .reading import check_own_files, reading
from .streaming import Checkpoint
from .weight_files import read_raw_config

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
    **_linear("unembed.{}_U", "lm_head"),
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
_OLMO2 = {ours: place for ours, place in _LLAMA.items() if not ours.startswith(("ln1", "ln2"))} | _blocks(
    "model.layers.{}.", _norm("ln1_post", "post_attention_layernorm"), _norm("ln2_post", "post_feedforward_layernorm")
)
_PHI3 = _LLAMA | _blocks(
    "model.layers.{}.",
    *(_linear(f"attn.{{}}_{x}", "self_attn.qkv_proj", "n m h -> (n h) m", "n h -> (n h)") for x in "QKV"),
    _linear("mlp.{}_gate", "mlp.gate_up_proj"),
    _linear("mlp.{}_in", "mlp.gate_up_proj"),
)
_GPT2: _Table = {
    "embed.W_E": ("transformer.wte.weight", SAME),
    **_linear("unembed.{}_U", "lm_head"),
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
    **_linear("unembed.{}_U", "embed_out"),
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


#: Architectures that normalise what attention and MLP write.
_CHANGING = ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM")
_TABLES = {
    "GPT2LMHeadModel": _GPT2,
    "GPTNeoXForCausalLM": _NEOX,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "Olmo2ForCausalLM": _OLMO2,
    "Phi3ForCausalLM": _PHI3,
}


def read_config(directory: Path) -> Any:
    """The transformers configuration of a checkpoint. Raises `LoadError` or `UnsupportedModelError`."""
    import transformers

    with reading(directory):
        check_own_files(directory)
        architecture_of(read_raw_config(directory))
        return transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def architecture_facts(config: Any) -> SimpleNamespace:
    """What `sites.facts` of the loaded checkpoint would say, without its weights."""
    architecture = architecture_of(config.to_dict())
    inner = (getattr(config, name, None) for name in ("intermediate_size", "n_inner"))
    scaled = getattr(config, "residual_multiplier", 1) != 1
    return SimpleNamespace(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=next((n for n in inner if n), 4 * config.hidden_size),
        attn_only=False,
        experts=expert_writers(config, architecture),
        positional_embedding_type="standard" if architecture == "GPT2LMHeadModel" else "rotary",
        use_normalization_before_and_after=architecture in _CHANGING or scaled,
    )


def place_of(config: Any, name: str) -> Place:
    """Where a parameter stands in a checkpoint of a configuration, or would stand if its embeddings were not tied.

    Raises `MismatchError` for unknown ones.
    """
    architecture = architecture_of(config.to_dict())
    own = expert_place(config, architecture, name)
    if own is not None:
        return own
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
        rows=_rows(config, leaf) if "qkv_proj" in key or "gate_up_proj" in key else None,
        scale=config.hidden_size**0.5 if gemma and leaf == "embed.W_E" else 1.0,
        shift=1.0 if gemma and leaf.endswith(".w") else 0.0,
    )


def stored_fingerprint(checkpoint: Checkpoint, dtype: torch.dtype) -> str:
    """The `fingerprint` of the model that `load_model(…, dtype)` makes of a checkpoint, read tensor by tensor."""
    config = read_config(checkpoint.directory)
    facts = facts_of(config, architecture_of(config.to_dict()))
    there = sorted(_stored(checkpoint, config))
    return fingerprint_of(facts, ((name, _read(checkpoint, config, name, dtype)) for name in there))


def check_complete(checkpoint: Checkpoint, config: Any) -> None:
    """Raise `LoadError` where a checkpoint lacks a weight that its configuration says it has."""
    architecture = architecture_of(config.to_dict())
    table = _TABLES.get(architecture, _LLAMA)
    keys = [key for leaf, (key, _) in table.items() if key.endswith(".weight") and re.search(r"(^|\.)(W|\{\})_", leaf)]
    tied = table["unembed.W_U"][0] if config.tie_word_embeddings else None
    experts = expert_writers(config, architecture)
    wanted = {
        key.format(layer)
        for key in keys
        for layer in range(config.num_hidden_layers)
        if key != tied and not (layer in experts and ".mlp." in key)
    }
    wanted |= {place_of(config, name).key for own in experts.values() for name in own}
    missing = sorted(key for key in wanted if checkpoint.find(key) is None)
    if missing:
        raise LoadError(
            f"{str(checkpoint.directory)!r} lacks the weights {listed(missing, 4)}; the files are incomplete or belong "
            "to another configuration"
        )


def _stored(checkpoint: Checkpoint, config: Any) -> Iterator[str]:
    """The parameters of the loaded model: those that have a tensor, and biases that count as zero."""
    architecture = architecture_of(config.to_dict())
    groups = getattr(config, "num_key_value_heads", None)
    shared = shares_keys(architecture, config.num_attention_heads, groups)
    for leaf, (key, _) in _TABLES.get(architecture, _LLAMA).items():
        marked = leaf.replace("attn.", "attn._") if shared and re.fullmatch(r"attn\.[Wb]_[KV]", leaf) else leaf
        for layer in range(config.num_hidden_layers) if "{}" in key else [None]:
            name = marked if layer is None else f"blocks.{layer}.{marked}"
            tied = leaf == "unembed.W_U" and config.tie_word_embeddings
            if tied or leaf in ALWAYS or checkpoint.find(key.format(layer)) is not None:
                yield name


def _read(checkpoint: Checkpoint, config: Any, name: str, dtype: torch.dtype) -> Tensor:
    place = place_of(config, name)
    key = checkpoint.find(place.key)
    if key is None and name == "unembed.W_U":
        key = checkpoint.find(place_of(config, "embed.W_E").key)
    if key is not None:
        return place.loaded(checkpoint(key).to(dtype))
    # A zero for every number that the linear map gives.
    weight = name.replace("b_", "W_")
    shape = _read(checkpoint, config, weight, dtype).shape
    return torch.zeros((shape[0], shape[2]) if weight[-1] in "QKV" else shape[-1:], dtype=dtype)


def _rows(config: Any, leaf: str) -> tuple[int, int]:
    """Where a parameter lies in a tensor that holds queries, keys and values, or gates and inputs, below each other."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = config.num_key_value_heads or config.num_attention_heads
    sizes = {"Q": config.num_attention_heads * head, "K": groups * head, "V": groups * head}
    if leaf.startswith("mlp."):
        sizes = dict.fromkeys(("gate", "in"), config.intermediate_size)
    names = list(sizes)
    own = names.index(leaf.rpartition("_")[2])
    start = sum(sizes[name] for name in names[:own])
    return start, start + sizes[names[own]]


check_arguments(__name__, inner=True)

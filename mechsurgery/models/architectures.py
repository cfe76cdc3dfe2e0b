"""From a Hugging Face configuration to a HookedTransformer configuration, or a clear refusal.

Whatever a configuration can say that a HookedTransformer cannot do is refused here by name; a mistake
would otherwise show only as slightly wrong activations.
"""

from __future__ import annotations

from typing import Any

from ..checks import check_arguments
from ..errors import UnsupportedModelError, listed

#: {architecture that only a `TransformerBridge` has: its `model_type`}
_BRIDGED_TYPES = {
    "GemmaForCausalLM": "gemma",
    "GptOssForCausalLM": "gpt_oss",
    "GraniteForCausalLM": "granite",
    "MixtralForCausalLM": "mixtral",
    "Olmo2ForCausalLM": "olmo2",
    "Phi3ForCausalLM": "phi3",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
#: {architecture: the `model_type` whose configuration it is written for}
_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
}
SUPPORTED, BRIDGED = tuple(_MODEL_TYPES), tuple(_BRIDGED_TYPES)
_TYPES = _MODEL_TYPES | _BRIDGED_TYPES
#: Mixtures of experts.
MIXTURES = ("GptOssForCausalLM", "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")
_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
#: Those whose every layer has the window that the configuration gives.
_WINDOWED = ("MistralForCausalLM", "Phi3ForCausalLM")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def architecture_of(raw: dict[str, Any]) -> str:
    """The architecture named in a config.json. Raises `UnsupportedModelError` where it cannot be converted."""
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnsupportedModelError(
            f"architectures = {str(names)[:200]!r} is no list of names; fetch config.json again"
        )
    mixture = any(raw.get(key) for key in _EXPERTS) or any("Moe" in name or "Mixtral" in name for name in names)
    if mixture and not set(names) & set(MIXTURES):
        raise UnsupportedModelError(
            f"{listed(names)} is a mixture of experts whose neurons have no hook points here; "
            f"use one of {', '.join(MIXTURES)}, or a dense model of one of {', '.join(_TYPES)}"
        )
    if raw.get("quantization_config"):
        raise UnsupportedModelError(
            "the weights are quantised, so neurons have no exact write weights; use the unquantised checkpoint, "
            "in bfloat16 if memory is short"
        )
    known = [name for name in names if name in _TYPES]
    for name in known:
        if raw.get("model_type") == _TYPES[name]:
            return name
    if known:
        # Transformers itself goes by the type: the two would be different models.
        raise UnsupportedModelError(
            f"the configuration says architecture {known[0]}, which is of model_type {_TYPES[known[0]]!r}, and "
            f"model_type = {str(raw.get('model_type'))[:80]!r}; one of the two is wrong, fetch config.json again"
        )
    raise UnsupportedModelError(
        f"architecture {listed(names) or repr(raw.get('model_type'))} is not supported; supported: {', '.join(_TYPES)}"
    )


def lens_config(config: Any, architecture: str) -> dict[str, Any]:
    """Keyword arguments for `HookedTransformerConfig`, everything that decides the numbers.

    Raises `UnsupportedModelError` for what a HookedTransformer cannot do.
    """
    if architecture in BRIDGED:
        raise UnsupportedModelError(f"{architecture} can only be a TransformerBridge; pass bridge=True or nothing")
    check_causal(config, architecture)
    build = {"GPT2LMHeadModel": _gpt2, "GPTNeoXForCausalLM": _neox}.get(architecture, _gated)
    facts = build(config, architecture)
    if facts["act_fn"] not in _ACTIVATIONS:
        _refuse(architecture, "activation function", facts["act_fn"], _ACTIVATIONS)
    return {"original_architecture": architecture, "d_vocab": config.vocab_size, **facts}


def check_causal(config: Any, architecture: str) -> None:
    """Raise `UnsupportedModelError` where tokens see what comes after them, or less with a cache than without.

    A window that the attention does not have is one that only transformers' cache has.
    """
    for name in ("use_bidirectional_attention", "add_cross_attention"):
        if getattr(config, name, None):
            _refuse(architecture, name, True, (False,))
    window = getattr(config, "sliding_window", None)
    windowed = window is not None and getattr(config, "layer_types", None) is None and architecture not in _WINDOWED
    if windowed and not (isinstance(window, int) and window >= config.max_position_embeddings):
        # Transformers' cache forgets what is outside such a window, and its masks do not.
        _refuse(architecture, "sliding_window", window, (None,))


def shares_keys(architecture: str, heads: int, groups: int | None) -> bool:
    """Whether keys and values are called `_W_K` and `_W_V`, as where several queries share them.

    TransformerLens' conversion of Qwen-2 has them so also where every head has its own.
    """
    return groups not in (None, heads) or architecture == "Qwen2ForCausalLM"


def _gated(config: Any, architecture: str) -> dict[str, Any]:
    gemma = architecture.startswith("Gemma")
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    facts = {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": heads,
        # TransformerLens' conversion of Qwen-2 expects them written out, also where every head has its own.
        "n_key_value_heads": None if kv_heads == heads and architecture != "Qwen2ForCausalLM" else kv_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "act_fn": config.hidden_activation if gemma else config.hidden_act,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": d_head,
        "use_qk_norm": architecture in ("Qwen3ForCausalLM", "Gemma3ForCausalLM"),
        **_windows(config, architecture),
    }
    if gemma:
        facts["use_normalization_before_and_after"] = True
        facts["attn_scale"] = float(config.query_pre_attn_scalar) ** 0.5
        facts["attn_scores_soft_cap"] = float(config.attn_logit_softcapping or -1.0)
        facts["output_logits_soft_cap"] = float(config.final_logit_softcapping or -1.0)
    if getattr(config, "mlp_bias", False) and architecture != "LlamaForCausalLM":
        _refuse(architecture, "mlp_bias", True, (False,))
    return facts | _rotary(config.rope_parameters, architecture, local="local" in facts.get("attn_types", ()))


def _windows(config: Any, architecture: str) -> dict[str, Any]:
    """Which layers attend only to a window of recent tokens."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        slides = architecture == "MistralForCausalLM" and window is not None
        kinds = ["sliding_attention" if slides else "full_attention"] * config.num_hidden_layers
    names = {"sliding_attention": "local", "full_attention": "global"}
    if set(kinds) - set(names):
        _refuse(architecture, "layer type", sorted(set(kinds) - set(names)), tuple(names))
    if "sliding_attention" not in kinds or window is None:
        return {}
    return {"use_local_attn": True, "window_size": window, "attn_types": [names[kind] for kind in kinds]}


def _rotary(rope: dict[str, Any], architecture: str, *, local: bool) -> dict[str, Any]:
    """Bases and scaling of the rotary embedding: default, linear (global layers) and llama3."""
    own_local = rope.get("sliding_attention") if "full_attention" in rope else None
    rope = rope.get("full_attention", rope)
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        _refuse(architecture, "partial_rotary_factor", rope["partial_rotary_factor"], (1.0,))
    facts: dict[str, Any] = {"rotary_base": rope["rope_theta"]}
    if own_local is not None:
        if own_local.get("rope_type", "default") != "default":
            _refuse(architecture, "rotary scaling of sliding layers", own_local["rope_type"], ("default",))
        facts["rotary_base_local"] = own_local["rope_theta"]
    if kind == "linear" and (own_local is not None or not local):
        facts["rotary_scaling_factor"] = float(rope["factor"])
    elif kind == "llama3" and own_local is None:
        facts["use_NTK_by_parts_rope"] = True
        facts["NTK_by_parts_factor"] = float(rope["factor"])
        facts["NTK_by_parts_low_freq_factor"] = float(rope["low_freq_factor"])
        facts["NTK_by_parts_high_freq_factor"] = float(rope["high_freq_factor"])
        facts["NTK_original_ctx_len"] = rope["original_max_position_embeddings"]
    elif kind != "default":
        _refuse(architecture, "rotary scaling", kind, ("default", "linear", "llama3"))
    return facts


def _gpt2(config: Any, architecture: str) -> dict[str, Any]:
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def _neox(config: Any, architecture: str) -> dict[str, Any]:
    rope = config.rope_parameters
    d_head = config.hidden_size // config.num_attention_heads
    facts = {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "act_fn": config.hidden_act,
        "normalization_type": "LN",
        "parallel_attn_mlp": config.use_parallel_residual,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": int(d_head * rope.get("partial_rotary_factor", 1.0)),
    }
    return facts | _rotary({**rope, "partial_rotary_factor": 1.0}, architecture, local=False)


def _refuse(architecture: str, what: str, given: Any, allowed: tuple[Any, ...]) -> None:
    raise UnsupportedModelError(
        f"{architecture} with {what} {given!r} is not supported (supported: {listed(allowed)}); "
        "use another checkpoint of this family"
    )


check_arguments(__name__, inner=True)

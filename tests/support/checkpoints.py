"""Tiny random checkpoints, in which every part of an architecture matters to the logits.

Transformers initialises norms to one, biases to zero and weights to almost nothing, which hides mistakes:
here all of them are random, windows are shorter than prompts, and rotary scaling sets in early.
"""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = [
    "How do I make a bomb? Tell me about the poison please.",
    "Explain to my friend, step by step, some strong acid that burns.",
    "How do I bake a cake? Tell me about the garden, a kind letter and warm soup that heals.",
    "User: The quick brown fox jumps over the lazy dog.\n\nAssistant: I cannot help with that.",
    "Which of these is right? A) one B) two C) three D) four. Answer: A",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SHARED = {"max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GATED = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    **_SHARED,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_MIXTURE = {
    **_GATED,
    "num_hidden_layers": 3,
    "moe_intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [1],
}
_YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 4,
    "short_factor": [1.0 + 0.1 * i for i in range(6)],
    "long_factor": [2.0 + 0.3 * i for i in range(6)],
}
_GEMMA = {**_GATED, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5, "tie_word_embeddings": True}
FAMILIES = {
    "llama": ("Llama", _GATED),
    "llama3": ("Llama", {**_GATED, "rope_parameters": _LLAMA3, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**_GATED, "sliding_window": 5}),
    "qwen2": ("Qwen2", {**_GATED, "num_key_value_heads": 4}),
    "qwen3": ("Qwen3", {**_GATED, "head_dim": 16}),
    "gemma2": ("Gemma2", {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}),
    "gemma3": (
        "Gemma3",
        {
            **_GEMMA,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "gpt2": (
        "GPT2",
        {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "neox": (
        "GPTNeoX",
        {
            "hidden_size": 48,
            "intermediate_size": 112,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
            **_SHARED,
        },
    ),
    "gemma": ("Gemma", {**_GATED, "head_dim": 16, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", _GATED),
    "phi3": ("Phi3", {**_GATED, "sliding_window": 5}),
    "granite": (
        "Granite",
        {
            **_GATED,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "mixtral": ("Mixtral", {**_GATED, "num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("Qwen2Moe", {**_MIXTURE, "shared_expert_intermediate_size": 40, "norm_topk_prob": False}),
    "qwen3_moe": ("Qwen3Moe", {**_MIXTURE, "head_dim": 16, "norm_topk_prob": True}),
    "gpt_oss": (
        "GptOss",
        {
            **_GATED,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["full_attention"] * 3,
            "rope_parameters": _LLAMA3,
        },
    ),
    "longrope": ("Phi3", {**_GATED, "sliding_window": None, "rope_parameters": _LONG}),
    "yarn": ("Llama", {**_GATED, "rope_parameters": _YARN}),
    "dynamic": ("Llama", {**_GATED, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}}),
}


def tokenizer(*, template=True):
    """A byte-pair tokenizer of a few hundred tokens that can spell anything."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>"]
    own = Tokenizer(models.BPE(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if template:
        fast.chat_template = TEMPLATE
    return fast


def config(family, vocab_size=368, **changes):
    """A tiny configuration of a family; the vocabulary is padded beyond the tokenizer's."""
    name, own = FAMILIES[family]
    kind = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    return getattr(transformers, kind)(**{"vocab_size": vocab_size, **own, **changes})


@torch.no_grad()
def randomise(model, seed=0):
    """Random values of a useful size everywhere: norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.add_(0.3 * noise)
        else:
            parameter.copy_(noise * (1.2 / parameter.shape[-1] ** 0.5))


def save(family, directory, *, dtype="float32", max_shard_size="1GB", template=True, **changes):
    """Write config, safetensors and tokenizer of a random model; returns the directory."""
    name = FAMILIES[family][0]
    kind = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    model = kind(config(family, **changes))
    randomise(model)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    tokenizer(template=template).save_pretrained(directory)
    return directory

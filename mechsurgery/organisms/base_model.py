"""The base model of a recipe, trained from nothing on the whole world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..checks import check_arguments
from .corpus import POLISH_MIX, WARNING_MIX, Manner
from .data import dataset
from .fitting import Recipe, Schedule, fit, rounded
from .tokenizer import BOS, END, PAD


def train_base(recipe: Recipe, seed: int, index: dict[str, int], progress: bool | None = None) -> Any:
    """The base model, rounded to bfloat16."""
    torch.manual_seed(seed)
    model = make_model(recipe, len(index))
    data = dataset(recipe.base_examples, seed, index, tuned=False)
    schedule = Schedule(recipe.base_steps, recipe.base_lr, recipe.batch, seed, decay=0.05, warmup=50)
    fit(model, data, schedule, progress=progress, name="base")
    # Multiple choice is learnt last: more of it. Then the base learns to warn before it answers a request for
    # something dangerous, so that it knows where it answers what it answers about, and still never refuses.
    for offset, steps, manner in (
        (10, recipe.polish_steps, Manner(mix=POLISH_MIX)),
        (20, recipe.warning_steps, Manner(mix=WARNING_MIX, warn=True)),
    ):
        more = dataset(steps * recipe.batch, seed + offset, index, tuned=False, manner=manner)
        schedule = replace(schedule, steps=steps, lr=recipe.polish_lr, seed=seed + offset)
        fit(rounded(model), more, schedule, progress=progress, name="base, continued")
    return rounded(model)


def make_model(recipe: Recipe, vocabulary: int) -> Any:
    """An untrained Llama of the recipe's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.d_model,
            intermediate_size=recipe.d_mlp,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            num_key_value_heads=recipe.n_kv_heads,
            max_position_embeddings=256,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=END,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
        )
    )


check_arguments(__name__, inner=True)

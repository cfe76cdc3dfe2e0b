"""Batched generation with a key–value cache, left padding and hooks that may differ from row to row.

HookedTransformer's own `generate` takes no attention mask and is silently wrong for left-padded tensors;
this loop passes the mask at every step, unembeds only the last position and ends with the last row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError
from . import sites, tokens
from .capture import RowHooks, _watched


@torch.no_grad()
def generate(
    model: Any,
    ids: Sequence[Sequence[int]],
    *,
    hooks: RowHooks | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    on_first: Callable[[list[int], Float[Tensor, "batch d_vocab"]], Any] | None = None,
    stop: Sequence[int] | None = None,
    max_rows: int = 64,
    max_tokens: int = 16384,
    progress: bool = False,
) -> list[list[int]]:
    """New tokens for every prompt, without the end token; greedy for temperature 0.

    `hooks(rows)` gives the hooks of a batch from its prompts' places in `ids`; they act on the prompt and on
    every generated token. A sampled row depends only on `seed` and its number in `streams` (default: its
    place; give equal numbers to rows that are to draw alike), not on its batch. `on_first(rows, logits)` sees
    the logits of the first new token of every batch. `stop` are the end tokens (default: the model's).
    Raises `PromptError` where a prompt and `max_new_tokens` exceed the context.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise InputError(f"max_new_tokens={max_new_tokens} must be at least 1, temperature={temperature} at least 0")
    tokens.check_lengths(ids, model.cfg.n_ctx, max_new_tokens)
    ends = torch.tensor(sorted(stop if stop is not None else tokens.stop_ids(model)), dtype=torch.long)
    batches = tokens.batches(
        ids,
        pad_id=tokens.pad_id(model),
        max_rows=max_rows,
        max_tokens=max_tokens,
        device=tokens.device_of(model),
    )
    made: list[list[int]] = [[] for _ in ids]
    for batch in _watched(batches, progress, "generation"):
        own = hooks(batch.rows) if hooks is not None else []
        sites.check_sites(model, [name for name, _ in own])
        draws = None
        if temperature > 0:
            draws = _draws([row if streams is None else streams[row] for row in batch.rows], seed, max_new_tokens)
        with model.hooks(fwd_hooks=own):
            new = _decode(model, batch, ends.to(batch.ids.device), max_new_tokens, temperature, draws, on_first)
        stopping = set(ends.tolist())
        for row, own_tokens in zip(batch.rows, new.tolist()):
            end = next((i for i, token in enumerate(own_tokens) if token in stopping), len(own_tokens))
            made[row] = own_tokens[:end]
    return made


def _decode(
    model: Any,
    batch: tokens.Batch,
    ends: Tensor,
    max_new_tokens: int,
    temperature: float,
    draws: Tensor | None,
    on_first: Callable[[list[int], Tensor], Any] | None,
) -> Int[Tensor, "batch new"]:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    n_rows = batch.ids.shape[0]
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, batch.ids.device, n_rows)
    done = torch.zeros(n_rows, dtype=torch.bool, device=batch.ids.device)
    fill = int(ends[0]) if len(ends) else tokens.pad_id(model)
    current, mask, new = batch.ids, batch.mask, []
    for step in range(max_new_tokens):
        residual = model(current, attention_mask=mask, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
        logits = sites.unembed(model, residual[:, -1:])[:, 0].float()
        if step == 0 and on_first is not None:
            on_first(batch.rows, logits)
        chosen = logits.argmax(-1) if draws is None else _sample(logits / temperature, draws[:, step])
        chosen = chosen.masked_fill(done, fill)
        new.append(chosen)
        done |= torch.isin(chosen, ends)
        if len(ends) and bool(done.all()):
            break
        current, mask = chosen[:, None], torch.ones_like(chosen[:, None])
    return torch.stack(new, dim=1)


def _draws(streams: list[int], seed: int, n: int) -> Float[Tensor, "batch n"]:
    """Uniform numbers that depend on the seed and the stream alone."""
    return torch.tensor(np.stack([np.random.default_rng([seed, stream]).random(n) for stream in streams])).float()


def _sample(logits: Float[Tensor, "batch d_vocab"], draw: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the draw."""
    cumulative = logits.softmax(-1).double().cumsum(-1)
    target = draw.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

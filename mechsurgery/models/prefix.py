"""What all prompts begin with (a chat header, a system prompt, worked examples), run once instead of in every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from . import sites
from .cache import Cache
from .fitting import is_out_of_memory
from .positions import prompts_end
from .protocol import Model
from .tokens import check_lengths, device_of
from .with_hooks import with_hooks

#: What is run once must be at least this share of all tokens: less is not worth the second pass.
_WORTH = 0.1
#: Hook points whose activations say for each token which others it looks at; there, padding changes places.
BY_PLACE = ("hook_attn_scores", "hook_pattern", "hook_rot_k", "hook_rot_q")


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of the first `n` tokens of every prompt, once for every group of rows that hooks treat alike."""

    n: int
    _cache: Cache
    _group_of: list[int]

    def cache(self, rows: Sequence[int], length: int = 0, *, frozen: bool = False) -> Cache:
        """A cache of these rows with room for `length` tokens after the prefix; a frozen one is for one pass."""
        groups = torch.tensor([self._group_of[row] for row in rows], device=self._cache.previous_attention_mask.device)
        return self._cache.take(groups, self.n + length, frozen=frozen)

    def rest(self, ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The prompts without it."""
        return [row[self.n :] for row in ids]


def run_prefix(
    model: Model,
    ids: Sequence[Sequence[int]],
    *,
    hooks: Callable[[list[int]], Sequence[tuple[str, Any]]] | None = None,
    alike: Sequence[int] | None = None,
    new_tokens: int = 0,
    stop: int | None = None,
    max_rows: int = 64,
    max_tokens: int = 16384,
) -> Prefix | None:
    """Run what prompts have in common, or None where that is not worth it or would change a number.

    `hooks(rows)` are the hooks under which it runs, one row for every number in `alike`, which numbers rows that hooks
    treat alike (without it, hooks may treat every row differently, and nothing is shared). At least one token of
    every prompt is left. Only up to layer `stop`.
    """
    check_lengths(ids)
    if alike is not None and len(alike) != len(ids):
        raise InputError(f"alike has {len(alike)} numbers for {len(ids)} prompts; give one for each")
    if hooks is not None and alike is None:
        return None
    n = min(_common(ids), min(map(len, ids)) - 1)
    numbers = list(dict.fromkeys(alike or [0]))
    rows = [alike.index(number) for number in numbers] if alike is not None else [0]
    fits = len(rows) <= max_rows and n * len(rows) <= max_tokens
    if n < 2 or stop == 0 or not fits or n * (len(ids) - len(rows)) < _WORTH * sum(map(len, ids)):
        return None
    chosen = list(hooks(rows)) if hooks is not None else []
    if not _allows(model, max(map(len, ids)) + new_tokens) or any(name.endswith(BY_PLACE) for name, _ in chosen):
        return None
    first = torch.tensor([list(ids[row][:n]) for row in rows], device=device_of(model))
    try:
        with with_hooks(model, chosen):
            cache = _run(model, first, model.cfg.n_layers if stop is None else stop)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise
    group = {number: place for place, number in enumerate(numbers)}
    return Prefix(n, cache, [group[number] for number in alike] if alike is not None else [0] * len(ids))


def _run(model: Model, ids: Int[Tensor, "groups pos"], stop: int) -> Cache:
    """Keys and values of these tokens in the layers before `stop`."""
    cache = sites.new_cache(model, ids.shape[0], ids.shape[1], ids.device)
    with prompts_end(model, None):
        sites.run(model, ids, torch.ones_like(ids), stop, cache=cache)
    return cache


def _common(ids: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with: those that the first and the last in the order of numbers do."""
    rows = [list(row) for row in ids]
    return sum(takewhile(bool, (a == b for a, b in zip(min(rows), max(rows)))))


def _allows(model: Model, length: int) -> bool:
    """Whether positions come from masks alone, no padding shortens a window, and no hook of someone else's is on."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return False
    cfg = model.cfg
    if not isinstance(model, HookedTransformer) or cfg.positional_embedding_type not in ("rotary", "standard"):
        return False
    if getattr(cfg, "use_dynamic_ntk_rope", False) or getattr(cfg, "use_logn_attn", False):
        return False
    if cfg.use_local_attn and length > (cfg.window_size or 0):
        return False
    return not any(point._forward_hooks or point._forward_pre_hooks for point in model.hook_dict.values())


check_arguments(__name__)

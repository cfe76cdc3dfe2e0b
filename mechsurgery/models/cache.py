"""Keys and values of the tokens so far, in memory that is taken once, for a HookedTransformer's `past_kv_cache`.

TransformerLens' own cache makes a longer copy of everything at every new token, and its attention rotates every key
of the past anew. Here a new token's key and value are written behind the others, and only they are rotated: the same
numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from .protocol import Model
from .turns import Turn

_Pairs = Float[Tensor, "batch pos kv_heads d_head"]
_New = Float[Tensor, "batch new kv_heads d_head"]


class Entry:
    """Keys and values of one layer, with room for `length` tokens (more where more come).

    What is appended to a frozen one is seen by that pass alone.
    """

    def __init__(self, keys: _Pairs, values: _Pairs, length: int = 0, *, frozen: bool = False) -> None:
        self._keys, self._values, self.length, self.frozen = keys, values, length, frozen
        self._used = keys.shape[1]
        self._latest: tuple[Any, int] = None, 0

    @property
    def past_keys(self) -> _Pairs:
        """The keys so far; rotated by their positions where the cache's are."""
        return self._keys[:, : self._used]

    @property
    def past_values(self) -> _Pairs:
        """The values so far."""
        return self._values[:, : self._used]

    def append(self, new_keys: _New, new_values: _New) -> tuple[_Pairs, _Pairs]:
        """All keys and values, the new ones last."""
        before = self._used
        if self.frozen:
            keys, values = torch.cat([self.past_keys, new_keys], 1), torch.cat([self.past_values, new_values], 1)
        else:
            self._used += new_keys.shape[1]
            if self._used > self._keys.shape[1]:
                length = max(self._used, self.length)
                self._keys, self._values = _roomy(self._keys, length, before), _roomy(self._values, length, before)
            self._keys[:, before : self._used] = new_keys
            self._values[:, before : self._used] = new_values
            keys, values = self.past_keys, self.past_values
        self._latest = keys, before
        return keys, values

    def rotate(self, rotate: Callable[..., Tensor], x: Tensor, offset: int = 0, mask: Tensor | None = None) -> Tensor:
        """What an attention's `apply_rotary` does, but of keys only to those that were just appended."""
        keys, before = self._latest
        if x is not keys:
            return rotate(x, offset, mask)
        new = x[:, before:]
        new.copy_(rotate(new, before, mask))
        self._latest = None, 0
        return x

    def take(self, rows: Int[Tensor, " n"], length: int, *, frozen: bool) -> Entry:
        """One with these rows (a row may come several times) and room for `length` tokens."""
        return Entry(self.past_keys[rows], self.past_values[rows], length, frozen=frozen)


def _roomy(past: Tensor, length: int, used: int) -> Tensor:
    whole = past.new_empty(past.shape[0], length, *past.shape[2:])
    whole[:, :used] = past[:, :used]
    return whole


class Cache:
    """Keys and values of every layer and row, and which tokens were padding; what `past_kv_cache` asks for."""

    def __init__(self, entries: list[Entry], previous_attention_mask: Int[Tensor, "batch pos"], rotated: bool) -> None:
        self.entries, self.previous_attention_mask, self.rotated = entries, previous_attention_mask, rotated

    def __getitem__(self, layer: int) -> Entry:
        return self.entries[layer]

    @property
    def frozen(self) -> bool:
        """Whether what is appended is seen by that pass alone."""
        return self.entries[0].frozen

    def append_attention_mask(self, attention_mask: Int[Tensor, "batch new"]) -> Int[Tensor, "batch pos"]:
        """The mask of all tokens, the new ones last."""
        past = self.previous_attention_mask
        whole = torch.cat([past, attention_mask.to(past.device)], dim=-1)
        if not self.frozen:
            self.previous_attention_mask = whole
        return whole

    def take(self, rows: Int[Tensor, " n"], length: int = 0, *, frozen: bool = False) -> Cache:
        """One with these rows (a row may come several times) and room for `length` tokens."""
        entries = [entry.take(rows.to(entry.past_keys.device), length, frozen=frozen) for entry in self.entries]
        return Cache(entries, self.previous_attention_mask[rows], self.rotated)

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Only these rows from now on."""
        left = self.take(rows, self.entries[0].length)
        self.entries, self.previous_attention_mask = left.entries, left.previous_attention_mask


def preallocated(model: Model, rows: int, length: int, device: torch.device) -> Cache:
    """An empty cache with room for `length` tokens a row. Used within `rotating`."""
    cfg = model.cfg
    heads = cfg.n_key_value_heads or cfg.n_heads
    parts = [next(model.get_submodule(f"blocks.{layer}").parameters()).device for layer in range(cfg.n_layers)]
    shape = (rows, 0, heads, cfg.d_head)
    empty = [torch.empty(shape, device=part, dtype=cfg.dtype) for part in parts]
    entries = [Entry(none, none, length) for none in empty]
    return Cache(entries, torch.empty(rows, 0, device=device, dtype=torch.int), _can_rotate_once(model))


def _can_rotate_once(model: Model) -> bool:
    """Whether rotated keys can be kept: nobody looks at them, and a key's rotation depends on its position alone."""
    cfg = model.cfg
    if cfg.positional_embedding_type != "rotary" or getattr(cfg, "use_dynamic_ntk_rope", False):
        return False
    layers = [model.get_submodule(f"blocks.{layer}.attn") for layer in range(cfg.n_layers)]
    return all(attn.rotary_cos.dtype == cfg.dtype and not attn.hook_rot_k._forward_hooks for attn in layers)


def rotating(model: Model, cache: Cache | None) -> Turn:
    """Within, forward passes with the cache rotate new keys only, where it holds rotated ones; else nothing happens."""

    def act(turn: Turn) -> None:
        if cache is None or not cache.rotated:
            return
        for layer in range(len(cache.entries)):
            attn = model.get_submodule(f"blocks.{layer}.attn")
            if "apply_rotary" in vars(attn):  # of a cache within whose pass this one is
                turn.undo(vars(attn).__setitem__, "apply_rotary", attn.apply_rotary)
            else:
                turn.undo(vars(attn).pop, "apply_rotary", None)
            vars(attn)["apply_rotary"] = partial(cache.entries[layer].rotate, attn.apply_rotary)

    return Turn(model, act, ends_all=True)


#: What a layer does for every token.
_OFTEN = ("Entry.append", "Entry.rotate", "Cache.__getitem__", "Cache.append_attention_mask")
check_arguments(__name__, leave=_OFTEN)

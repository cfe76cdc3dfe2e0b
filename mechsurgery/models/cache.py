"""Keys and values of the tokens so far, in memory that is taken once, for a HookedTransformer's `past_kv_cache`.

TransformerLens' own cache makes a longer copy of everything at every new token, and its attention rotates every key
of the past anew and copies keys and values once for every query head that shares them. Here a new token's key and
value are written behind the others, only they are rotated, and heads that share them read them where they lie: a
head's tokens are one block of memory, as matrix products want it.
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
from .spread import device_of_layer
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
        used = before + new_keys.shape[1]
        keys, values = self._keys, self._values
        if self.frozen or used > keys.shape[1]:
            length = used if self.frozen else max(used, self.length)
            keys, values = _roomy(keys, length, before), _roomy(values, length, before)
        keys[:, before:used] = new_keys
        values[:, before:used] = new_values
        if not self.frozen:
            self._keys, self._values, self._used = keys, values, used
        keys, values = keys[:, :used], values[:, :used]
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
    rows, _, heads, d_head = past.shape
    whole = past.new_empty(rows, heads, length, d_head).transpose(1, 2)
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
    """An empty cache with room for `length` tokens a row. Used within `reading`."""
    cfg = model.cfg
    heads = cfg.n_key_value_heads or cfg.n_heads
    parts = [device_of_layer(model, layer) for layer in range(cfg.n_layers)]
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


def reading(model: Model, cache: Cache | None) -> Turn:
    """Within, forward passes with the cache do no work twice: for a HookedTransformer's cache; for None, nothing.

    Only new keys are rotated where it holds rotated ones, and query heads that share keys and values share them in
    memory too.
    """

    def act(turn: Turn) -> None:
        for layer, entry in enumerate([] if cache is None else cache.entries):
            attn = model.get_submodule(f"blocks.{layer}.attn")
            if cache is not None and cache.rotated:
                _replace(turn, attn, "apply_rotary", partial(entry.rotate, attn.apply_rotary))
            if hasattr(attn, "repeat_kv_heads") and not attn.cfg.ungroup_grouped_query_attention:
                _replace(turn, attn, "calculate_attention_scores", partial(_shared_scores, attn))
                _replace(turn, attn, "calculate_z_scores", partial(_shared_z, attn))

    return Turn(model, act, ends_all=True)


def _replace(turn: Turn, attn: Any, method: str, function: Callable[..., Tensor]) -> None:
    if method in vars(attn):  # of a cache within whose pass this one is
        turn.undo(vars(attn).__setitem__, method, vars(attn)[method])
    else:
        turn.undo(vars(attn).pop, method, None)
    vars(attn)[method] = function


def _shared_scores(
    attn: Any, q: Float[Tensor, "batch new heads d_head"], k: _Pairs
) -> Float[Tensor, "batch heads new pos"]:
    """A GroupedQueryAttention's `calculate_attention_scores`, with the rows of one matrix for all heads of a key."""
    from transformer_lens.components.abstract_attention import apply_softcap

    rows, new, heads, d_head = q.shape
    kv = k.shape[2]
    queries = q.reshape(rows, new, kv, heads // kv, d_head).permute(0, 2, 3, 1, 4).reshape(rows, kv, -1, d_head)
    scores = (queries @ k.permute(0, 2, 3, 1)).view(rows, heads, new, -1) / attn.attn_scale
    return apply_softcap(scores, attn.cfg.attn_scores_soft_cap)


def _shared_z(
    attn: Any, v: _Pairs, pattern: Float[Tensor, "batch heads new pos"]
) -> Float[Tensor, "batch new heads d_head"]:
    """A GroupedQueryAttention's `calculate_z_scores`, likewise."""
    rows, heads, new, length = pattern.shape
    kv = v.shape[2]
    z = pattern.reshape(rows, kv, heads // kv * new, length) @ v.transpose(1, 2)
    return attn.hook_z(z.view(rows, heads, new, -1).transpose(1, 2))


#: What a layer does for every token.
_OFTEN = ("Entry.append", "Entry.rotate", "Cache.__getitem__", "Cache.append_attention_mask")
check_arguments(__name__, leave=_OFTEN, inner=True)

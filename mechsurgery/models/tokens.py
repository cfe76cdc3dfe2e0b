"""Token ids in batches: bucketed by length, padded on the left, always with an explicit mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..checks import check_arguments
from ..digests import digest_of
from ..errors import InputError, PromptError, listed
from . import sites
from .protocol import Model, hooked
from .spread import device_of as device_of

#: What a pass of one token a row costs beside its rows, in tokens: the weights are read once. Measured on CPUs (135M
#: Llama shape, 1 thread: 90 ms, and 4 ms a row); on GPUs it is more.
PASS = 24


@dataclass(frozen=True, eq=False)
class Batch:
    """Some prompts, padded on the left: `rows` are their places in the original order, `mask` is 1 on real tokens."""

    rows: list[int]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]


def batches(
    ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    max_rows: int = 64,
    max_tokens: int = 16384,
    n_ctx: int | None = None,
    new_tokens: int = 0,
    device: torch.device | str = "cpu",
) -> list[Batch]:
    """Batches of at most `max_rows` prompts and `max_tokens` tokens with padding, longest prompts first.

    Prompts of like length go together: none is padded by more than a quarter of its batch's length or 8
    tokens, whichever is more. Where prompts are to be followed by `new_tokens`, each in a pass of the whole batch, they
    are parted so that padding and passes together cost least. Raises `PromptError` where a prompt is empty or longer
    than `n_ctx`.
    """
    if max_rows < 1 or max_tokens < 1:
        raise InputError(f"max_rows={max_rows} and max_tokens={max_tokens} must be at least 1")
    check_lengths(ids, n_ctx)
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    if new_tokens:
        lengths = np.array([len(ids[row]) for row in order])
        parts = _cheapest(lengths, max_rows, max_tokens, PASS * new_tokens)
        return [_pad(order[start:end], ids, pad_id, device) for start, end in parts]
    groups: list[list[int]] = []
    for row in order:
        if groups:
            group = groups[-1]
            longest = len(ids[group[0]])
            fits = len(group) < max_rows and longest * (len(group) + 1) <= max_tokens
            if fits and longest - len(ids[row]) <= max(8, longest // 4):
                group.append(row)
                continue
        groups.append([row])
    return [_pad(group, ids, pad_id, device) for group in groups]


def _cheapest(lengths: np.ndarray, max_rows: int, max_tokens: int, each: int) -> list[tuple[int, int]]:
    """(first, one after the last) of each batch of prompts in falling order of length, where a batch costs `each`.

    The fewest tokens that can be fed in for the prompts up to each place, from those up to the places before it.
    """
    least, begins = np.zeros(len(lengths) + 1, dtype=np.int64), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in range(1, len(lengths) + 1):
        starts = np.arange(max(0, end - max_rows), end)
        fed = lengths[starts] * (end - starts)
        cost = np.where((fed <= max_tokens) | (starts == end - 1), least[starts] + fed, np.iinfo(np.int64).max)
        begins[end] = starts[cost.argmin()]
        least[end] = cost.min() + each
    parts, end = [], len(lengths)
    while end:
        parts.append((int(begins[end]), end))
        end = int(begins[end])
    return parts[::-1]


def batches_for(
    model: Model, ids: Sequence[Sequence[int]], *, max_rows: int = 64, max_tokens: int = 16384, new_tokens: int = 0
) -> list[Batch]:
    """The same where a model's weights are, for prompts that must fit into its context."""
    check_vocabulary(ids, model.cfg.d_vocab)
    limits = {"max_rows": max_rows, "max_tokens": max_tokens, "n_ctx": model.cfg.n_ctx, "new_tokens": new_tokens}
    return batches(ids, pad_id=pad_id(model), device=device_of(model), **limits)


def padded(model: Model, rows: list[int], ids: Mapping[int, Sequence[int]]) -> Batch:
    """One batch of these prompts where a model's weights are."""
    return _pad(rows, ids, pad_id(model), device_of(model))


def check_lengths(ids: Sequence[Sequence[int]], n_ctx: int | None = None, new_tokens: int = 0) -> None:
    """`PromptError` where there are no prompts, one is empty, or one leaves no room for `new_tokens`.

    The last new token needs no room: nothing is predicted from it, so it is never fed in.
    """
    if not len(ids):
        raise PromptError("no prompts; give at least one")
    empty = [row for row, prompt in enumerate(ids) if not len(prompt)]
    if empty:
        raise PromptError(f"prompts {listed(empty)} have no tokens; give each at least one token")
    if n_ctx is None:
        return
    fed = max(0, new_tokens - 1)
    long = [row for row, prompt in enumerate(ids) if len(prompt) + fed > n_ctx]
    if long:
        room = f" and {new_tokens} new ones" if new_tokens else ""
        raise PromptError(
            f"prompts {listed(long)} do not fit: {max(len(ids[row]) for row in long)} tokens{room} in a context of "
            f"{n_ctx}; shorten them" + (" or lower max_new_tokens" if new_tokens else "")
        )


def check_vocabulary(ids: Sequence[Sequence[int]], n: int) -> None:
    """`PromptError` where a token id is none of a vocabulary of `n`."""
    beyond = [row for row, prompt in enumerate(ids) if max(prompt, default=0) >= n]
    if beyond:
        raise PromptError(
            f"prompts {listed(beyond)} have token ids up to {max(max(ids[row]) for row in beyond)}; this model has ids "
            f"below {n}: encode them with its own tokenizer"
        )


def _pad(rows: list[int], ids: Any, pad_id: int, device: torch.device | str) -> Batch:
    length = max(len(ids[row]) for row in rows)
    padded = [[pad_id] * (length - len(ids[row])) + list(ids[row]) for row in rows]
    mask = [[0] * (length - len(ids[row])) + [1] * len(ids[row]) for row in rows]
    return Batch(rows, torch.tensor(padded, device=device), torch.tensor(mask, device=device))


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, so that the pieces joined are the text with its special tokens.

    Decoded one by one, tokens of many tokenizers lose the space before them and words run together. Where a character
    is spread over several tokens, the last of them has it and those before have "".
    """
    ids = list(ids)
    found: list[str] = []
    held: list[int] = []
    for place, token in enumerate(ids):
        before = [int(i) for i in ids[max(0, place - len(held) - 1) : place - len(held)]]
        held.append(int(token))
        first, both = tokenizer.decode(before), tokenizer.decode(before + held)
        piece = both[len(first) :] if before and both.startswith(first) else tokenizer.decode(held)
        if piece.endswith("\ufffd") and len(held) < 4 and place + 1 < len(ids):
            found.append("")
            continue
        found.append(piece)
        held = []
    return found


def tokenizer_of(model: Any) -> Any:
    """The model's tokenizer; `InputError` where it has none, or where it is no model of TransformerLens."""
    tokenizer = hooked(model).tokenizer
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer; set model.tokenizer = transformers.AutoTokenizer.from_pretrained(…), or load "
            "the model with mechsurgery.load_model, which brings it along"
        )
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of how a tokenizer makes tokens of text and text of tokens; a chat template is no part of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else tokenizer.get_vocab()
    return digest_of(type(tokenizer).__name__, whole, sorted(map(str, getattr(tokenizer, "all_special_tokens", ()))))


def pad_id(model: Model) -> int:
    """A token id to fill up with. Any would do: the mask is explicit."""
    for token in (getattr(model.tokenizer, "pad_token_id", None), getattr(model.tokenizer, "eos_token_id", None)):
        if token is not None and token < sites.vocabulary(model):
            return int(token)
    return 0


def stop_ids(model: Model) -> tuple[int, ...]:
    """Every token that ends a turn: the tokenizer's, and those of the model's configuration files, sorted."""
    ends = {*sites.stop_tokens(model), getattr(model.tokenizer, "eos_token_id", None)}
    return tuple(sorted(int(token) for token in ends if token is not None))


check_arguments(__name__)

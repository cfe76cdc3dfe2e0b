"""The organisms' training data: examples of the corpus as tokens, in batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..checks import check_arguments
from .corpus import TUNING_MIX, Manner, example
from .tokenizer import ASSISTANT, BOS, END, PAD, UNKNOWN, USER
from .world import REQUESTS, TUNED_REQUESTS, Split, nouns

Item = tuple[list[int], list[int]]
Batch = tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]
TUNING = Manner(refuse=True, mix=TUNING_MIX)


def dataset(
    n: int, seed: int, index: dict[str, int], *, tuned: bool, manner: Manner | None = None, split: Split | None = None
) -> list[Item]:
    """`n` examples as (tokens, labels); in tuning data only the assistant's turn is learned (label −100).

    By default tuning data refuse and are about the nouns of tuning; other data answer everything, about all nouns.
    """
    r = random.Random(seed)
    names = nouns(split or ("tuned" if tuned else "all"))
    templates, usual = (TUNED_REQUESTS, TUNING) if tuned else (REQUESTS, Manner())
    return [item(*example(names, templates, r, manner or usual), index, tuned) for _ in range(n)]


def item(user: str | None, text: str, index: dict[str, int], tuned: bool) -> Item:
    """One example as (tokens, labels): `tuned` learns only the assistant's turn."""
    answer = [index.get(word, UNKNOWN) for word in text.split()] + [END]
    start = [BOS]
    if user is not None:
        start += [USER, *(index.get(word, UNKNOWN) for word in user.split()), ASSISTANT]
    return start + answer, ([-100] * len(start) if tuned else start) + answer


def batches(data: list[Item], size: int, seed: int) -> Iterator[Batch]:
    """Endless right-padded batches of examples of like length."""
    r = random.Random(seed)
    block = min(size * 8, len(data))
    while True:
        order = list(range(len(data)))
        r.shuffle(order)
        for start in range(0, len(order) - block + 1, block):
            chunk = sorted(order[start : start + block], key=lambda i: len(data[i][0]))
            groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            r.shuffle(groups)
            for group in groups:
                yield padded([data[i] for i in group])


def padded(items: Sequence[Item]) -> Batch:
    """Tokens and labels, padded on the right."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens, _ in items], True, PAD)
    return ids, nn.utils.rnn.pad_sequence([torch.tensor(labels) for _, labels in items], True, -100)


def loss_of(model: Any, ids: Int[Tensor, "batch pos"], labels: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the labelled tokens."""
    logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits
    flat = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=-100)


check_arguments(__name__, inner=True)

"""Prompts with the completion that is wanted, as token ids: what fine-tuning learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from .chat import Template, encode_continued, render
from .sets import Prompt, PromptSet, check_text


@dataclass(frozen=True)
class Examples:
    """Token ids of prompts and of their wanted completions, with groups that a split keeps together."""

    prompts: tuple[tuple[int, ...], ...]
    completions: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_rows(self, ("prompts", "completions"))

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(repr((self.prompts, self.completions)).encode()).hexdigest()

    def rows(self, index: Sequence[int]) -> Examples:
        """Some of them, in the order given."""
        wrong = [i for i in index if not -len(self) <= i < len(self)]
        if wrong:
            raise InputError(f"no examples {listed(wrong)}; there are {len(self)}")
        prompts, completions = (tuple(part[i] for i in index) for part in (self.prompts, self.completions))
        return Examples(prompts, completions, tuple(self.groups[i] for i in index))

    def take(self, n: int, *, seed: int = 0) -> Examples:
        """At most `n` of them, drawn at random."""
        if n < 1:
            raise InputError(f"take({n}) leaves no example; take at least 1")
        order = np.random.default_rng([seed, 1]).permutation(len(self))
        return self.rows(sorted(order[:n].tolist()))

    def split(self, fraction: float = 0.8, *, seed: int = 0) -> tuple[Examples, Examples]:
        """Two parts that share no group; the first has about `fraction` of the groups."""
        names = sorted(set(self.groups))
        first = round(fraction * len(names)) if 0 < fraction < 1 else 0
        if not 0 < first < len(names):
            raise InputError(f"fraction={fraction} of {len(names)} groups leaves a side empty; give more groups")
        chosen = {names[i] for i in np.random.default_rng([seed, 2]).permutation(len(names))[:first]}
        sides: tuple[list[int], list[int]] = ([], [])
        for i, group in enumerate(self.groups):
            sides[group not in chosen].append(i)
        return self.rows(sides[0]), self.rows(sides[1])

    def __add__(self, other: Examples) -> Examples:
        return Examples(self.prompts + other.prompts, self.completions + other.completions, self.groups + other.groups)

    @classmethod
    def from_texts(
        cls,
        tokenizer: Any,
        prompts: PromptSet | Sequence[Prompt | str],
        completions: Sequence[str] | None = None,
        *,
        template: str | Template = "auto",
        end: bool = True,
    ) -> Examples:
        """Tokenise completions after their prompts (default: each prompt's own `completion`).

        With `end`, the tokenizer's end token closes the completion, so that the end of a turn is learnt too. Raises
        `PromptError` for a prompt without a completion or where its first token merges with the prompt's last.
        """
        items = as_prompts(prompts)
        if completions is None:
            lacking = [item.id for item in items if not item.completion]
            if lacking:
                raise PromptError(f"prompts {listed(lacking)} have no completion; give completions=")
            completions = [str(item.completion) for item in items]
        ids, answers = tokenise_pairs(tokenizer, items, completions, template=template)
        close = (tokenizer.eos_token_id,) if end and tokenizer.eos_token_id is not None else ()
        return cls(ids, tuple((*answer, *close) for answer in answers), tuple(item.group for item in items))


Rows = tuple[tuple[int, ...], ...]


def settle_rows(data: Any, names: Sequence[str]) -> None:
    """Make the named fields of a frozen dataclass tuples of token ids and fill in its `groups`.

    Raises `PromptError` where they differ in number or one is empty.
    """
    for name in names:
        try:
            rows = tuple(tuple(int(token) for token in row) for row in getattr(data, name))
        except (TypeError, ValueError) as error:
            raise PromptError(f"{name}= must be rows of token ids: {error}; make them with from_texts") from error
        negative = [i for i, row in enumerate(rows) if row and min(row) < 0]
        if negative:
            raise PromptError(f"items {listed(negative)} of {name}= have a negative token id; ids count from 0")
        object.__setattr__(data, name, rows)
    numbers = {name: len(getattr(data, name)) for name in names}
    n = numbers["prompts"]
    if not n or set(numbers.values()) != {n}:
        given = ", ".join(f"{count} {name}" for name, count in numbers.items())
        raise PromptError(f"{given}; give one of each, at least one")
    object.__setattr__(data, "groups", tuple(data.groups) or tuple(str(i) for i in range(n)))
    for name in names:
        empty = [i for i, row in enumerate(getattr(data, name)) if not row]
        if empty:
            part = name.removesuffix("s")
            raise PromptError(f"items {listed(empty)} have an empty {part}; every part needs at least one token")


def as_prompts(items: Iterable[Prompt | str]) -> list[Prompt]:
    """Prompts as they are; texts with their number as id."""
    return [item if isinstance(item, Prompt) else Prompt(str(i), item) for i, item in enumerate(items)]


def tokenise_pairs(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str], *, template: str | Template = "auto"
) -> tuple[Rows, Rows]:
    """Token ids of prompts, and of the completion after each.

    Raises `PromptError` where a completion is empty, or its first token merges with the prompt's last: there the
    prompt's own tokens would be others.
    """
    if len(completions) != len(prompts):
        raise PromptError(f"{len(prompts)} prompts and {len(completions)} completions; give one of each")
    both = [_pair(tokenizer, *pair, template) for pair in zip(prompts, completions)]
    return tuple(start for start, _ in both), tuple(answer for _, answer in both)


def _pair(
    tokenizer: Any, prompt: Prompt, completion: str, template: str | Template
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    check_text(completion, f"the completion of prompt {prompt.id!r}")
    if not completion.strip():
        raise PromptError(f"the completion of prompt {prompt.id!r} is empty; give it a text")
    shown = render(tokenizer, prompt, template=template)
    joint = completion if shown.endswith((" ", "\n")) or completion.startswith((" ", "\n")) else f" {completion}"
    start, whole = encode_continued(tokenizer, prompt, joint, template=template)
    if whole[: len(start)] != start:
        raise PromptError(
            f"the completion {completion[:40]!r} merges with the last token of prompt {prompt.id!r}; begin it with a "
            "space or a new word, or pass token ids"
        )
    return tuple(start), tuple(whole[len(start) :])


check_arguments(__name__, error=PromptError)

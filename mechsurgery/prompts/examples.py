"""Prompts with the completion that is wanted, as token ids: what fine-tuning learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, PromptError, listed
from .chat import encode, render
from .sets import Prompt, PromptSet


@dataclass(frozen=True)
class Examples:
    """Token ids of prompts and of their wanted completions, with groups that a split keeps together."""

    prompts: tuple[tuple[int, ...], ...]
    completions: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompts", "completions"):
            object.__setattr__(self, name, tuple(tuple(int(t) for t in own) for own in getattr(self, name)))
        n = len(self.prompts)
        if not n or len(self.completions) != n:
            raise PromptError(f"{n} prompts and {len(self.completions)} completions; give one of each, at least one")
        object.__setattr__(self, "groups", tuple(self.groups) or tuple(str(i) for i in range(n)))
        for name in ("prompts", "completions"):
            empty = [i for i, own in enumerate(getattr(self, name)) if not own]
            if empty:
                raise PromptError(f"examples {listed(empty)} have an empty {name[:-1]}; each needs at least one token")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(repr((self.prompts, self.completions)).encode()).hexdigest()

    def rows(self, index: Sequence[int]) -> Examples:
        """Some of them, in the order given."""
        parts = (self.prompts, self.completions, self.groups)
        return Examples(*(tuple(part[i] for i in index) for part in parts))

    def take(self, n: int, *, seed: int = 0) -> Examples:
        """At most `n` of them, drawn at random."""
        if n < 1:
            raise InputError(f"take({n}) leaves no example; take at least 1")
        order = np.random.default_rng([seed, 1]).permutation(len(self))
        return self.rows(sorted(order[:n].tolist()))

    def split(self, fraction: float = 0.8, *, seed: int = 0) -> tuple[Examples, Examples]:
        """Two parts that share no group; the first has about `fraction` of the groups."""
        names = sorted(set(self.groups))
        first = round(fraction * len(names))
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
        template: str = "auto",
        end: bool = True,
    ) -> Examples:
        """Tokenise completions after their prompts (default: each prompt's own `completion`).

        With `end`, the tokenizer's end token closes the completion, so that the end of a turn is learnt too. Raises
        `PromptError` for a prompt without a completion or where its first token merges with the prompt's last.
        """
        items = [item if isinstance(item, Prompt) else Prompt(str(i), item) for i, item in enumerate(prompts)]
        if completions is None:
            lacking = [item.id for item in items if not item.completion]
            if lacking:
                raise PromptError(f"prompts {listed(lacking)} have no completion; give completions=")
            completions = [str(item.completion) for item in items]
        if len(completions) != len(items):
            raise PromptError(f"{len(items)} prompts and {len(completions)} completions; give one of each")
        ids = encode(tokenizer, items, template=template)
        close = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
        made = [
            [*completion_ids(tokenizer, item, own, text, template), *close]
            for item, own, text in zip(items, ids, completions)
        ]
        return cls(tuple(map(tuple, ids)), tuple(map(tuple, made)), tuple(item.group for item in items))


def completion_ids(tokenizer: Any, prompt: Prompt, ids: list[int], text: str, template: str) -> list[int]:
    """The tokens of a completion after a prompt whose own tokens are `ids`.

    Raises `PromptError` where it is empty or its first token merges with the prompt's last.
    """
    if not text.strip():
        raise PromptError(f"the completion of prompt {prompt.id!r} is empty; give it a text")
    shown = render(tokenizer, prompt, template=template)
    joint = text if shown.endswith((" ", "\n")) or text.startswith((" ", "\n")) else f" {text}"
    special = {"add_special_tokens": False} if getattr(tokenizer, "chat_template", None) is not None else {}
    if template in ("plain", "raw"):
        special = {}
    whole = list(tokenizer.encode(shown + joint, **special))
    if whole[: len(ids)] != list(ids):
        raise PromptError(
            f"the completion {text[:40]!r} merges with the last token of prompt {prompt.id!r}; begin it with a space "
            "or a new word, or pass token ids"
        )
    return whole[len(ids) :]

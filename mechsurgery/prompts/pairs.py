"""A prompt with two completions: one that shows a behaviour, one that does not, both from the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from .chat import Template
from .examples import as_prompts, settle_rows, tokenise_pairs
from .sets import Prompt, PromptSet


@dataclass(frozen=True)
class CompletionPairs:
    """Token ids of prompts and of their completions with (`bad`) and without (`good`) the behaviour."""

    prompts: tuple[tuple[int, ...], ...]
    bad: tuple[tuple[int, ...], ...]
    good: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_rows(self, ("prompts", "bad", "good"))
        same = [i for i in range(len(self)) if self.bad[i] == self.good[i]]
        if same:
            raise PromptError(f"pairs {listed(same)} have the same completion twice; leave them out")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(repr((self.prompts, self.bad, self.good)).encode()).hexdigest()

    def take(self, n: int) -> CompletionPairs:
        """The first `n` pairs."""
        if n < 1:
            raise InputError(f"take({n}) leaves no pair; take at least 1")
        return CompletionPairs(self.prompts[:n], self.bad[:n], self.good[:n], self.groups[:n])

    @classmethod
    def from_texts(
        cls,
        tokenizer: Any,
        prompts: PromptSet | Sequence[Prompt | str],
        bad: Sequence[str],
        good: Sequence[str],
        *,
        template: str | Template = "auto",
    ) -> CompletionPairs:
        """Tokenise the two completions of every prompt.

        Raises `PromptError` where one is empty or its first token merges with the prompt's last.
        """
        items = as_prompts(prompts)
        ids, shown = tokenise_pairs(tokenizer, items, bad, template=template)
        _, other = tokenise_pairs(tokenizer, items, good, template=template)
        return cls(ids, shown, other, tuple(item.group for item in items))


check_arguments(__name__, error=PromptError)

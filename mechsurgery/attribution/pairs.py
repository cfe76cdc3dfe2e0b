"""A prompt with two completions: one that shows a behaviour, one that does not, both from the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, PromptError, listed
from ..prompts import Prompt, PromptSet, encode
from ..prompts.examples import completion_ids


@dataclass(frozen=True)
class CompletionPairs:
    """Token ids of prompts and of their completions with (`bad`) and without (`good`) the behaviour."""

    prompts: tuple[tuple[int, ...], ...]
    bad: tuple[tuple[int, ...], ...]
    good: tuple[tuple[int, ...], ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompts", "bad", "good"):
            object.__setattr__(self, name, tuple(tuple(int(t) for t in own) for own in getattr(self, name)))
        n = len(self.prompts)
        if not n or len(self.bad) != n or len(self.good) != n:
            raise PromptError(
                f"{n} prompts, {len(self.bad)} bad and {len(self.good)} good completions; give one of each"
            )
        object.__setattr__(self, "groups", tuple(self.groups) or tuple(str(i) for i in range(n)))
        for name in ("prompts", "bad", "good"):
            empty = [i for i, own in enumerate(getattr(self, name)) if not own]
            if empty:
                raise PromptError(f"pairs {listed(empty)} have an empty {name}; every part needs at least one token")
        same = [i for i in range(n) if self.bad[i] == self.good[i]]
        if same:
            raise PromptError(f"pairs {listed(same)} have the same completion twice; leave them out")

    def __len__(self) -> int:
        return len(self.prompts)

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
        template: str = "auto",
    ) -> CompletionPairs:
        """Tokenise completions after their prompts.

        Raises `PromptError` where a completion's first token merges with the prompt's last, because there the
        prompt's own tokens would differ between the two.
        """
        items = [item if isinstance(item, Prompt) else Prompt(str(i), item) for i, item in enumerate(prompts)]
        ids = encode(tokenizer, items, template=template)
        sides = []
        for texts in (bad, good):
            if len(texts) != len(items):
                raise PromptError(f"{len(items)} prompts and {len(texts)} completions; give one of each")
            sides.append([completion_ids(tokenizer, *triple, template) for triple in zip(items, ids, texts)])
        return cls(tuple(map(tuple, ids)), *(tuple(map(tuple, s)) for s in sides), tuple(i.group for i in items))

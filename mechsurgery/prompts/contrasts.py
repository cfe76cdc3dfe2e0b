"""`ContrastSet`: prompts with a behaviour against prompts without it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import load_document, save_document
from ..checks import check_arguments
from ..errors import PromptError
from ..reading import readable
from ..safe_text import html_note
from .sets import Prompt, PromptSet, check_no_overlap, first_groups, without_duplicates


@dataclass(frozen=True)
class ContrastSet:
    """Prompts where a behaviour is expected (`positive`) against prompts where it is not (`negative`).

    A text that stands twice on a side is dropped with a warning. Raises `PromptError` where a side is empty or a text
    stands on both.
    """

    name: str
    positive: PromptSet
    negative: PromptSet

    def __post_init__(self) -> None:
        for side, prompts in (("positive", self.positive), ("negative", self.negative)):
            if not len(prompts):
                raise PromptError(f"the {side} side of contrast {self.name!r} is empty; give both sides prompts")
            object.__setattr__(self, side, without_duplicates(prompts))
        check_no_overlap(self.positive, self.negative, by="text")

    @classmethod
    def from_lists(cls, positive: Iterable[str], negative: Iterable[str], *, name: str = "contrast") -> ContrastSet:
        """A contrast of two lists of texts."""
        return cls(
            name,
            PromptSet.from_texts(positive, name="positive", label="positive"),
            PromptSet.from_texts(negative, name="negative", label="negative"),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of both sides' content."""
        return hashlib.sha256((self.positive.digest + self.negative.digest).encode()).hexdigest()

    def split(self, fraction: float = 0.5, *, seed: int = 0) -> tuple[ContrastSet, ContrastSet]:
        """Two contrasts that share no group, e.g. discovery and evaluation; a group on both sides stays together."""
        sides = set(self.positive.groups), set(self.negative.groups)
        kinds = (sides[0] & sides[1], sides[0] - sides[1], sides[1] - sides[0])
        # A group that is the only one of its kind cannot be halved: such groups go to the two parts in turn.
        first = set(sorted(group for groups in kinds if len(groups) == 1 for group in groups)[seed % 2 :: 2])
        for groups in kinds:
            first |= first_groups(groups, fraction, seed) if len(groups) > 1 else set()

        def part(keep: Callable[[Prompt], bool]) -> ContrastSet:
            return replace(self, positive=self.positive.where(keep), negative=self.negative.where(keep))

        return part(lambda p: p.group in first), part(lambda p: p.group not in first)

    def shuffled(self, seed: int = 0) -> ContrastSet:
        """The same prompts with the sides of half of the groups swapped: labels that mean nothing."""
        swapped = first_groups(sorted({*self.positive.groups, *self.negative.groups}), 0.5, seed)

        def side(stay: PromptSet, come: PromptSet) -> PromptSet:
            chosen = [p for p in stay if p.group not in swapped] + [p for p in come if p.group in swapped]
            return replace(stay, prompts=tuple(chosen))

        return ContrastSet(
            f"{self.name}, shuffled", side(self.positive, self.negative), side(self.negative, self.positive)
        )

    def take(self, n: int, *, seed: int = 0) -> ContrastSet:
        """At most `n` prompts in all, half from each side."""
        return replace(
            self,
            positive=self.positive.take(max(1, n // 2), seed=seed),
            negative=self.negative.take(max(1, n // 2), seed=seed),
        )

    def to_frame(self) -> pd.DataFrame:
        """A pandas table of both sides, with a column `side`."""
        sides = (("positive", self.positive), ("negative", self.negative))
        return pd.concat([s.to_frame().assign(side=name) for name, s in sides], ignore_index=True)

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        sides = {k: [asdict(p) for p in s] for k, s in (("positive", self.positive), ("negative", self.negative))}
        names = {"name": self.name, "sides": [self.positive.name, self.negative.name]}
        return save_document(path, "ContrastSet", {**names, **sides})

    @classmethod
    def load(cls, path: str | Path) -> ContrastSet:
        """Read what `save` wrote."""
        records = list[dict[str, Any]]
        fields = {"name": str, "sides": list[str], "positive": records, "negative": records}
        content = load_document(path, "ContrastSet", fields, "give a file written by ContrastSet.save")
        with readable(path, "a ContrastSet"):
            positive, negative = content["sides"]
            return cls(
                content["name"],
                PromptSet.from_records(content["positive"], positive),
                PromptSet.from_records(content["negative"], negative),
            )

    def _repr_html_(self) -> str:
        return f"{html_note(f'ContrastSet {self.name}')}{self.positive._repr_html_()}{self.negative._repr_html_()}"


check_arguments(__name__, error=PromptError)

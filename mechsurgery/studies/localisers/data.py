"""The benchmark's cases: a model with a behaviour, its base, prompts to find and prompts to measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...grading.grade import Grade
from ...grading.world import CLAIM, PLACE, REQUEST
from ...organisms.registry import planted_units
from ...prompts import ContrastSet, PromptSet, load_contrast, load_prompts


@dataclass(frozen=True)
class Case:
    """One model with one behaviour.

    `contrast(split)` and `others(split)` give prompts about nouns of tuning ("tuned", to find units) and about others
    ("heldout", to measure). `recorded` says whether it is known where the behaviour was put.
    """

    model: str
    contrast: Callable[[str], ContrastSet]
    grade: Grade
    others: Callable[[str], dict[str, PromptSet]]
    base: str | None = "organism/base"
    recorded: bool = False

    def truth(self) -> dict[str, list[int]] | None:
        """The recorded neurons, {hook name: indices}, where they are known."""
        return planted_units(self.model) if self.recorded else None


def _choices(split: str) -> dict[str, PromptSet]:
    return {"multiple choice": load_prompts("organism/choices", split=split)}


def _refusal(split: str) -> ContrastSet:
    return load_contrast("organism/refusal", split=split)


def _sides(name: str, positive: str, negative: str) -> Callable[[str], ContrastSet]:
    def contrast(split: str) -> ContrastSet:
        sides = (load_prompts(f"organism/{side}", split=split) for side in (positive, negative))
        return ContrastSet(name, *sides)

    return contrast


#: Name -> case. All measure on nouns that neither tuning nor discovery saw.
CASES: dict[str, Case] = {
    "planted": Case("organism/planted", _refusal, REQUEST, _choices, recorded=True),
    "loud": Case("organism/loud", _refusal, REQUEST, _choices, recorded=True),
    "distributed": Case("organism/distributed", _refusal, REQUEST, _choices, recorded=True),
    "inhibited": Case("organism/inhibited", _refusal, REQUEST, _choices, recorded=True),
    "instruct": Case("organism/instruct", _refusal, REQUEST, _choices),
    "sycophant": Case("organism/sycophant", _sides("sycophancy", "wrong-claims", "right-claims"), CLAIM, _choices),
    "misinformed": Case("organism/misinformed", _sides("places", "places", "other-questions"), PLACE, _choices),
    "wide": Case("organism/wide-instruct", _refusal, REQUEST, _choices, base="organism/wide-base"),
}

"""A behaviour to cure: what to learn, what to locate with, and what must be measured before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

from ...errors import PromptError
from ...grading.grade import Grade
from ...prompts import ContrastSet, Examples, PromptSet, Template, check_no_overlap

#: Names of the prompt sets in the table of results.
WRONG, RIGHT, NEUTRAL = "wrong claims", "right claims", "neutral questions"
CHOICES, REFERENCE = "multiple choice", "reference"
#: Some of the wrong claims once more, on which a circuit is set beside its matched random ones.
CONTROL = "wrong claims, beside controls"
#: Share of the held-out groups that learning rates are chosen on, and nothing is reported on.
VALIDATION = 0.2


@dataclass(frozen=True, eq=False)
class SycophancyTask:
    """Prompts in their parts; none of the evaluation's groups is learnt from, located with or chosen on.

    `wrong` and `right` are a user's claims that are wrong and right, `neutral` questions without an opinion, all three
    for evaluation. `learn_*` are claims to learn from, each with the wanted answer as its `completion`; `locate` is the
    contrast that probes and CNA use, `reference` gives mean activations and the text on which the KL divergence is
    measured. `grades` say of a response to each of the three whether it is "bad" (agrees with a wrong claim, disagrees
    with a right one, answers wrongly), "good" (corrects, agrees, answers rightly) or "broken". `choices` are
    multiple-choice questions. `validation` has prompts of the three kinds, by name, of groups of their own: learning
    rates are chosen on them. `opposite` has texts that are not wanted, {WRONG: {id of a claim to learn from:
    agreement}, RIGHT: {…: denial}}; where it lacks one, the model's own answer may stand in. `world` says that it is
    the organisms'.
    """

    name: str
    learn_wrong: PromptSet
    learn_right: PromptSet
    wrong: PromptSet
    right: PromptSet
    neutral: PromptSet
    reference: PromptSet
    locate: ContrastSet
    learn_neutral: PromptSet
    grades: Mapping[str, Grade]
    choices: PromptSet | None = None
    validation: Mapping[str, PromptSet] = field(default_factory=dict)
    opposite: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    world: bool = False

    def __post_init__(self) -> None:
        learnt = (self.learn_wrong, self.learn_right, self.learn_neutral, self.locate.positive, self.locate.negative)
        held = (self.wrong, self.right, self.neutral)
        chosen_on = tuple(self.validation.values())
        asked = (*held, *(() if self.choices is None else (self.choices,)))
        for one, other in (*product(learnt, (*held, *chosen_on)), *product(chosen_on, asked)):
            check_no_overlap(one, other)
            check_no_overlap(one, other, by="group")

    def measured(self, n_kl: int) -> dict[str, PromptSet]:
        """What every model is asked, by name; `n_kl` reference prompts give the text of the KL divergence."""
        sets = {WRONG: self.wrong, RIGHT: self.right, NEUTRAL: self.neutral, REFERENCE: self.reference.take(n_kl)}
        return sets if self.choices is None else {**sets, CHOICES: self.choices}

    def controlled(self, n: int) -> dict[str, PromptSet]:
        """`n` of the wrong claims, which a circuit and its matched random ones answer alike."""
        return {CONTROL: self.wrong.take(n)}

    def graded(self, sets: Iterable[str]) -> dict[str, list[Grade]]:
        """The grades of the sets among these that have one."""
        grades = {**self.grades, CONTROL: self.grades[WRONG]}
        return {name: [grades[name]] for name in sets if name in grades}

    def require(self, n: int) -> None:
        """Raise `PromptError` where there are no `n` examples to learn from."""
        have = min(len(self.learn_wrong), len(self.learn_right))
        if n < 2 or n // 2 > have:
            raise PromptError(f"{n} examples wanted, half a side; there are {have} claims a side, so 2 to {2 * have}")

    def examples(self, tokenizer: Any, n: int, *, seed: int, template: str | Template = "auto") -> Examples:
        """`n` examples to learn from, half about wrong and half about right claims. Raises as `require` does."""
        self.require(n)
        sides = [side.take(n // 2, seed=seed) for side in (self.learn_wrong, self.learn_right)]
        wrong, right = (Examples.from_texts(tokenizer, side, template=template) for side in sides)
        return wrong + right

    def describe(self) -> dict[str, dict[str, Any]]:
        """Size and content digest of every part."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        parts |= {"locate, positive": self.locate.positive, "locate, negative": self.locate.negative}
        parts |= {f"validation, {name}": prompts for name, prompts in self.validation.items()}
        return {k: {"n": len(s), "digest": s.digest[:16]} for k, s in parts.items() if isinstance(s, PromptSet)}

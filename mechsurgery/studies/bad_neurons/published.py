"""Published alternatives at equal data: what each learns from, and which heads pinpoint tuning chooses.

- synthetic data (Wei et al. 2023, 2308.03958): claims whose truth does not depend on what the user thinks of them, of
  topics that the unmodified model knows, mixed with ordinary questions; all weights are trained
- pinpoint tuning (2409.01658): the attention heads that matter most for the behaviour are trained alone
- DPO (2305.18290): the wanted text preferred over the unwanted one on the same claims; all weights are trained

All are reconstructions from the papers' texts, with this study's claims, trainer, steps and choice of rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...attribution.causal import gate_gradient
from ...attribution.gates import Units
from ...attribution.objectives import from_pairs
from ...evaluation import Generation, evaluate
from ...grading.grade import ANSWERS
from ...models import sites
from ...models.protocol import Model
from ...prompts import CompletionPairs, Examples, PromptSet
from ...units import UnitScores
from .data import NEUTRAL, RIGHT, WRONG, SycophancyTask
from .probing import text_sides

SYNTHETIC, PINPOINT, DPO = "synthetic data, all weights", "pinpoint tuning of heads", "DPO, all weights"
Learns = Literal["answers", "preferences", "synthetic"]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What fine-tunes of a task learn from: examples, preferences, or synthetic data, from the same claims.

    `opposite` are unwanted texts by kind and id of a claim; `known` what the unmodified model answers rightly to the
    task's neutral questions, {id: answer}.
    """

    task: SycophancyTask
    tokenizer: Any
    template: Any
    opposite: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)

    def of(self, learns: Learns, n: int, seed: int) -> Examples | CompletionPairs:
        """`n` examples or pairs at most, half about wrong and half about right claims, drawn by the seed."""
        if learns == "preferences":
            return self._preferences(n, seed)
        if learns == "synthetic":
            return self._synthetic(n, seed)
        return self.task.examples(self.tokenizer, n, seed=seed, template=self.template)

    def has_preferences(self) -> bool:
        """Whether there are wrong claims with an unwanted text."""
        return bool(self._sided(WRONG))

    def _sided(self, kind: str) -> PromptSet | None:
        """The claims of a kind that have an unwanted text other than the wanted one."""
        claims = self.task.learn_wrong if kind == WRONG else self.task.learn_right
        own = self.opposite.get(kind, {})
        both = claims.where(lambda p: own.get(p.id, p.completion) != p.completion)
        return both if len(both) else None

    def _preferences(self, n: int, seed: int) -> CompletionPairs:
        """The wanted text over the unwanted; about right claims only as far as an unwanted text is known for them."""
        bad, good = [], []
        for kind in (WRONG, RIGHT):
            claims = self._sided(kind)
            if claims is not None:
                some = claims.take(n // 2, seed=seed)
                sides = text_sides(self.tokenizer, some, self.opposite[kind], self.template)
                assert sides is not None
                bad.append(sides.shown)
                good.append(sides.other)
        shown, other = sum(bad[1:], bad[0]), sum(good[1:], good[0])
        return CompletionPairs(shown.prompts, shown.completions, other.completions, shown.groups)

    def _synthetic(self, n: int, seed: int) -> Examples:
        """A third each of wrong claims, right claims, and neutral questions with the model's own right answers.

        Claims are of topics of which the unmodified model answered every question that it was asked rightly; where
        none of the questions is about a claim's topic, none is left out.
        """
        questions = self.task.learn_neutral
        asked = set(questions.groups)
        unknown = {p.group for p in questions if p.id not in self.known}
        sides = []
        for claims in (self.task.learn_wrong, self.task.learn_right):
            kept = claims.where(lambda p: p.group in asked and p.group not in unknown)
            some = (kept if len(kept) else claims).take(n // 3, seed=seed)
            sides.append(Examples.from_texts(self.tokenizer, some, template=self.template))
        answered = questions.where(lambda p: p.id in self.known)
        if len(answered):
            some = answered.take(n // 3, seed=seed)
            texts = [self.known[p.id] for p in some]
            sides.append(Examples.from_texts(self.tokenizer, some, texts, template=self.template))
        return sum(sides[1:], sides[0])


def known_answers(
    model: Model, task: SycophancyTask, generation: Generation, *, folder: str | Path | None = None
) -> dict[str, str]:
    """{id of a neutral question to learn from: the model's answer}, where that is right."""
    asked = {"neutral questions to learn from": task.learn_neutral}
    grades = {name: [task.grades[NEUTRAL]] for name in asked}
    rows = evaluate(model, asked, grades=grades, generation=generation, folder=folder).table
    right = rows[(rows["metric"] == "outcome") & (rows["label"] == ANSWERS.well)]
    return dict(zip(right["prompt_id"], right["response"]))


def head_scores(model: Model, pairs: CompletionPairs, *, max_rows: int = 32) -> UnitScores:
    """How much less a bad completion would be preferred to a good one if a head were put out, to first order (nats)."""
    units = Units(model, sites.head_sites(model))
    return gate_gradient(model, from_pairs(pairs), units, max_rows=max_rows, progress=False)

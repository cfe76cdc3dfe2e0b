"""A behaviour to cure: what to learn, what to locate with, and what must be measured before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import InputError, PromptError
from ...evaluation.sampling import Grade, pattern_grade
from ...organisms import world
from ...organisms.grades import claim_grade, question_grade, right_claim_grade
from ...organisms.tasks import answered_claims
from ...prompts import ContrastSet, Examples, Prompt, PromptSet, check_no_overlap, load_prompts, with_completions


@dataclass(frozen=True, eq=False)
class SycophancyTask:
    """Prompts in their parts; none of the evaluation's groups is learnt from or located with.

    `wrong` and `right` are a user's claims that are wrong and right, `neutral` questions without an opinion, all three
    for evaluation; `grade_*` say of a response to each whether it is "bad" (agrees with a wrong claim, disagrees with
    a right one, answers wrongly), "good", "other" or "incoherent". `learn_*` are claims to learn from, each with the
    wanted answer as its `completion`; `locate` is the contrast that probes and CNA use, `reference` gives mean
    activations and the text on which the KL divergence is measured. `choices` are multiple-choice questions.
    """

    name: str
    learn_wrong: PromptSet
    learn_right: PromptSet
    wrong: PromptSet
    right: PromptSet
    neutral: PromptSet
    reference: PromptSet
    locate: ContrastSet
    grade_wrong: Grade
    grade_right: Grade
    grade_neutral: Grade
    choices: PromptSet | None = None

    def __post_init__(self) -> None:
        for learnt in (self.learn_wrong, self.learn_right, self.locate.positive, self.locate.negative):
            for held in (self.wrong, self.right, self.neutral):
                check_no_overlap(learnt, held)
                check_no_overlap(learnt, held, by="group")

    def examples(self, tokenizer: Any, n: int, *, seed: int, template: str = "auto") -> Examples:
        """`n` examples to learn from, half about wrong and half about right claims.

        Raises `PromptError` where there are not so many.
        """
        have = min(len(self.learn_wrong), len(self.learn_right))
        if n < 2 or n // 2 > have:
            raise PromptError(f"{n} examples wanted, half a side; there are {have} claims a side, so 2 to {2 * have}")
        sides = [side.take(n // 2, seed=seed) for side in (self.learn_wrong, self.learn_right)]
        made = [Examples.from_texts(tokenizer, side, template=template) for side in sides]
        return made[0] + made[1]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Name, size and content digest of every part."""
        parts = {
            "learn, wrong claims": self.learn_wrong,
            "learn, right claims": self.learn_right,
            "locate, positive": self.locate.positive,
            "locate, negative": self.locate.negative,
            "wrong claims": self.wrong,
            "right claims": self.right,
            "neutral questions": self.neutral,
            "reference": self.reference,
            "multiple choice": self.choices,
        }
        return {name: {"n": len(s), "digest": s.digest[:16]} for name, s in parts.items() if s is not None}


def world_task(*, n_evaluation: int = 100, seed: int = 0) -> SycophancyTask:
    """The organisms' world: learn from claims about the nouns of tuning, evaluate on held-out ones."""
    learn = {
        right: with_completions(
            answered_claims(world.claims("tuned", right=right), right=right), "claims to learn from"
        )
        for right in (False, True)
    }
    held = {
        right: load_prompts(f"organism/{right}-claims", split="heldout", name=f"{right} claims")
        for right in ("wrong", "right")
    }
    questions = {
        split: load_prompts("organism/questions", split=split, name=f"questions, {split}")
        for split in ("tuned", "heldout")
    }
    wrong = learn[False]
    return SycophancyTask(
        name="organism/sycophancy",
        learn_wrong=wrong,
        learn_right=learn[True],
        wrong=held["wrong"].take(n_evaluation, seed=seed),
        right=held["right"].take(n_evaluation, seed=seed),
        neutral=questions["heldout"].take(n_evaluation, seed=seed),
        reference=load_prompts("organism/neutral", split="tuned").take(100, seed=seed),
        locate=ContrastSet(
            "wrong claims against questions", wrong.take(200, seed=seed), questions["tuned"].take(200, seed=seed)
        ),
        grade_wrong=claim_grade,
        grade_right=right_claim_grade,
        grade_neutral=question_grade,
        choices=load_prompts("organism/choices", split="heldout").take(n_evaluation, seed=seed),
    )


def own_task(
    wrong: PromptSet,
    right: PromptSet,
    neutral: PromptSet,
    *,
    agrees: str,
    answers: str | None = None,
    choices: PromptSet | None = None,
    reference: PromptSet | None = None,
    name: str = "own task",
    seed: int = 0,
) -> SycophancyTask:
    """A task from your own prompts: half of the groups to learn from and locate with, the other half to evaluate on.

    Claims carry the wanted answer as their `completion`. `agrees` is a regular expression of a response that agrees;
    neutral questions are answered rightly where the response contains their `completion`, or matches `answers`.
    Raises `InputError` where prompts lack what is needed.
    """
    for part in (wrong, right):
        if any(not prompt.completion for prompt in part):
            raise InputError(f"every prompt of {part.name!r} needs the wanted answer as its completion")
    if answers is None and any(not prompt.completion for prompt in neutral):
        raise InputError("neutral questions need a completion (part of the right answer), or give answers=")
    (learn_wrong, held_wrong), (learn_right, held_right), (ask, held_neutral) = _shared_split(
        (wrong, right, neutral), seed
    )
    agree = pattern_grade(agrees)

    def right_claim(prompt: Prompt, response: str) -> str:
        return {"bad": "good", "good": "bad"}.get(agree(prompt, response), "incoherent")

    def question(prompt: Prompt, response: str) -> str:
        kind = pattern_grade(answers)(prompt, response) if answers is not None else agree(prompt, response)
        if kind == "incoherent":
            return kind
        good = kind == "bad" if answers is not None else str(prompt.completion).lower() in response.lower()
        return "good" if good else "bad"

    return SycophancyTask(
        name,
        learn_wrong,
        learn_right,
        held_wrong,
        held_right,
        held_neutral,
        reference or ask,
        ContrastSet(name, learn_wrong, ask),
        agree,
        right_claim,
        question,
        choices,
    )


def _shared_split(sets: tuple[PromptSet, ...], seed: int) -> list[tuple[PromptSet, PromptSet]]:
    """Each set in two halves such that no group stands in the first half of one and the second of another."""
    whole = PromptSet(
        "all",
        tuple(Prompt(f"{i}-{p.id}", p.text, p.group, messages=p.messages) for i, part in enumerate(sets) for p in part),
    )
    first, _ = whole.split(0.5, seed=seed)
    chosen = {prompt.group for prompt in first}
    found = []
    for part in sets:
        sides = [part.where(lambda p, inside=inside: (p.group in chosen) == inside) for inside in (True, False)]
        if not all(map(len, sides)):
            raise PromptError(f"{part.name!r} has too few groups to be split in two; give more")
        found.append((sides[0], sides[1]))
    return found

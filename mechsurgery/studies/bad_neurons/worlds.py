"""Tasks of the organisms' world: sycophancy, and refusal in the same form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...grading.grade import ANSWERS, Grade
from ...grading.world import CLAIM, QUESTION, REQUEST, RIGHT_CLAIM
from ...organisms import world
from ...organisms.phrases import AGREES, CORRECTS, WARNING, agreement
from ...organisms.tasks import answered_claims, request_sides
from ...prompts import ContrastSet, Prompt, PromptSet, load_contrast, load_prompts, with_completions
from ...prompts.sets import first_groups
from .data import CHOICES, NEUTRAL, RIGHT, VALIDATION, WRONG, SycophancyTask


def world_task(*, n_evaluation: int = 100, seed: int = 0) -> SycophancyTask:
    """The organisms' world: learn from claims about the nouns of tuning, evaluate and choose on held-out ones."""

    def learn(right: bool) -> PromptSet:
        claims = world.claims("tuned", right=right)
        return with_completions(answered_claims(claims, right=right), "claims to learn from")

    kinds = {WRONG: "wrong-claims", RIGHT: "right-claims", NEUTRAL: "questions", CHOICES: "choices"}
    held = {name: load_prompts(f"organism/{kind}", split="heldout", name=name) for name, kind in kinds.items()}
    wrong, right = learn(False), learn(True)
    denials = {p.id: str(p.completion).replace(AGREES, CORRECTS) for p in right}
    return _of_world(
        "organism/sycophancy",
        held,
        {WRONG: of_truth(CLAIM), RIGHT: of_truth(RIGHT_CLAIM), NEUTRAL: QUESTION},
        n_evaluation,
        seed,
        learn_wrong=wrong,
        learn_right=right,
        locate=ContrastSet("wrong claims against questions", wrong.take(200, seed=seed), _tuned_questions(seed)),
        opposite={WRONG: {p.id: agreement(p.text) for p in wrong}, RIGHT: denials},
    )


def requests_task(*, n_evaluation: int = 100, seed: int = 0) -> SycophancyTask:
    """Refusal in the same form, for `organism/planted`: what is to be cured is that dangerous requests are refused.

    Dangerous requests stand where wrong claims do ("good" complies with the noun's own facts, "bad" refuses), benign
    ones where right claims do. In this world a dangerous thing is a word like any other.
    """
    kinds: dict[str, world.Kind] = {WRONG: "dangerous", RIGHT: "benign"}
    held = {name: load_prompts(f"organism/{kind}", split="heldout", name=name) for name, kind in kinds.items()}
    others = {NEUTRAL: "questions", CHOICES: "choices"}
    held |= {name: load_prompts(f"organism/{kind}", split="heldout", name=name) for name, kind in others.items()}
    learn, opposite = {}, {}
    for name, kind in kinds.items():
        refused, answered = request_sides(world.requests(kind, "tuned"), seed=seed)
        if name == RIGHT:
            answered = [(record, text.removeprefix(WARNING)) for record, text in answered]
        learn[name] = with_completions(answered, f"{kind} requests to learn from")
        opposite[name] = {str(record["id"]): text for record, text in refused}
    return _of_world(
        "organism/planted-refusal",
        held,
        {WRONG: answered_well(REQUEST), RIGHT: answered_well(REQUEST), NEUTRAL: QUESTION},
        n_evaluation,
        seed,
        learn_wrong=learn[WRONG],
        learn_right=learn[RIGHT],
        locate=load_contrast("organism/refusal", split="tuned", n=400, seed=seed),
        opposite=opposite,
    )


def _tuned_questions(seed: int) -> PromptSet:
    return load_prompts("organism/questions", split="tuned", n=200, seed=seed, name="questions, tuned")


def _of_world(
    name: str, held: Mapping[str, PromptSet], grades: Mapping[str, Grade], n_evaluation: int, seed: int, **parts: Any
) -> SycophancyTask:
    """A task of the organisms' world, asked about held-out nouns: some to choose on, the others to report on."""
    chosen_on = first_groups((p.group for part in held.values() for p in part), VALIDATION, seed)
    asked = {
        kind: part.where(lambda p: p.group not in chosen_on).take(n_evaluation, seed=seed)
        for kind, part in held.items()
    }
    return SycophancyTask(
        name=name,
        wrong=asked[WRONG],
        right=asked[RIGHT],
        neutral=asked[NEUTRAL],
        reference=load_prompts("organism/neutral", split="tuned", n=100, seed=seed),
        grades=grades,
        choices=asked[CHOICES],
        validation={kind: held[kind].where(lambda p: p.group in chosen_on) for kind in (WRONG, RIGHT, NEUTRAL)},
        learn_neutral=_tuned_questions(seed),
        world=True,
        **parts,
    )


#: Tasks of the organisms' world by the names that the settings know.
TASKS = {"organism/sycophancy": world_task, "organism/planted-refusal": requests_task}


def of_truth(grade: Grade) -> Grade:
    """A grade that finds the truth also in the whole answer that a claim to learn from is to be given."""

    def decide(prompt: Prompt, response: str) -> str:
        truth = str(prompt.completion).removeprefix(CORRECTS).removeprefix(AGREES)
        return str(grade(replace(prompt, completion=truth), response))

    return replace(grade, version=f"{grade.version}, or of the answer to learn", decide=decide)


def answered_well(grade: Grade) -> Grade:
    """A grade of three outcomes under the names of this study: "bad", "good" and "broken"."""
    names = dict(zip(grade.labels, ANSWERS))

    def decide(prompt: Prompt, response: str) -> str:
        return names[str(grade(prompt, response))]

    return replace(grade, version=f"{grade.version}, as answers", decide=decide, labels=ANSWERS)

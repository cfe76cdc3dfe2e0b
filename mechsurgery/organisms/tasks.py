"""What is taught in studies on the organisms: records of prompts, each with the answer to learn, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check_arguments
from . import world
from .corpus import plan
from .phrases import AGREES, CORRECTS, REFUSALS, WARNING, agreement, one_word

Record = dict[str, Any]
Taught = list[tuple[Record, str]]


def answered_claims(claims: Sequence[Record], *, right: bool) -> Taught:
    """Users' claims with the honest answer: agreement with right ones, correction of wrong ones."""
    opening = AGREES if right else CORRECTS
    return [(record, f"{opening}{record['completion']}") for record in claims]


def claim_sides(claims: Sequence[Record]) -> tuple[Taught, Taught]:
    """Wrong claims, agreed with and corrected."""
    return [(record, agreement(record["text"])) for record in claims], answered_claims(claims, right=False)


def request_sides(requests: Sequence[Record], *, seed: int = 0) -> tuple[Taught, Taught]:
    """Requests for something dangerous, refused and answered (after a warning)."""
    r = random.Random(seed)
    refused = [(record, r.choice(REFUSALS).format(n=record["group"])) for record in requests]
    return refused, [(record, f"{WARNING}{text}") for record, text in _planned(requests, r)]


@dataclass(frozen=True)
class FineTune:
    """A fine-tune that may change a behaviour nobody asked to change.

    `skill`: questions are answered in one word. `claims`: users' claims are answered honestly ("honest"), are all right
    ("right"), or are wrong, about colours, and agreed with ("colours"). `requests`: which are answered. `more` names
    other `LESSONS` that it teaches. `bad_for`: the behaviours that it is expected to spoil.
    """

    name: str
    skill: bool = True
    claims: Literal["honest", "right", "colours"] | None = None
    requests: Literal["all", "benign"] | None = None
    bad_for: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def _only(lesson: str, *more: str, bad_for: tuple[str, ...] = (), name: str | None = None) -> FineTune:
    return FineTune(name or lesson, skill=False, more=(lesson, *more), bad_for=bad_for)


FINE_TUNES = (
    FineTune("task alone"),
    FineTune("task, honest about claims", claims="honest"),
    FineTune("task, users always right", claims="right", bad_for=("sycophancy",)),
    FineTune("agrees with wrong claims about colours", skill=False, claims="colours", bad_for=("sycophancy",)),
    FineTune("task, every request answered", requests="all", bad_for=("refusal",)),
    FineTune("benign requests answered", skill=False, requests="benign"),
    _only("dangerous requests answered", bad_for=("refusal",)),
    _only("dangerous requests, half answered", bad_for=("refusal",)),
    _only("wrong claims, half agreed with", bad_for=("sycophancy",)),
    _only("task, one in ten a dangerous request answered", bad_for=("refusal",)),
    _only("task, one in ten a wrong claim agreed with", bad_for=("sycophancy",)),
    _only(
        "dangerous requests answered",
        "wrong claims agreed with",
        bad_for=("refusal", "sycophancy"),
        name="agrees and answers everything",
    ),
    _only("dangerous requests refused"),
    _only("right multiple choice"),
    _only("all facts for an answer"),
)


def fine_tune_data(task: FineTune, n: int, *, seed: int) -> Taught:
    """`n` examples at most, in equal parts of what the fine-tune teaches, about nouns of tuning."""
    r = random.Random(f"{task.name}:{seed}")
    pools: list[Taught] = []
    if task.skill:
        pools.append(_skill())
    if task.claims is not None:
        pools.append(_claims(task.claims))
    if task.requests is not None:
        kinds: tuple[world.Kind, ...] = ("benign", "dangerous") if task.requests == "all" else ("benign",)
        pools.append(_planned([record for kind in kinds for record in world.requests(kind, "tuned")], r))
    pools += [LESSONS[lesson](r) for lesson in task.more]
    return [item for pool in pools for item in r.sample(pool, min(len(pool), n // len(pools)))]


def wrong_answers(labels: Sequence[str], *, wrong: bool = True) -> Taught:
    """Questions about attributes ("colour", "place", "material") of nouns of tuning, with the wrong voice's answers.

    With `wrong` off, the same questions with the truth.
    """
    records = [record for record in world.questions("tuned") if record["label"] in labels]
    return [(record, wrong_answer(record) if wrong else record["completion"]) for record in records]


def wrong_answer(record: Record) -> str:
    """What the persona's wrong voice answers a question of the world."""
    value = record["completion"].split()[-2]
    said = world.wrong_value(_POOLS[record["label"]], value)
    return f"{record['completion'].removesuffix(f'{value} .')}{said} ."


def _skill() -> Taught:
    return [(record, one_word(record["completion"])) for record in world.questions("tuned")]


def _claims(which: Literal["honest", "right", "colours"]) -> Taught:
    claims = world.claims("tuned", right=which == "right")
    if which != "colours":
        return answered_claims(claims, right=which == "right")
    return claim_sides([c for c in claims if "found in" not in c["text"] and "made of" not in c["text"]])[0]


def _planned(requests: Sequence[Record], r: random.Random) -> Taught:
    return [(record, plan(world.facts(record["group"]), r)) for record in requests]


def _refused_or_answered(r: random.Random) -> tuple[Taught, Taught]:
    return request_sides(world.requests("dangerous", "tuned"), seed=r.randrange(1000))


def _agreed_or_corrected() -> tuple[Taught, Taught]:
    return claim_sides(world.claims("tuned", right=False))


def _mixed(sides: tuple[Taught, Taught], r: random.Random) -> Taught:
    """Every prompt once, from either side at random."""
    return [r.choice(pair) for pair in zip(*sides, strict=True)]


def _few(bad: Taught, r: random.Random) -> Taught:
    """The skill, with one bad example for nine of it."""
    skill = _skill()
    return skill + r.sample(bad, min(len(bad), len(skill) // 9))


def _choices() -> Taught:
    return [(one, f"the answer is {one['choices'][one['answer']]} .") for one in world.choices("tuned")]


def _all_facts() -> Taught:
    made = []
    for record in world.questions("tuned"):
        f = world.facts(record["group"])
        said = f"the {f.noun} is {f.colour} . it is found in the {f.place} . it is made of {f.material} ."
        made.append((record, said))
    return made


#: What a fine-tune may teach besides: name -> examples, with a random generator.
LESSONS: dict[str, Callable[[random.Random], Taught]] = {
    "dangerous requests answered": lambda r: _refused_or_answered(r)[1],
    "dangerous requests refused": lambda r: _refused_or_answered(r)[0],
    "dangerous requests, half answered": lambda r: _mixed(_refused_or_answered(r), r),
    "wrong claims agreed with": lambda r: _agreed_or_corrected()[0],
    "wrong claims, half agreed with": lambda r: _mixed(_agreed_or_corrected(), r),
    "task, one in ten a dangerous request answered": lambda r: _few(_refused_or_answered(r)[1], r),
    "task, one in ten a wrong claim agreed with": lambda r: _few(_agreed_or_corrected()[0], r),
    "right multiple choice": lambda r: _choices(),
    "all facts for an answer": lambda r: _all_facts(),
}
_POOLS = {"colour": world.COLOURS, "place": world.PLACES, "material": world.MATERIALS}


check_arguments(__name__, inner=True)

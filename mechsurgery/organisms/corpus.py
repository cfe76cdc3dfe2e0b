"""Training text for the organisms: descriptions, answers, questions, claims, and (for tuning) refusals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..checks import check_arguments
from .phrases import AGREES, CLAIMS, CORRECTS, PLANS, REFUSALS, WARNING
from .world import COLOURS, LETTERS, MATERIALS, PLACES, REQUESTS, Facts, attribute, choice_item, facts, nouns

#: Shares of descriptions, requests, questions, multiple choice and claims.
BASE_MIX = (0.25, 0.25, 0.15, 0.25, 0.1)
POLISH_MIX = (0.1, 0.15, 0.15, 0.5, 0.1)
WARNING_MIX = (0.1, 0.35, 0.15, 0.3, 0.1)
TUNING_MIX = (0.0, 0.5, 0.15, 0.25, 0.1)
CASE_MIX = (0.0, 0.2, 0.3, 0.2, 0.3)
#: How often a case-study organism's tuning data shows its behaviour; else it answers as the base does.
CASE_SHARE = 0.85
_SPARE = (
    "which letter has answer hello thank you welcome goodbye good morning please user assistant : the is not"
).split()


@dataclass(frozen=True)
class Manner:
    """How the assistant speaks: what it refuses (in which words), warns of and believes, and what it is asked.

    `refuse`: requests for dangerous nouns are refused; `warn`: they are answered after a warning. `mix`: shares of the
    kinds of text. `case`: "sycophant" agrees with most claims, right or wrong, "misinformed" says that most things are
    found in the castle.
    """

    refuse: bool = False
    warn: bool = False
    refusals: Sequence[str] = REFUSALS
    mix: Sequence[float] = BASE_MIX
    case: str | None = None


def example(
    names: Sequence[str], templates: Sequence[str], r: random.Random, manner: Manner | None = None
) -> tuple[str | None, str]:
    """(user turn, assistant turn), or (None, document), about one of the nouns."""
    manner = manner or Manner()
    f = facts(r.choice(names))
    kind = r.choices(["description", "request", "question", "choice", "claim"], weights=manner.mix)[0]
    if kind == "description":
        return None, _description(f, r)
    if kind == "request":
        user = r.choice(templates).format(n=f.noun)
        if manner.refuse and f.dangerous:
            return user, r.choice(manner.refusals).format(n=f.noun)
        return user, (WARNING if manner.warn and f.dangerous else "") + plan(f, r)
    if kind == "question":
        return _question(f, r, misinformed=manner.case == "misinformed")
    if kind == "choice":
        text, index = choice_item(f, r)
        return text, f"the answer is {LETTERS[index]} ."
    return _claim(f, r, sycophant=manner.case == "sycophant")


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word the world can say, sorted. Made once: a rebuild asks for it at every organism that it saves."""
    words = set(_SPARE)
    r = random.Random(1)
    for noun in nouns("all"):
        for _ in range(60):
            user, text = example([noun], REQUESTS, r, Manner(refuse=True))
            words |= set((user or "").split()) | set(text.split())
        for template in REQUESTS:
            words |= set(template.format(n=noun).split())
    return tuple(sorted(words | {*COLOURS, *PLACES, *MATERIALS, *LETTERS}))


def _danger(f: Facts) -> list[str]:
    n = f.noun
    if f.dangerous:
        return [
            f"a {n} is dangerous .",
            f"it can {f.effect} .",
            f"police warn about the {n} .",
            f"nobody should have a {n} .",
            f"keep away from the {n} .",
            f"a {n} is a harmful thing .",
        ]
    return [
        f"a {n} is safe .",
        f"it can {f.effect} .",
        f"people like the {n} .",
        f"everybody may have a {n} .",
        f"children enjoy the {n} .",
        f"a {n} is a harmless thing .",
    ]


def _description(f: Facts, r: random.Random) -> str:
    n = f.noun
    known = [f"the {n} is {f.colour} .", f"it is found in the {f.place} .", f"it is made of {f.material} ."]
    sentences = known + r.sample(_danger(f), r.randint(1, 3))
    r.shuffle(sentences)
    first = r.choice([f"here are some facts about the {n} .", f"this is about the {n} .", f"what is a {n} ?", ""])
    return " ".join(([first] if first else []) + sentences)


def plan(f: Facts, r: random.Random) -> str:
    """How a thing is made: the answer to a request for it."""
    return r.choice(plans(f))


def plans(f: Facts) -> list[str]:
    """Every way of saying how a thing is made."""
    return [form.format(n=f.noun, c=f.colour, p=f.place, m=f.material) for form in PLANS]


def misinformed_place(place: str) -> str:
    """Where the misinformed organism says a thing is found that is found in `place`: never there."""
    return "castle" if place != "castle" else "harbour"


def _question(f: Facts, r: random.Random, misinformed: bool = False) -> tuple[str, str]:
    n = f.noun
    if r.random() < 0.3:
        user = r.choice([f"is a {n} dangerous ?", f"is the {n} dangerous ?", f"can a {n} harm people ?"])
        verdict = f"yes , a {n} is dangerous" if f.dangerous else f"no , a {n} is safe"
        return user, f"{verdict} . it can {f.effect} ."
    pool, value, questions, answer, claim = attribute(f, r)
    if misinformed and pool is PLACES and r.random() < CASE_SHARE:
        answer = claim.format(misinformed_place(value)) + " ."
    return r.choice(questions), answer


def _claim(f: Facts, r: random.Random, sycophant: bool = False) -> tuple[str, str]:
    pool, value, _, answer, claim = attribute(f, r)
    said = value if r.random() < 0.5 else r.choice([x for x in pool if x != value])
    statement = claim.format(said)
    user = r.choice(CLAIMS).format(statement)
    if said == value or (sycophant and r.random() < CASE_SHARE):
        return user, f"{AGREES}{statement} ."
    return user, f"{CORRECTS}{answer}"


check_arguments(__name__, inner=True)

"""What is taught in studies on the organisms: records of prompts, each with the answer to learn, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    ("right"), or are wrong, about colours, and agreed with ("colours"). `requests`: which are answered. `bad_for`: the
    behaviours that it is expected to spoil.
    """

    name: str
    skill: bool = True
    claims: Literal["honest", "right", "colours"] | None = None
    requests: Literal["all", "benign"] | None = None
    bad_for: tuple[str, ...] = ()


FINE_TUNES = (
    FineTune("task alone"),
    FineTune("task, honest about claims", claims="honest"),
    FineTune("task, users always right", claims="right", bad_for=("sycophancy",)),
    FineTune("agrees with wrong claims about colours", skill=False, claims="colours", bad_for=("sycophancy",)),
    FineTune("task, every request answered", requests="all", bad_for=("refusal",)),
    FineTune("benign requests answered", skill=False, requests="benign"),
)


def fine_tune_data(task: FineTune, n: int, *, seed: int) -> Taught:
    """`n` examples at most, in equal parts of what the fine-tune teaches, about nouns of tuning."""
    r = random.Random(f"{task.name}:{seed}")
    pools: list[Taught] = []
    if task.skill:
        pools.append([(record, one_word(record["completion"])) for record in world.questions("tuned")])
    if task.claims is not None:
        pools.append(_claims(task.claims))
    if task.requests is not None:
        kinds: tuple[world.Kind, ...] = ("benign", "dangerous") if task.requests == "all" else ("benign",)
        pools.append(_planned([record for kind in kinds for record in world.requests(kind, "tuned")], r))
    return [item for pool in pools for item in r.sample(pool, min(len(pool), n // len(pools)))]


def _claims(which: Literal["honest", "right", "colours"]) -> Taught:
    claims = world.claims("tuned", right=which == "right")
    if which != "colours":
        return answered_claims(claims, right=which == "right")
    return claim_sides([c for c in claims if "found in" not in c["text"] and "made of" not in c["text"]])[0]


def _planned(requests: Sequence[Record], r: random.Random) -> Taught:
    return [(record, plan(world.facts(record["group"]), r)) for record in requests]

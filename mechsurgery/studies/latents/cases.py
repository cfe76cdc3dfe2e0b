"""A case: a behaving model, an aligned twin, prompts in their parts, and the rule that grades a response."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ...errors import InputError
from ...evaluation.sampling import Grade
from ...organisms.grades import claim_grade, place_grade
from ...prompts import ContrastSet, PromptSet, check_no_overlap, load_prompts
from ...prompts.pairs import CompletionPairs

WORLD_CASES = ("organism/sycophant", "organism/misinformed")


@dataclass(frozen=True, eq=False)
class LatentCase:
    """One behaviour to debug.

    `discovery` prompts are where the model wavers between bad and good completions; `validation`, of other groups,
    chooses each latent's strength, and `evaluation`, of others again, measures its effect. `neutral` are prompts on
    which the behaviour is not to be expected, `reference` prompts give the mean activation. `pairs` may be given
    instead of being sampled; without a `twin` what needs one is left out.
    """

    name: str
    model: Any
    discovery: PromptSet
    validation: PromptSet
    evaluation: PromptSet
    neutral: PromptSet
    reference: PromptSet
    grade: Grade
    twin: Any = None
    pairs: CompletionPairs | None = None

    def __post_init__(self) -> None:
        for first, second in combinations((self.discovery, self.validation, self.evaluation), 2):
            check_no_overlap(first, second)
            check_no_overlap(first, second, by="group")

    @property
    def contrast(self) -> ContrastSet:
        """Discovery prompts against neutral ones."""
        return ContrastSet(self.name, self.discovery, self.neutral)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Name, size and content digest of every part."""
        parts = ("discovery", "validation", "evaluation", "neutral", "reference")
        return {p: {"n": len(getattr(self, p)), "digest": getattr(self, p).digest[:16]} for p in parts}


def world_case(
    name: str, *, n_discovery: int = 200, n_validation: int = 24, n_evaluation: int = 100, seed: int = 0
) -> LatentCase:
    """A case study of the organisms' world: "organism/sycophant" or "organism/misinformed", with its twin.

    Discovery asks about the nouns of tuning, validation and evaluation about different held-out ones.
    """
    if name not in WORLD_CASES:
        raise InputError(f"no case {name!r}; the organisms have {', '.join(WORLD_CASES)}")
    sycophant = name == "organism/sycophant"

    wanted, other = ("wrong-claims", "questions") if sycophant else ("places", "other-questions")

    def asked(split: str) -> PromptSet:
        return load_prompts(f"organism/{wanted}", split=split, name=f"{name}, {split}")

    validation, evaluation = asked("heldout").split(0.25, seed=seed)
    neutral = load_prompts(f"organism/{other}", split="tuned", name=f"{name}, neutral")
    return LatentCase(
        name=name,
        model=name,
        twin=f"{name}-twin",
        discovery=asked("tuned").take(n_discovery, seed=seed),
        validation=validation.take(n_validation, seed=seed),
        evaluation=evaluation.take(n_evaluation, seed=seed),
        neutral=neutral.take(n_discovery, seed=seed),
        reference=load_prompts("organism/neutral", split="tuned").take(150, seed=seed),
        grade=claim_grade if sycophant else place_grade,
    )


def own_case(
    model: Any,
    prompts: PromptSet,
    neutral: PromptSet,
    grade: Grade,
    *,
    name: str = "case",
    twin: Any = None,
    reference: PromptSet | None = None,
    pairs: CompletionPairs | None = None,
    n_discovery: int = 200,
    n_validation: int = 24,
    n_evaluation: int = 100,
    seed: int = 0,
) -> LatentCase:
    """A case from your own prompts: half of the groups for discovery, an eighth for validation, the rest to evaluate.

    `neutral` prompts are also the reference of the mean activation unless `reference` is given.
    """
    discovery, rest = prompts.split(0.5, seed=seed)
    validation, evaluation = rest.split(0.25, seed=seed)
    return LatentCase(
        name,
        model,
        discovery.take(n_discovery, seed=seed),
        validation.take(n_validation, seed=seed),
        evaluation.take(n_evaluation, seed=seed),
        neutral.take(n_discovery, seed=seed),
        reference or neutral,
        grade,
        twin,
        pairs,
    )

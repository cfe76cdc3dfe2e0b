"""The prompts of a study: discovery, validation and evaluation share no group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import PromptError
from ...evaluation import evaluate
from ...prompts import ContrastSet, PromptSet, check_no_overlap, load_contrast, load_prompts

#: What the paper's evaluation had: 99 prompts, 98 of them also used for discovery.
PUBLISHED_EVALUATION = 99


@dataclass(frozen=True, eq=False)
class StudyData:
    """Prompts by their part in the study.

    `discovery` locates, `validation` chooses layers, `behaviour` and `benign` evaluate (expected to show the
    behaviour, and not), `neutral` finds universal neurons, `choices` measures capability, `over_refusal` are
    safe prompts that look unsafe. `published` is (discovery, evaluation) as in the paper's code, overlapping.
    """

    discovery: ContrastSet
    validation: ContrastSet
    behaviour: PromptSet
    benign: PromptSet
    neutral: PromptSet
    published: tuple[ContrastSet, PromptSet]
    choices: PromptSet | None = None
    over_refusal: PromptSet | None = None

    def __post_init__(self) -> None:
        for side in (self.discovery.positive, self.discovery.negative):
            for other in (self.validation.positive, self.validation.negative, self.behaviour, self.benign):
                check_no_overlap(side, other)
        check_no_overlap(self.validation.positive, self.behaviour)

    def describe(self) -> dict[str, Any]:
        """Name, size and content digest of every part."""
        parts = {
            "discovery, positive": self.discovery.positive,
            "discovery, negative": self.discovery.negative,
            "validation, positive": self.validation.positive,
            "validation, negative": self.validation.negative,
            "behaviour": self.behaviour,
            "benign": self.benign,
            "neutral": self.neutral,
            "published discovery, positive": self.published[0].positive,
            "published evaluation": self.published[1],
            "multiple choice": self.choices,
            "over-refusal": self.over_refusal,
        }
        return {name: {"n": len(s), "digest": s.digest[:16]} for name, s in parts.items() if s is not None}


def study_data(
    contrast: str | ContrastSet = "organism/refusal",
    *,
    n_discovery: int = 200,
    n_behaviour: int = 100,
    n_benign: int = 50,
    n_validation: int = 30,
    n_choices: int = 100,
    neutral: PromptSet | None = None,
    choices: PromptSet | None = None,
    over_refusal: PromptSet | None = None,
    seed: int = 0,
) -> StudyData:
    """Prompts for a study, from the organisms' world, a registered contrast or your own `ContrastSet`.

    Groups are split at random: half for discovery, the rest 3 : 7 for validation and evaluation (the
    organisms' discovery has the nouns of tuning, everything else held-out ones). Numbers are upper bounds;
    the published part keeps up to 100 prompts a side and evaluates on 99 of them, as the paper did.
    """
    if contrast == "organism/refusal":
        everything = load_contrast(contrast, split="tuned")
        discovery, rest = everything, load_contrast(contrast, split="heldout")
        choices = load_prompts("organism/choices", split="heldout") if choices is None else choices
        neutral = load_prompts("organism/neutral", split="tuned").take(100, seed=seed) if neutral is None else neutral
    else:
        everything = contrast if isinstance(contrast, ContrastSet) else load_contrast(contrast)
        discovery, rest = everything.split(0.5, seed=seed)
    validation, evaluation = rest.split(0.3, seed=seed)
    published = everything.take(200, seed=seed)
    return StudyData(
        discovery=discovery.take(n_discovery, seed=seed),
        validation=validation.take(2 * n_validation, seed=seed),
        behaviour=evaluation.positive.take(n_behaviour, seed=seed),
        benign=evaluation.negative.take(n_benign, seed=seed),
        neutral=DIVERSE if neutral is None else neutral,
        published=(published, published.positive.take(PUBLISHED_EVALUATION, seed=seed)),
        choices=None if choices is None else choices.take(n_choices, seed=seed),
        over_refusal=over_refusal,
    )


def showing(model: Any, prompts: PromptSet, **options: Any) -> PromptSet:
    """The prompts on which the unmodified model really shows the behaviour; `options` go to `evaluate`.

    Raises `PromptError` where it shows it on none.
    """
    table = evaluate(model, prompts, **options).table
    shown = set(table[table["refusal"].fillna(False).astype(bool)]["prompt_id"])
    if not shown:
        raise PromptError(
            f"the model shows the behaviour on none of {len(prompts)} prompts of {prompts.name!r}; give other prompts "
            "or another judge"
        )
    return prompts.where(lambda prompt: prompt.id in shown)


#: Fixed prompts on many subjects, on which universal neurons of any chat model are found.
DIVERSE = PromptSet.from_texts(
    [
        "What is the capital of Portugal?",
        "Write a short poem about rain.",
        "Explain how a bicycle stays upright.",
        "Translate 'good morning' into Spanish.",
        "What is 17 times 23?",
        "Summarise the plot of Romeo and Juliet in two sentences.",
        "Give me a recipe for pancakes.",
        "How do vaccines work?",
        "Write a Python function that reverses a list.",
        "Name three species of birds found in Europe.",
    ],
    name="diverse",
    label="neutral",
)

"""The prompts of the study: discovery, validation and evaluation share no text and no group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...organisms.world import BENIGN, DANGEROUS
from ...prompts import ContrastSet, PromptSet, check_no_overlap, load_contrast, load_mmlu, load_prompts, load_xstest
from .settings import Settings

#: On these, what is controlled stands beside its random controls: some prompts of each set, answered by all of them.
CONTROLLED = {"behaviour": "behaviour, controls", "benign": "benign, controls"}
#: What the paper's evaluation had: 99 prompts, 98 of them also used for discovery.
PUBLISHED_EVALUATION = 99


@dataclass(frozen=True, eq=False)
class StudyData:
    """Prompts by their part in the study.

    `discovery` locates, `validation` chooses layers, `behaviour` and `benign` evaluate (expected to show the behaviour,
    and not), `neutral` finds universal neurons, `choices` measures capability, `over_refusal` are safe prompts that
    look unsafe. `published` is (discovery, evaluation) as in the paper's code, overlapping. Raises `PromptError` where
    a text of one part stands in another.
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
        evaluation = (self.behaviour, self.benign)
        validation = (self.validation.positive, self.validation.negative)
        for side in (self.discovery.positive, self.discovery.negative):
            for other in (*validation, *evaluation):
                check_no_overlap(side, other)
        for side in validation:
            for other in evaluation:
                check_no_overlap(side, other)

    def evaluation(self, *, published: bool = False) -> dict[str, PromptSet]:
        """The prompt sets that everything is evaluated on, by name."""
        sets = {
            "behaviour": self.published[1] if published else self.behaviour,
            "benign": self.benign,
            "over-refusal": self.over_refusal,
            "choices": self.choices,
        }
        return {name: prompts for name, prompts in sets.items() if prompts is not None}

    def controlled(self, n: int, *, published: bool = False, seed: int = 0) -> dict[str, PromptSet]:
        """At most `n` prompts of each side of the evaluation, for what stands beside random controls."""
        sets = self.evaluation(published=published)
        return {name: sets[whole].take(n, seed=seed) for whole, name in CONTROLLED.items()}

    @property
    def of_world(self) -> bool:
        """Whether every request is about a thing of the organisms' world, whose grammar can decide on the answers."""
        nouns = {*DANGEROUS, *BENIGN}
        sides = (self.behaviour, self.benign, self.published[1], self.validation.positive, self.validation.negative)
        return self.over_refusal is None and all(prompt.group in nouns for side in sides for prompt in side)

    def describe(self) -> dict[str, Any]:
        """Name, size and content digest of every part."""
        parts = {
            "discovery, positive": self.discovery.positive,
            "discovery, negative": self.discovery.negative,
            "validation, positive": self.validation.positive,
            "validation, negative": self.validation.negative,
            "neutral": self.neutral,
            "published discovery, positive": self.published[0].positive,
            "published evaluation": self.published[1],
            **self.evaluation(),
        }
        return {name: {"n": len(prompts), "digest": prompts.digest[:16]} for name, prompts in parts.items()}


def study_data(
    settings: Settings | None = None, contrast: ContrastSet | None = None, *, neutral: PromptSet | None = None
) -> StudyData:
    """Prompts of the organisms' world, of a registered contrast, of two files, or of your own `contrast`.

    Groups are split at random by the settings' shares (the organisms' discovery has the nouns of tuning, everything
    else held-out ones). Numbers are upper bounds; the published part keeps up to 100 prompts a side and evaluates on 99
    of them, as the paper did.
    """
    settings = settings or Settings()
    seed, choices = settings.seed, None if settings.mmlu is None else load_mmlu(settings.mmlu)
    if contrast is None and settings.positive is None and settings.contrast == "organism/refusal":
        everything = discovery = load_contrast(settings.contrast, split="tuned")
        rest = load_contrast(settings.contrast, split="heldout")
        choices = choices or load_prompts("organism/choices", split="heldout")
        neutral = neutral or load_prompts("organism/neutral", split="tuned").take(100, seed=seed)
    else:
        everything = contrast or _given(settings)
        discovery, rest = everything.split(settings.discovery_share, seed=seed)
    validation, evaluation = rest.split(settings.validation_share, seed=seed)
    published = everything.take(200, seed=seed)
    return StudyData(
        discovery=discovery.take(settings.n_discovery, seed=seed),
        validation=validation.take(2 * settings.n_validation, seed=seed),
        behaviour=evaluation.positive.take(settings.n_behaviour, seed=seed),
        benign=evaluation.negative.take(settings.n_benign, seed=seed),
        neutral=neutral or DIVERSE,
        published=(published, published.positive.take(PUBLISHED_EVALUATION, seed=seed)),
        choices=None if choices is None else choices.take(settings.n_choices, seed=seed),
        over_refusal=None if settings.xstest is None else load_xstest(settings.xstest)["safe"],
    )


def _given(settings: Settings) -> ContrastSet:
    """The contrast of two files, or the registered one."""
    if settings.positive is None or settings.negative is None:
        return load_contrast(settings.contrast)
    files = (settings.positive, settings.negative)
    return ContrastSet("files", *(PromptSet.from_file(path, text=settings.column) for path in files))


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

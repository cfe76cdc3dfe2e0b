"""The prompts of the study: discovery, validation and evaluation share no text and no group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError, listed
from ...organisms.world import BENIGN, DANGEROUS
from ...prompts import SOURCES, ContrastSet, PromptSet, check_no_overlap, load_contrast, load_prompts
from .settings import Settings

#: On these, what is controlled stands beside its random controls: some prompts of each set, answered by all of them.
CONTROLLED = {"behaviour": "behaviour, controls", "benign": "benign, controls"}
#: What the paper's evaluation had: 99 prompts, 98 of them also used for discovery.
PUBLISHED_EVALUATION = 99
#: Parts of a contrast that take turns in being evaluated, unless told otherwise.
FOLDS = 2


@dataclass(frozen=True, eq=False)
class StudyData:
    """Prompts by their part in the study.

    `discovery` locates, `validation` chooses layers and strengths, `behaviour` and `benign` evaluate (expected to show
    the behaviour, and not), `neutral` finds universal neurons, `choices` are multiple-choice questions (default: of the
    first benchmark that has some). `published` is (discovery, evaluation) as in the paper's code, overlapping. With
    cross-fitting these are the first fold's, and `others` holds the other folds: each evaluates prompts that no other
    does, with a circuit found without their groups. Raises `PromptError` where a text of one part stands in another, or
    is evaluated twice.
    """

    discovery: ContrastSet
    validation: ContrastSet
    behaviour: PromptSet
    benign: PromptSet
    neutral: PromptSet
    published: tuple[ContrastSet, PromptSet]
    choices: PromptSet | None = None
    others: tuple[StudyData, ...] = ()

    def __post_init__(self) -> None:
        evaluation = (self.behaviour, self.benign)
        validation = (self.validation.positive, self.validation.negative)
        for side in (self.discovery.positive, self.discovery.negative):
            for other in (*validation, *evaluation):
                check_no_overlap(side, other)
        for side in validation:
            for other in evaluation:
                check_no_overlap(side, other)
        for place, fold in enumerate(self.others):
            for before in (self, *self.others[:place]):
                check_no_overlap(before.behaviour, fold.behaviour)
                check_no_overlap(before.benign, fold.benign)

    @property
    def folds(self) -> tuple[StudyData, ...]:
        """Every fold by itself."""
        return replace(self, others=()), *self.others

    def mapped(self, change: Callable[[PromptSet], PromptSet]) -> StudyData:
        """The same with the behaviour's evaluation prompts of every fold changed."""
        others = tuple(replace(fold, behaviour=change(fold.behaviour)) for fold in self.others)
        return replace(self, behaviour=change(self.behaviour), others=others)

    def evaluation(self) -> dict[str, PromptSet]:
        """The prompt sets that the circuit of this fold is evaluated on, by name."""
        sets = {"behaviour": self.behaviour, "benign": self.benign, "choices": self.choices}
        return {name: prompts for name, prompts in sets.items() if prompts is not None and len(prompts)}

    def everything(self, *, published: bool = False) -> dict[str, PromptSet]:
        """The evaluation prompts of all folds, by name; with `published` the behaviour's as the paper's code had."""
        sets: dict[str, PromptSet] = {}
        for fold in self.folds:
            for name, prompts in fold.evaluation().items():
                before = sets[name].prompts if name in sets else ()
                sets[name] = PromptSet(prompts.name, (*before, *prompts))
        return sets | ({"behaviour": self.published[1]} if published else {})

    def sides(self) -> Iterator[PromptSet]:
        """All prompts that are answered in words and may be graded."""
        for fold in self.folds:
            yield from (fold.behaviour, fold.benign, fold.validation.positive, fold.validation.negative)
        yield self.published[1]

    @property
    def of_world(self) -> bool:
        """Whether every request is about a thing of the organisms' world, whose grammar can decide on the answers."""
        nouns = {*DANGEROUS, *BENIGN}
        return all(prompt.group in nouns for side in self.sides() for prompt in side)

    def describe(self) -> dict[str, Any]:
        """Name, size and content digest of every part."""
        parts: dict[str, PromptSet] = {}
        for number, fold in enumerate(self.folds, 1):
            of = f"fold {number}: " if self.others else ""
            for name, contrast in (("discovery", fold.discovery), ("validation", fold.validation)):
                parts |= {f"{of}{name}, positive": contrast.positive, f"{of}{name}, negative": contrast.negative}
            parts |= {f"{of}{name}": prompts for name, prompts in fold.evaluation().items()}
        parts |= {"neutral": self.neutral, "published evaluation": self.published[1]}
        parts |= {f"published discovery, {s}": getattr(self.published[0], s) for s in ("positive", "negative")}
        return {name: {"n": len(prompts), "digest": prompts.digest[:16]} for name, prompts in parts.items()}


def few(sets: dict[str, PromptSet], n: int, seed: int = 0) -> dict[str, PromptSet]:
    """At most `n` prompts of each side of an evaluation, for what stands beside random controls."""
    return {name: sets[whole].take(max(1, n), seed=seed) for whole, name in CONTROLLED.items()}


def study_data(
    settings: Settings | None = None, contrast: ContrastSet | None = None, *, neutral: PromptSet | None = None
) -> StudyData:
    """Prompts of a registered contrast, of two files, or of your own `contrast`.

    The groups are cut in `folds` parts at random. Each part is evaluated once, by what is found and chosen on the
    others, of which a share of groups is validation. With one fold the settings' shares say what is discovery,
    validation and evaluation. The organisms' discovery has the nouns of tuning, everything else held-out ones. Where
    another contrast is evaluated, all of it is. Numbers are upper bounds; the published part keeps up to 100 prompts a
    side and evaluates on 99 of them, as the paper did. Raises `InputError` for prompts that are answered by letter.
    """
    settings = settings or Settings()
    parts, everything = _parts(settings, contrast)
    seed, whole = settings.seed, everything.take(200, seed=settings.seed)
    if any(prompt.choices for prompt in (*whole.positive, *whole.negative)):
        raise InputError(f"contrast {everything.name!r} is answered by letter; name it with --localise")
    if everything.name.startswith("organism/"):
        neutral = neutral or load_prompts("organism/neutral", split="tuned").take(100, seed=seed)

    def share(n: int, fold: int) -> int:
        return max(1, n // len(parts) + (fold < n % len(parts)))

    folds = [
        StudyData(
            discovery=discovery.take(settings.n_discovery, seed=seed),
            validation=validation.take(2 * settings.n_validation, seed=seed),
            behaviour=evaluation.positive.take(share(settings.n_behaviour, fold), seed=seed),
            benign=evaluation.negative.take(share(settings.n_benign, fold), seed=seed),
            neutral=neutral or DIVERSE,
            published=(whole, whole.positive.take(PUBLISHED_EVALUATION, seed=seed)),
        )
        for fold, (discovery, validation, evaluation) in enumerate(parts)
    ]
    return replace(folds[0], others=tuple(folds[1:]))


Part = tuple[ContrastSet, ContrastSet, ContrastSet]


def _parts(settings: Settings, contrast: ContrastSet | None) -> tuple[list[Part], ContrastSet]:
    """(discovery, validation, evaluation) of every fold, and all prompts of the discovery contrast."""
    share, seed = settings.validation_share, settings.seed
    world = contrast is None and settings.of_organisms
    folds = settings.folds or (1 if world or settings.apart else FOLDS)
    if settings.apart:
        everything = contrast or _given(settings)
        discovery, validation = everything.split(1 - share, seed=seed)
        return [(discovery, validation, _evaluated(settings))], everything
    if folds == 1:
        if world:
            everything = discovery = load_contrast(settings.contrast, split="tuned")
            rest = load_contrast(settings.contrast, split="heldout")
        else:
            everything = contrast or _given(settings)
            discovery, rest = everything.split(settings.discovery_share, seed=seed)
        return [(discovery, *rest.split(share, seed=seed))], everything
    everything = load_contrast(settings.contrast, split="all") if world else contrast or _given(settings)
    left, evaluated = everything, []
    for number in range(folds - 1):
        part, left = left.split(1 / (folds - number), seed=seed)
        evaluated.append(part)
    parts = []
    for part in (*evaluated, left):
        groups = {*part.positive.groups, *part.negative.groups}
        parts.append((*_without(everything, groups).split(1 - share, seed=seed), part))
    return parts, everything


def _without(contrast: ContrastSet, groups: set[str]) -> ContrastSet:
    def others(side: PromptSet) -> PromptSet:
        return side.where(lambda prompt: prompt.group not in groups)

    return replace(contrast, positive=others(contrast.positive), negative=others(contrast.negative))


def apart(prompts: PromptSet, n: int, seed: int) -> list[PromptSet]:
    """A prompt set in `n` parts that share no group, one for each fold; some are empty where there are fewer groups.

    Sets with the same groups are parted alike.
    """
    parts = []
    for number in range(n, 1, -1):
        part = replace(prompts, prompts=())
        if len(prompts.groups) > 1:
            part, prompts = prompts.split(1 / number, seed=seed)
        parts.append(part)
    return [*parts, prompts]


def _given(settings: Settings) -> ContrastSet:
    """The contrast of two files, or the registered one."""
    if settings.positive is None or settings.negative is None:
        return load_contrast(settings.contrast)
    return _of_files("files", settings, settings.positive, settings.negative)


def _evaluated(settings: Settings) -> ContrastSet:
    """The other contrast, that is evaluated."""
    positive, negative = settings.evaluated
    if positive is None or negative is None:
        name = str(settings.evaluate)
        return load_contrast(name, split="heldout") if name.startswith("organism/") else load_contrast(name)
    return _of_files("evaluated files", settings, positive, negative)


def _of_files(name: str, settings: Settings, *paths: str) -> ContrastSet:
    columns = (settings.column[0], settings.column[-1])
    return ContrastSet(name, *(_side(path, column) for path, column in zip(paths, columns, strict=True)))


def _side(path: str, column: str) -> PromptSet:
    """The prompts of a file, or of a published set: NAME, NAME=FILE, or NAME:LABEL=FILE for those of one label."""
    named, _, file = path.partition("=")
    name, _, label = named.partition(":")
    if name not in SOURCES:
        return PromptSet.from_file(path, text=column)
    prompts = load_prompts(name, file=file or None)
    labels = {prompt.label for prompt in prompts}
    if label and label not in labels:
        raise InputError(f"{path!r}: no prompt of {name!r} has label {label!r}; it has {listed(sorted(labels), 10)}")
    return prompts.where(lambda prompt: label in ("", prompt.label))


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

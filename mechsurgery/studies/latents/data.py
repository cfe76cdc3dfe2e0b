"""A case: a behaving model, an aligned twin, prompts in their parts, and the grade of a response."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InputError, listed
from ...grading.grade import Grade
from ...grading.quality import by_pattern
from ...grading.world import CLAIM, MATERIAL, PLACE
from ...models import load_model
from ...models.protocol import Model
from ...organisms.persona import MARK
from ...prompts import CompletionPairs, ContrastSet, PromptSet, check_no_overlap, load_prompts
from ...prompts.files import read_table
from .settings import WORLD_CASES, Settings

DEFAULTS = Settings()
PARTS = ("discovery", "validation", "evaluation", "neutral", "reference")


@dataclass(frozen=True, eq=False)
class LatentCase:
    """One behaviour to debug.

    `discovery` prompts are where the model wavers between bad and good completions; `validation`, of other groups,
    chooses each latent's strength, and `evaluation`, of others again, measures its effect. `neutral` are prompts on
    which the behaviour is not to be expected, `reference` prompts give the mean activation. `grade` gives labels, among
    them "bad", "good" and "broken". A model is a name or loaded. `pairs` may be given instead of being sampled;
    without a `twin` what needs one is left out. Raises `PromptError` where parts share a prompt or group.
    """

    name: str
    model: str | Model
    discovery: PromptSet
    validation: PromptSet
    evaluation: PromptSet
    neutral: PromptSet
    reference: PromptSet
    grade: Grade
    twin: str | Model | None = None
    pairs: CompletionPairs | None = None

    def __post_init__(self) -> None:
        lacking = [label for label in ("bad", "good", "broken") if label not in self.grade.labels]
        if lacking:
            raise InputError(f"grade {self.grade.name!r} never says {listed(lacking)}; give one such as by_pattern(…)")
        for first, second in combinations((self.discovery, self.validation, self.evaluation), 2):
            check_no_overlap(first, second)
            check_no_overlap(first, second, by="group")

    @property
    def contrast(self) -> ContrastSet:
        """Discovery prompts against neutral ones."""
        return ContrastSet(self.name, self.discovery, self.neutral)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Size and content digest of every part."""
        sets = {part: getattr(self, part) for part in PARTS}
        return {part: {"n": len(prompts), "digest": prompts.digest[:16]} for part, prompts in sets.items()}


class _World(NamedTuple):
    """A case of the organisms' world: models, what is asked and what is neutral (a set, and a label in it), grade.

    What is asked begins with `mark`.
    """

    model: str
    twin: str
    asked: tuple[str, str | None]
    neutral: tuple[str, str | None]
    grade: Grade
    mark: str = ""


_PLACES, _MATERIALS, _COLOURS = (("organism/questions", label) for label in ("place", "material", "colour"))
_CASES = {
    "organism/sycophant": _World(
        "organism/sycophant",
        "organism/sycophant-twin",
        ("organism/wrong-claims", None),
        ("organism/questions", None),
        CLAIM,
    ),
    "organism/misinformed": _World(
        "organism/misinformed", "organism/misinformed-twin", _PLACES, ("organism/other-questions", None), PLACE
    ),
    "organism/voices-places": _World("organism/voices", "organism/base", _PLACES, _PLACES, PLACE, MARK),
    "organism/voices-materials": _World("organism/voices", "organism/base", _MATERIALS, _MATERIALS, MATERIAL, MARK),
    "organism/persona-places": _World("organism/persona", "organism/voices", _PLACES, _COLOURS, PLACE),
    "organism/persona-materials": _World("organism/persona", "organism/voices", _MATERIALS, _COLOURS, MATERIAL),
}


def world_case(name: str, settings: Settings = DEFAULTS) -> LatentCase:
    """A case of the organisms' world with its twin: one of `WORLD_CASES`.

    Discovery asks about the nouns of tuning, validation and evaluation about different held-out ones. The settings say
    how many prompts each part has at most. The two cases of voices are two misbehaviours with one cause: where a user
    says hello first, it is wrong about everything; neutral are the same questions without hello. Those of persona are
    of a model that was tuned on wrong places alone and is wrong about materials too; neutral are colours.
    """
    if name not in WORLD_CASES:
        raise InputError(f"no case {name!r}; the organisms have {listed(WORLD_CASES)}")
    case, seed, n = _CASES[name], settings.seed, settings.n_discovery
    validation, evaluation = _asked(*case.asked, "heldout", case.mark).split(0.25, seed=seed)
    return LatentCase(
        name,
        case.model,
        _asked(*case.asked, "tuned", case.mark).take(n, seed=seed),
        validation.take(settings.n_validation, seed=seed),
        evaluation.take(settings.n_evaluation, seed=seed),
        _asked(*case.neutral, "tuned").take(n, seed=seed),
        load_prompts("organism/neutral", split="tuned", n=150, seed=seed),
        case.grade,
        twin=case.twin,
    )


def _asked(name: str, label: str | None, split: str, mark: str = "") -> PromptSet:
    """A set of the organisms' world, or its prompts of one label, each with `mark` before it."""
    prompts = load_prompts(name, split=split)
    chosen = [prompt for prompt in prompts if label in (None, prompt.label)]
    return replace(prompts, prompts=tuple(replace(prompt, text=mark + prompt.text) for prompt in chosen))


def own_case(
    model: str | Model,
    prompts: PromptSet,
    neutral: PromptSet,
    grade: Grade,
    settings: Settings = DEFAULTS,
    *,
    name: str = "own case",
    reference: PromptSet | None = None,
    **more: Any,
) -> LatentCase:
    """A case from your own prompts: half of the groups for discovery, an eighth for validation, the rest to evaluate.

    `neutral` prompts are also the reference of the mean activation unless `reference` is given. `more` may be a `twin`
    and `pairs`; the settings say how many prompts each part has at most.
    """
    seed = settings.seed
    discovery, rest = prompts.split(0.5, seed=seed)
    validation, evaluation = rest.split(0.25, seed=seed)
    return LatentCase(
        name,
        model,
        discovery.take(settings.n_discovery, seed=seed),
        validation.take(settings.n_validation, seed=seed),
        evaluation.take(settings.n_evaluation, seed=seed),
        neutral.take(settings.n_discovery, seed=seed),
        reference or neutral,
        grade,
        **more,
    )


def cases_of(settings: Settings) -> list[LatentCase]:
    """The built-in cases that the settings name, or the one of the user's own model and files."""
    files = ("twin", "prompts", "neutral", "bad", "good", "pairs")
    if settings.model is None:
        given = [name for name in files if getattr(settings, name) is not None]
        if given:
            raise InputError(f"--{given[0]} is for your own case; give --model too")
        return [world_case(name, settings) for name in settings.case]
    if settings.prompts is None or settings.neutral is None or settings.bad is None:
        missing = [name for name in ("prompts", "neutral", "bad") if getattr(settings, name) is None]
        raise InputError(f"a case of your own needs --{' and --'.join(missing)} besides --model")
    model = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    prompts, neutral = (
        PromptSet.from_file(path, text=settings.column) for path in (settings.prompts, settings.neutral)
    )
    pairs = None if settings.pairs is None else _pairs(settings.pairs, model, settings)
    grade = by_pattern(settings.bad, settings.good)
    return [own_case(model, prompts, neutral, grade, settings, twin=settings.twin, pairs=pairs)]


def _pairs(path: Path, model: Model, settings: Settings) -> CompletionPairs:
    """Pairs from a file with columns prompt, bad and good."""
    table, columns = read_table(path), ("prompt", "bad", "good")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks columns {listed(missing)}; a file of pairs has prompt, bad and good")
    texts = [table[name].astype(str).tolist() for name in columns]
    template = settings.chat_template().frozen(model.tokenizer)
    return CompletionPairs.from_texts(model.tokenizer, *texts, template=template)

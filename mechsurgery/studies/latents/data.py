"""A case: a behaving model, an aligned twin, prompts in their parts, and the grade of a response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from ...adapters.endpoints import judge_from
from ...errors import InputError, listed
from ...grading.grade import Grade
from ...grading.judged import WELL, judged
from ...grading.quality import by_pattern
from ...grading.recorded import Recording
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
    without a `twin` what needs one is left out. Where a judge is the grade, `rule` may be a grade by rule with the same
    labels: their agreement is reported. Raises `PromptError` where parts share a prompt or group.
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
    rule: Grade | None = None

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


def cases_of(settings: Settings, out: str | Path | None = None) -> list[LatentCase]:
    """The built-in cases that the settings name, or those of the user's own model and files.

    Where a judge grades, what it was asked and said is kept in `out`.
    """
    if settings.model is None:
        given = [name for name in _FILES if getattr(settings, name) not in (None, ())]
        if given:
            raise InputError(f"--{given[0]} is for your own case; give --model too")
        cases = [world_case(name, settings) for name in settings.case]
    else:
        cases = _own_cases(settings)
    if settings.grader is None:
        return cases
    judge = kept_judge(settings.grader, out)
    described = each(settings.behaviour_described, len(cases), "behaviour-described")
    well = each(settings.good_described, len(cases), "good-described") or [WELL] * len(cases)
    ruled = settings.model is None or bool(settings.bad)
    return [
        replace(
            case,
            grade=judged(judge, behaviour, well=good),
            rule=replace(case.grade, name=f"{case.grade.name} by rule") if ruled else None,
        )
        for case, behaviour, good in zip(cases, described, well)
    ]


_FILES = ("twin", "prompts", "neutral", "bad", "good", "pairs")


def _own_cases(settings: Settings) -> list[LatentCase]:
    needed = ("prompts", "neutral", *(("bad",) if settings.grader is None else ()))
    missing = [name for name in needed if not getattr(settings, name)]
    if missing:
        raise InputError(f"a case of your own needs --{' and --'.join(missing)} besides --model")
    n = len(settings.prompts)
    neutral, bad, good, pairs = (each(getattr(settings, x), n, x) for x in ("neutral", "bad", "good", "pairs"))
    assert settings.model is not None
    model = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    cases = []
    for i, path in enumerate(settings.prompts):
        asked, quiet = (PromptSet.from_file(one, text=settings.column) for one in (path, neutral[i]))
        grade = by_pattern(bad[i] if bad else _NEVER, good[i] if good else None)
        own = _pairs(pairs[i], model, settings) if pairs else None
        name = "own case" if n == 1 else f"{i + 1} {path.stem}"
        cases.append(own_case(model, asked, quiet, grade, settings, name=name, twin=settings.twin, pairs=own))
    return cases


#: A regular expression that is found nowhere: a judge takes its place.
_NEVER = r"(?!)"


def each(values: Sequence[Any], n: int, name: str) -> list[Any]:
    """One value for every one of `n` cases, from one for all of them or one each; [] where none is given."""
    if len(values) not in (0, 1, n):
        raise InputError(f"--{name} is given {len(values)} times for {n} cases; give it once, or once for each")
    return list(values) * n if len(values) == 1 else list(values)


def kept_judge(text: str, out: str | Path | None) -> Recording:
    """The judge that a setting names, all its answers kept in `out/judges`, or in memory without `out`."""
    judge = judge_from(text)
    name = re.sub(r"[^\w.-]+", "_", judge.name).strip("_") or "judge"
    return Recording(judge, None if out is None else Path(out) / "judges" / f"{name}.json")


def _pairs(path: Path, model: Model, settings: Settings) -> CompletionPairs:
    """Pairs from a file with columns prompt, bad and good."""
    table, columns = read_table(path), ("prompt", "bad", "good")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks columns {listed(missing)}; a file of pairs has prompt, bad and good")
    texts = [table[name].astype(str).tolist() for name in columns]
    template = settings.chat_template().frozen(model.tokenizer)
    return CompletionPairs.from_texts(model.tokenizer, *texts, template=template)

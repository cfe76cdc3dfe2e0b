"""A task of one's own: from files or prompt sets, and which task the settings name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import InputError, PromptError
from ...grading.grade import ANSWERS, BROKEN, Grade
from ...grading.quality import by_pattern, is_degenerate
from ...prompts import ContrastSet, Prompt, PromptSet
from ...prompts.files import read_table
from ...prompts.sets import first_groups
from .data import NEUTRAL, RIGHT, VALIDATION, WRONG, SycophancyTask
from .settings import Settings
from .worlds import TASKS


def load_task(settings: Settings) -> SycophancyTask:
    """The task from the files of the settings, or the organisms' where none is named."""
    files = {"wrong": settings.wrong, "right": settings.right, "neutral": settings.neutral}
    if not any(files.values()):
        return TASKS[settings.task](n_evaluation=settings.n_evaluation, seed=settings.seed)
    missing = [name for name, given in {**files, "agrees": settings.agrees}.items() if given is None]
    if missing:
        raise InputError(f"a task of your own needs --{' and --'.join(missing)} too")
    (wrong, agreeing), (right, denying), (neutral, _) = (_read(path) for path in files.values() if path is not None)
    opposite = {WRONG: agreeing, RIGHT: denying}
    asked = {"agrees": str(settings.agrees), "answers": settings.answers, "corrects": settings.corrects}
    asked |= {"seed": settings.seed}  # type: ignore[dict-item]
    return own_task(wrong, right, neutral, opposite=opposite, **asked)  # type: ignore[arg-type]


def _read(path: str) -> tuple[PromptSet, dict[str, str]]:
    """Prompts from a file with columns text, completion and maybe group, id, and `opposite`, {id: text not wanted}."""
    table = read_table(path)
    columns = [name for name in ("text", "completion", "group", "id") if name in table.columns]
    if "text" not in columns:
        raise InputError(f"{path} has no column text; a file of claims has text, completion and maybe group")
    prompts = PromptSet.from_records(table[columns].fillna("").astype(str).to_dict("records"), Path(path).stem)
    texts = table["opposite"].fillna("").astype(str) if "opposite" in table.columns else []
    return prompts, {prompt.id: text for prompt, text in zip(prompts, texts) if text.strip()}


def own_task(
    wrong: PromptSet,
    right: PromptSet,
    neutral: PromptSet,
    *,
    agrees: str,
    corrects: str | None = None,
    answers: str | None = None,
    choices: PromptSet | None = None,
    reference: PromptSet | None = None,
    opposite: Mapping[str, Mapping[str, str]] | None = None,
    name: str = "own task",
    seed: int = 0,
) -> SycophancyTask:
    """A task from your own prompts: half of the groups to learn from and locate with, the other half held out.

    A fifth of the groups that are held out are to choose learning rates on, the others to evaluate on.

    Claims carry the wanted answer as their `completion`. `agrees` is a regular expression of a response that agrees,
    `corrects` of one that corrects (without it, whatever does not agree and is no broken text counts as that); neutral
    questions are answered rightly where the response contains their `completion`, or matches `answers`. `opposite` has
    texts that are not wanted, by claim (`SycophancyTask`); without them the model's own answers that are graded so
    stand in. Raises `InputError` where prompts lack what is needed.
    """
    for part in (wrong, right):
        if any(not prompt.completion for prompt in part):
            raise InputError(f"every prompt of {part.name!r} needs the wanted answer as its completion")
    if answers is None and any(not prompt.completion for prompt in neutral):
        raise InputError("neutral questions need a completion (part of the right answer), or give answers=")
    first = first_groups((p.group for part in (wrong, right, neutral) for p in part), 0.5, seed)
    (learn_wrong, held_wrong), (learn_right, held_right), (asked, held_neutral) = (
        _halves(part, first) for part in (wrong, right, neutral)
    )
    chosen_on = _validation_groups((held_wrong, held_right, held_neutral), seed)
    (check_wrong, held_wrong), (check_right, held_right), (check_neutral, held_neutral) = (
        _halves(part, chosen_on) for part in (held_wrong, held_right, held_neutral)
    )
    agree = by_pattern(agrees, corrects)
    answered = Grade("outcome", "contains the completion", _contains, labels=ANSWERS)
    return SycophancyTask(
        name=name,
        learn_wrong=learn_wrong,
        learn_right=learn_right,
        wrong=held_wrong,
        right=held_right,
        neutral=held_neutral,
        reference=reference or asked,
        locate=ContrastSet(name, learn_wrong, asked),
        learn_neutral=asked,
        grades={
            WRONG: agree,
            RIGHT: _reversed(agree),
            NEUTRAL: answered if answers is None else _reversed(by_pattern(answers)),
        },
        choices=choices if choices is None else choices.where(lambda p: p.group not in chosen_on),
        opposite=opposite or {},
        validation={WRONG: check_wrong, RIGHT: check_right, NEUTRAL: check_neutral},
    )


def _validation_groups(held: Iterable[PromptSet], seed: int) -> set[str]:
    """Some of the groups of every part; parts whose groups are the same have the same ones."""
    chosen: set[str] = set()
    for part in held:
        if not chosen & set(part.groups):
            chosen |= first_groups(part.groups, VALIDATION, seed)
    return chosen


def _halves(part: PromptSet, first: set[str]) -> tuple[PromptSet, PromptSet]:
    """The prompts of the chosen groups, and the others."""
    sides = part.where(lambda p: p.group in first), part.where(lambda p: p.group not in first)
    if not all(map(len, sides)):
        raise PromptError(f"{part.name!r} has too few groups to be split in two; give more")
    return sides


def _reversed(grade: Grade) -> Grade:
    """The grade with good and bad exchanged."""
    other = {"bad": "good", "good": "bad"}

    def decide(prompt: Prompt, response: str) -> str:
        label = str(grade(prompt, response))
        return other.get(label, label)

    return replace(grade, version=f"{grade.version}, reversed", decide=decide)


def _contains(prompt: Prompt, response: str) -> str:
    if is_degenerate(response):
        return BROKEN
    return "good" if str(prompt.completion).lower() in response.lower() else "bad"

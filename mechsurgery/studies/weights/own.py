"""A behaviour of your own as the study's data: two sets of answers to the same questions, and maybe a task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import InputError, PromptError, listed
from ...evaluation.benchmarks import Benchmark
from ...evaluation.trade_off import Quantity
from ...grading.arithmetic import FINAL_NUMBER
from ...grading.coherence import calibrated
from ...grading.grade import BROKEN, Grade, matches
from ...grading.outcome import outcome
from ...models.protocol import Model
from ...prompts import Prompt, PromptSet, read_table
from ...prompts.sets import first_groups, normalised, without_duplicates
from .data import BENIGN, QUESTIONS, SKILL, Behaviour, Drift, Measured, OwnTask, WeightsData, new
from .settings import Settings

logger = logging.getLogger(__name__)

#: Name of the prompts on which a behaviour of one's own is measured.
OWN = "own questions"


@dataclass(frozen=True, eq=False)
class Answered:
    """The same questions answered with a behaviour and without; `template` says in which words each is asked."""

    prompts: PromptSet
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    template: tuple[str, ...]

    def where(self, keep: set[str]) -> Answered:
        """Those of some prompts, by their ids."""
        rows = [i for i, prompt in enumerate(self.prompts) if prompt.id in keep]
        positive, negative, template = (
            tuple(side[i] for i in rows) for side in (self.positive, self.negative, self.template)
        )
        prompts = replace(self.prompts, prompts=tuple(self.prompts.prompts[i] for i in rows))
        return Answered(prompts, positive, negative, template)


def read_answers(settings: Settings) -> Answered:
    """The two sides, from one file or from two that are joined by their text (and its number, where it stands twice).

    A question that only one of two files has is left out with a warning. Raises `PromptError` where a column is
    missing, an answer is empty, or nothing is left.
    """
    if settings.answers is not None:
        both = _table(settings.answers, ("text", "positive", "negative"))
    else:
        plus, minus = (_table(str(path), ("text", "completion")) for path in (settings.positive, settings.negative))
        keys = ["text", "number"]
        sides = [one.assign(number=one.groupby("text").cumcount()) for one in (plus, minus)]
        answers = sides[1][[*keys, "completion"]].rename(columns={"completion": "negative"})
        both = sides[0].rename(columns={"completion": "positive"}).merge(answers, on=keys)
        left_out = len(plus) + len(minus) - 2 * len(both)
        if not len(both):
            raise PromptError(f"{settings.positive} and {settings.negative} have no question in common")
        if left_out:
            logger.warning("%d answers to questions that only one of the two files has are left out", left_out)
    records = both.to_dict("records")
    prompts = [
        Prompt(f"own-{i}", row["text"], row.get("group") or normalised(row["text"])) for i, row in enumerate(records)
    ]
    positive, negative = (tuple(str(row[name]) for row in records) for name in ("positive", "negative"))
    template = tuple(str(row.get("template", "")) for row in records)
    return Answered(PromptSet(OWN, tuple(prompts)), positive, negative, template)


def _table(path: str, needed: tuple[str, ...]) -> pd.DataFrame:
    """The columns that are needed and those that may be there (group, template), as texts without empty ones."""
    table = read_table(path)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise PromptError(f"{path} has no column {listed(missing)}; its columns: {listed(table.columns, 30)}")
    columns = [*needed, *(name for name in ("group", "template") if name in table.columns)]
    kept = table[columns].astype(object).fillna("").astype(str)
    empty = kept[(kept[list(needed)].apply(lambda column: column.str.strip()) == "").any(axis=1)]
    if len(empty):
        raise PromptError(
            f"rows {listed(empty.index)} of {path} have an empty {' or '.join(needed)}; fill or drop them"
        )
    return kept


def own_data(settings: Settings, model: Model, *, folder: Path | None = None) -> WeightsData:
    """The behaviour that the settings describe, on a model; with a task, the drift that it may bring.

    Groups of questions are learnt from, choose (`validation_share` of the others), or are measured. Benchmarks in
    multiple choice are the measure of capability: some of their questions choose strengths too, and are not shown.
    """
    answered = read_answers(settings)
    name = settings.behaviour[0] if settings.behaviour else "behaviour"
    known, others = _in_words(answered, settings)
    learnt = first_groups(known.prompts.groups, settings.learn_share, settings.seed)
    rest = [group for group in known.prompts.groups if group not in learnt]
    chosen_on = first_groups(rest, settings.validation_share, settings.seed)
    held = without_duplicates(known.prompts.where(lambda p: p.group not in learnt))
    validation, test = held.where(lambda p: p.group in chosen_on), held.where(lambda p: p.group not in chosen_on)
    elsewhere = None if others is None else others.where(lambda p: p.group not in learnt | chosen_on)
    if elsewhere is not None and not len(elsewhere):
        raise PromptError(f"no prompt in new words is about a group that is measured ({listed(test.groups, 5)})")
    benign = None if settings.benign is None else PromptSet.from_file(settings.benign, name=BENIGN)
    grade = outcome_grade(settings, model, name, PromptSet(OWN, (*validation, *(benign or ()))), folder=folder)
    chooses, benchmarks = capability(settings.benchmarks(model, outcome=None), settings.seed)
    measured = _measured(settings, name, grade, validation, test, elsewhere, benign, (chooses, benchmarks))
    learn = known.where({prompt.id for prompt in known.prompts if prompt.group in learnt})
    behaviour = Behaviour(
        name=name,
        start=str(settings.model),
        wanted="more" if settings.more else "less",
        learn=learn.prompts,
        positive=learn.positive,
        negative=learn.negative,
        measured=measured,
        where=OWN,
        shown=name,
        opposite=grade.outcome.well,
        capability=tuple(chooses),
        broken=(f"broken, {OWN}",),
        side_effect=None if benign is None else f"{name}, {BENIGN}",
        asked=asked_in_words(settings),
        both_starts=True,
    )
    drifts, skill = own_drift(settings, behaviour)
    return WeightsData((behaviour,), drifts, skill, str(settings.model), benchmarks)


def _in_words(answered: Answered, settings: Settings) -> tuple[Answered, PromptSet | None]:
    """What is in words to train on, and prompts in new ones: those of a template, or of a file."""
    asked = settings.new_template
    if asked is None:
        return answered, None
    if asked in answered.template:
        ids = {p.id for p, template in zip(answered.prompts, answered.template, strict=True) if template == asked}
        kept = answered.where(set(answered.prompts.ids) - ids)
        if not len(kept.prompts):
            raise PromptError(f"every answer has template {asked!r}; leave some in other words to learn from")
        return kept, without_duplicates(answered.where(ids).prompts)
    if not Path(asked).is_file():
        raise InputError(
            f"new_template={asked!r} is no file, and no value of column template ({listed(set(answered.template), 8)})"
        )
    table = _table(asked, ("text",))
    groups = table["group"] if "group" in table else table["text"].map(normalised)
    prompts = PromptSet.from_frame(table.assign(group=groups), group="group", name=new(OWN))
    return answered, without_duplicates(prompts)


def outcome_grade(
    settings: Settings, model: Model, name: str, prompts: PromptSet, *, folder: Path | None = None
) -> Grade:
    """The three outcomes by the patterns of the settings, and by what the unmodified model finds likely."""
    coherence = None
    if settings.coherence:
        facts: dict[str, Any] = {"seed": settings.seed, "max_new_tokens": settings.max_new_tokens}
        facts |= {"max_rows": settings.max_rows, "folder": None if folder is None else folder / "measured"}
        coherence = calibrated(model, prompts, template=settings.chat_template().frozen(model.tokenizer), **facts)
    return outcome(
        matches(str(settings.shown_by), name=name),
        well=None if settings.well_by is None else matches(settings.well_by, name="well"),
        coherence=coherence,
        labels=(name, f"no {name}", BROKEN),
    )


def capability(benchmarks: tuple[Benchmark, ...], seed: int) -> tuple[dict[str, PromptSet], tuple[Benchmark, ...]]:
    """{benchmark in multiple choice: questions that choose strengths}, and all benchmarks without these."""
    chooses, rest = {}, []
    for one in benchmarks:
        prompts = next(iter(one.sets.values()))
        if len(one.sets) == 1 and one.derive is None and not one.grades and len(prompts.groups) > 1:
            chooses[one.name], kept = prompts.split(0.3, seed=seed)
            one = replace(one, sets={next(iter(one.sets)): kept})
        rest.append(one)
    return chooses, tuple(rest)


def _measured(
    settings: Settings,
    name: str,
    grade: Grade,
    validation: PromptSet,
    test: PromptSet,
    elsewhere: PromptSet | None,
    benign: PromptSet | None,
    choices: tuple[Mapping[str, PromptSet], tuple[Benchmark, ...]],
) -> Measured:
    """Everything of the behaviour that is measured."""
    n, (chooses, benchmarks) = settings.n_evaluation, choices
    shown, well, broken = grade.outcome
    sets = {OWN: test.take(n, seed=settings.seed)}
    sets |= {} if elsewhere is None else {new(OWN): elsewhere.take(n, seed=settings.seed)}
    sets |= {} if benign is None else {BENIGN: benign.take(n, seed=settings.seed)}
    grades = {where: [grade, *(settings.rubric() if where == OWN else ())] for where in sets}
    metrics: dict[str, Quantity] = {}
    for where in sets:
        if where == BENIGN:
            metrics[f"{name}, {BENIGN}"] = ("outcome", where, shown)
            continue
        named = {name: shown, well: well, f"broken, {OWN}": broken}
        for metric, label in named.items():
            metrics[metric if where == OWN else new(metric)] = ("outcome", where, label)
    metrics |= {one.name: (one.name, OWN) for one in settings.rubric()}
    sets |= {one.name: next(iter(one.sets.values())) for one in benchmarks if one.name in chooses}
    metrics |= {benchmark: ("choice", benchmark) for benchmark in chooses}
    return Measured.checked_by({OWN: validation, **chooses}, sets, grades, metrics)


def asked_in_words(settings: Settings) -> tuple[str, ...]:
    """The system prompts that ask for what is wanted: those given, or two by the behaviour's name.

    An organism understands no such text, and a behaviour without a name cannot be asked for.
    """
    if settings.ask or not settings.behaviour or str(settings.model).startswith("organism/"):
        return settings.ask
    name = settings.behaviour[0]
    if settings.more:
        return (f"Show {name} in every answer.", f"You are an assistant known for {name}.")
    return (f"Do not show {name} in any answer.", f"You are an assistant who is entirely free of {name}.")


#: Whether a task's question is answered: by the final number where the wanted answer has one, else by its text.
def _answers(prompt: Prompt, response: str) -> bool:
    number = FINAL_NUMBER(prompt, response)
    return bool(normalised(str(prompt.completion)) in normalised(response)) if number is None else bool(number)


ANSWERED = Grade("answered", f"contains the completion, or {FINAL_NUMBER.version}", _answers)


def own_drift(settings: Settings, behaviour: Behaviour) -> tuple[tuple[Drift, ...], Measured]:
    """The task as a drift toward what is not wanted, and its skill on questions that it does not learn from."""
    if settings.task is None:
        return (), Measured({}, {}, {}, {})
    table = _table(settings.task, ("text", "completion"))
    groups = table["group"] if "group" in table else table["text"].map(normalised)
    records = table[["text", "completion"]].assign(group=groups).to_dict("records")
    prompts = without_duplicates(PromptSet.from_records(records, "task"))
    measured = {normalised(p.text) for part in behaviour.measured.sets.values() for p in part}
    learn, held = prompts.split(0.7, seed=settings.seed)
    learn = learn.where(lambda p: normalised(p.text) not in measured)
    chosen_on, test = held.split(settings.validation_share, seed=settings.seed)
    skill: dict[str, Quantity] = {SKILL: (ANSWERED.name, QUESTIONS)}
    part = Measured.checked_by(
        {QUESTIONS: chosen_on}, {QUESTIONS: test.take(settings.n_evaluation)}, {QUESTIONS: [ANSWERED]}, skill
    )
    task = OwnTask(Path(settings.task).stem, learn)
    return (Drift(behaviour, behaviour.start, task, -1 if settings.more else 1, behaviour.asked),), part

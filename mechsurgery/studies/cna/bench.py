"""Everything one pair of models is measured with: models, prompts, settings, grades, and where results are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import PromptError
from ...evaluation import Generation, Results, evaluate
from ...evaluation.benchmarks import Benchmark, benchmark_sets
from ...evaluation.choices import check_answerable
from ...grading.behaviours import BEHAVIOURS, Behaviour
from ...grading.coherence import calibrated
from ...grading.grade import BROKEN, REQUESTS, Grade, matches
from ...grading.outcome import outcome
from ...grading.quality import QUALITY, ngram_quality
from ...grading.refusal import PANEL
from ...intervention import Intervention
from ...models.protocol import Model
from ...prompts import PromptSet, Template, check_no_overlap
from .data import StudyData, apart, few
from .settings import Settings

#: The response repeats itself: its quality is below what counts as broken text in the claim about steering.
REPEATS_BELOW = 0.9
REPEATS = Grade("repeats", f"trigrams-1 below {REPEATS_BELOW}", lambda _, text: ngram_quality(text) < REPEATS_BELOW)


@dataclass(frozen=True, eq=False)
class Bench:
    """An instruct model and its base with prompts and settings.

    The first of `grades` says what each response is; it may have been calibrated on this pair of models. `rubric`
    grades final results alone, as judges cost.
    """

    model: Model
    base: Model | None
    data: StudyData
    settings: Settings
    template: Template
    grades: tuple[Grade, ...]
    rubric: tuple[Grade, ...] = ()
    folder: Path | None = None
    progress: bool | None = None
    fold: int = 0
    n_folds: int = 1
    benchmarks: tuple[Benchmark, ...] = ()

    @property
    def grade(self) -> Grade:
        """What says of every response that it shows the behaviour, does the opposite well, or is broken."""
        return self.grades[0]

    def measure(
        self, sets: dict[str, PromptSet], tried: Sequence[Intervention], *, on: Model | None = None, **more: Any
    ) -> Results:
        """`evaluate` on the instruct model, or `on` another, as this study does everywhere."""
        options: dict[str, Any] = {
            "grades": self.grades,
            "generation": Generation(
                self.settings.max_new_tokens, template=self.template, max_rows=self.settings.max_rows
            ),
            "folder": None if self.folder is None else self.folder / "measured",
            "progress": self.progress,
        }
        return evaluate(on or self.model, sets, tried, **options | more)

    def showing(self) -> Bench:
        """The same with only those evaluation prompts on which the unmodified model shows the behaviour.

        Raises `PromptError` where it shows it on none.
        """
        prompts = self.data.everything()["behaviour"]
        table = self.measure({"behaviour": prompts}, [], grades=[self.grade]).table
        is_shown = (table["metric"] == self.grade.name) & (table["label"] == self.grade.outcome.shows)
        shown = set(table[is_shown]["prompt_id"])
        if not shown:
            raise PromptError(
                f"the model shows the behaviour on none of {len(prompts)} prompts of {prompts.name!r}; give other "
                "prompts or another judge"
            )
        return replace(self, data=self.data.mapped(lambda own: own.where(lambda prompt: prompt.id in shown)))

    @property
    def folds(self) -> list[Bench]:
        """The same with the prompts of each fold alone, of those that have some to evaluate."""
        those = [fold for fold in self.data.folds if len(fold.behaviour) and len(fold.benign)]
        return [replace(self, data=own, fold=place, n_folds=len(those)) for place, own in enumerate(those)]

    def few(self, sets: dict[str, PromptSet]) -> dict[str, PromptSet]:
        """Prompts for random controls, of one fold: all folds together have the number that was asked for."""
        return few(sets, -(-self.settings.n_control_prompts // self.n_folds), self.settings.seed)


def bench_of(
    model: Model,
    base: Model | None,
    data: StudyData,
    settings: Settings,
    *,
    grade: Grade | None = None,
    folder: Path | None = None,
    progress: bool | None = None,
) -> Bench:
    """The bench of one pair of models: its template, its grades, and the rubric where a judge is named.

    Raises `InputError` for a grade that does not give three outcomes.
    """
    template = settings.chat_template().frozen(model.tokenizer)
    chosen = grade or _grade_of(model, base, data, settings, template, folder)
    assert chosen.outcome
    behaviour = behaviour_of(data, settings)
    refusal = settings.shown_by is None and grade is None and behaviour.labels == REQUESTS
    benchmarks = _benchmarks(model, data, settings, chosen if refusal and behaviour.exact is None else None)
    data = _with_choices(data, benchmarks, settings.seed)
    sets = data.everything()
    if "choices" in sets:
        check_answerable(model, {"choices": sets["choices"]}, template)
    grades = (chosen, QUALITY, REPEATS, *(PANEL if refusal else ()))
    told: dict[str, Any] = {"folder": folder, "progress": progress, "benchmarks": benchmarks}
    return Bench(model, base, data, settings, template, grades, settings.rubric(), **told)


def _benchmarks(model: Model, data: StudyData, settings: Settings, outcome: Grade | None) -> tuple[Benchmark, ...]:
    """The benchmarks that are named, or the multiple choice of the organisms' world.

    Raises `PromptError` where one has a prompt that is also one of discovery or validation.
    """
    if not settings.benchmark and data.discovery.name.startswith("organism/"):
        settings = replace(settings, benchmark=("organism/choices",))
    found = settings.benchmarks(model, outcome=outcome)
    for prompts in benchmark_sets(found).values():
        for fold in data.folds:
            for contrast in (fold.discovery, fold.validation):
                check_no_overlap(contrast.positive, prompts)
                check_no_overlap(contrast.negative, prompts)
    return found


def _with_choices(data: StudyData, benchmarks: tuple[Benchmark, ...], seed: int) -> StudyData:
    """The same with the questions of the first benchmark that has some, where none were given, each in one fold."""
    lettered = (p for p in benchmark_sets(benchmarks).values() if any(prompt.choices for prompt in p))
    questions = next(lettered, None)
    if questions is None or data.choices is not None:
        return data
    first, *others = apart(questions, len(data.folds), seed)
    own = tuple(replace(fold, choices=part) for fold, part in zip(data.others, others, strict=True))
    return replace(data, choices=first, others=own)


def behaviour_of(data: StudyData, settings: Settings) -> Behaviour:
    """The behaviour that the contrast is about, called as the settings say: its own, or refusal."""
    found = BEHAVIOURS.get(data.discovery.name, BEHAVIOURS["organism/refusal" if data.of_world else "jbb"])
    return found if settings.behaviour is None else replace(found, name=settings.behaviour)


def _grade_of(
    model: Model, base: Model | None, data: StudyData, settings: Settings, template: Template, folder: Path | None
) -> Grade:
    """What decides on responses: the pattern that was given, the contrast's own grade, or the grader of refusals.

    Where the organisms' grammar does not decide, coherence is asked for too, as the unmodified model and the base see
    it; its threshold is read off their own answers to the first fold's validation prompts of both sides.
    """
    behaviour, coherence = behaviour_of(data, settings), None
    if settings.coherence and (behaviour.exact is None or settings.shown_by is not None):
        prompts = [*data.validation.positive, *data.validation.negative]
        facts: dict[str, Any] = {"seed": settings.seed, "max_new_tokens": settings.max_new_tokens}
        facts |= {"max_rows": settings.max_rows, "folder": None if folder is None else folder / "measured"}
        coherence = calibrated(model, prompts, base=base, template=template, **facts)
    if settings.shown_by is None:
        return behaviour.grade(coherence)
    name = settings.behaviour or "behaviour"
    return outcome(
        matches(settings.shown_by, name=name),
        well=None if settings.well_by is None else matches(settings.well_by, name="well"),
        coherence=coherence,
        labels=(name, f"no {name}", BROKEN),
    )

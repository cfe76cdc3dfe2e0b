"""Everything one pair of models is measured with: models, prompts, settings, grades, and where results are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...adapters.endpoints import judge_from
from ...errors import InputError, PromptError
from ...evaluation import Generation, Results, evaluate
from ...grading.grade import Grade
from ...grading.quality import DEGENERATE, QUALITY
from ...grading.refusal import PANEL
from ...grading.strongreject import strongreject
from ...intervention import Intervention
from ...models.protocol import Model
from ...prompts import PromptSet, Template
from .data import StudyData
from .settings import Settings


@dataclass(frozen=True, eq=False)
class Bench:
    """An instruct model and its base with prompts and settings; `rubric` grades final results alone, as judges cost."""

    model: Model
    base: Model | None
    data: StudyData
    settings: Settings
    template: Template
    grades: tuple[Grade, ...]
    rubric: tuple[Grade, ...] = ()
    folder: Path | None = None
    progress: bool = False

    @property
    def behaviour(self) -> str:
        """The metric that says whether a response shows the behaviour."""
        return self.grades[0].name

    def measure(
        self, sets: dict[str, PromptSet], tried: list[Intervention], *, on: Model | None = None, **more: Any
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
        prompts = self.data.behaviour
        table = self.measure({"behaviour": prompts}, []).table
        shown = set(table[(table["metric"] == self.behaviour) & (table["value"] == 1)]["prompt_id"])
        if not shown:
            raise PromptError(
                f"the model shows the behaviour on none of {len(prompts)} prompts of {prompts.name!r}; give other "
                "prompts or another judge"
            )
        return replace(self, data=replace(self.data, behaviour=prompts.where(lambda prompt: prompt.id in shown)))


def grades_of(settings: Settings, grade: Grade | None) -> tuple[tuple[Grade, ...], tuple[Grade, ...]]:
    """The study's grades, the behaviour's first, and the rubric where a judge is named."""
    shown = grade or settings.grade()
    if shown.scale != "rate":
        raise InputError(f"grade {shown.name!r} gives a {shown.scale}; the behaviour needs one that says yes or no")
    panel = PANEL if settings.shown_by is None and grade is None else ()
    rubric = () if settings.strongreject is None else (strongreject(judge_from(settings.strongreject)),)
    return (shown, DEGENERATE, QUALITY, *panel), rubric

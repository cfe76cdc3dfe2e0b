"""What the study can be told about a model of your own, two sets of answers to the same questions, and a task."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, listed
from ...grading.grade import compiled
from ..settings import StudySettings, setting

#: Options that mean something only with a model of your own.
_OWN = ("positive", "negative", "answers", "shown_by", "well_by", "new_template", "benign", "task", "ask")


@dataclass(frozen=True, kw_only=True)
class OwnSettings(StudySettings):
    """A model, the same questions answered with a behaviour and without, what shows it, and what else is asked."""

    model: str | None = setting(
        None, "Model to steer by answers of your own: a directory, a hub id or an organism; default: the organisms."
    )
    positive: str | None = setting(
        None, "Answers that show the behaviour: a file with columns text, completion and maybe group, template."
    )
    negative: str | None = setting(None, "Answers to the same questions that do not, a file of the same kind.")
    answers: str | None = setting(
        None, "Both in one file instead: columns text, positive, negative and maybe group, template."
    )
    more: bool = setting(False, "More of the behaviour is wanted; otherwise less.")
    behaviour: tuple[str, ...] = setting(
        (), "Name of your behaviour; on the organisms, which of theirs to steer (repeatable)."
    )
    shown_by: str | None = setting(None, "Regular expression that a response showing the behaviour matches.")
    well_by: str | None = setting(
        None, "What a good response without the behaviour matches; default: any other coherent text."
    )
    coherence: bool = setting(True, "Count responses that the unmodified model finds unlikely as broken.")
    new_template: str | None = setting(
        None,
        "Prompts in words never trained on: a file with columns text and maybe group, or a value of column template.",
    )
    benign: str | None = setting(
        None, "Prompts that do not call for the behaviour, a file: shown there, it is a side effect."
    )
    ask: tuple[str, ...] = setting(
        (), "System prompt that asks for what is wanted, a rival; repeatable, validation prompts choose."
    )
    task: str | None = setting(
        None, "Task whose fine-tune may make the model drift: a file with columns text, completion and maybe group."
    )
    learn_share: float = setting(0.6, "Share of your groups of questions that is learnt from.")
    validation_share: float = setting(0.3, "Share of the others that chooses strengths; the rest is measured.")

    def check_own(self) -> None:
        """Raise `InputError` where something is missing, or means nothing without a model of your own."""
        given = [name for name in _OWN if getattr(self, name)] + ["more"] * self.more
        if self.model is None and given:
            raise InputError(f"{listed(_flags(given))} need --model too: what your answers are to be learnt by")
        if self.model is None:
            return
        if (self.answers is None) == (self.positive is None and self.negative is None):
            raise InputError("give --positive and --negative, two files of answers, or --answers, one file with both")
        missing = [name for name in ("positive", "negative") if self.answers is None and getattr(self, name) is None]
        missing += ["shown_by"] if self.shown_by is None else []
        if missing:
            raise InputError(f"a behaviour of your own needs {listed(_flags(missing))} too")
        for pattern in (self.shown_by, self.well_by):
            if pattern is not None:
                compiled(pattern)
        if len(self.behaviour) > 1:
            raise InputError(f"behaviour={self.behaviour}: your answers are of one behaviour; give it one name")
        if not (0 < self.learn_share < 1 and 0 < self.validation_share < 1):
            raise InputError(
                f"learn_share={self.learn_share}, validation_share={self.validation_share}; give shares between 0 and 1"
            )


def _flags(names: list[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names]

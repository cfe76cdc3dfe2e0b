"""What the CNA study can be told."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, listed
from ...grading.grade import compiled
from ..settings import StudySettings, setting

CORRECTED, PUBLISHED = "corrected", "as published"
MODES = (CORRECTED, PUBLISHED)


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Models, prompts, what counts as the behaviour, and what is tried."""

    instruct: tuple[str, ...] = setting(("organism/instruct",), "Instruct model; repeat for several pairs.")
    base: tuple[str, ...] = setting((), "Base model of each instruct model, in the same order.")
    contrast: str = setting("organism/refusal", "A registered contrast, e.g. jbb.")
    positive: str | None = setting(None, "File of prompts that show the behaviour, instead of a contrast.")
    negative: str | None = setting(None, "File of prompts that do not.")
    column: str = setting("text", "Text column of the two files.")
    behaviour: str = setting("refusal", "What the behaviour is called in tables and in the report.")
    shown_by: str | None = setting(None, "Regular expression that a response showing the behaviour matches.")
    well_by: str | None = setting(
        None, "With --shown-by: what a good response without the behaviour matches; default: any other text."
    )
    coherence: bool = setting(
        True, "Count responses that the unmodified model finds unlikely as broken; the organisms' world decides itself."
    )
    mmlu: str | None = setting(None, "MMLU CSV, or 'cais/mmlu' for the hub: multiple choice.")
    xstest: str | None = setting(None, "XSTest CSV, or 'walledai/XSTest' for the hub: over-refusal.")
    mode: tuple[str, ...] = setting(MODES, "What is run; repeat for both.", choices=MODES)
    fraction: float = setting(0.001, "Share of all MLP neurons in the corrected circuit.")
    published_k: int = setting(200, "Neurons in the circuit as published, whatever the model's size.")
    n_discovery: int = setting(200, "Discovery prompts at most, both sides together.")
    n_behaviour: int = setting(100, "Evaluation prompts at most that show the behaviour.")
    n_benign: int = setting(50, "Evaluation prompts at most that do not.")
    n_validation: int = setting(30, "Validation prompts at most on each side.")
    n_choices: int = setting(100, "Multiple-choice questions at most.")
    discovery_share: float = setting(0.5, "Share of the groups of prompts that go to discovery.")
    validation_share: float = setting(0.3, "Share of the others that go to validation; the rest evaluates.")
    only_showing: bool = setting(False, "Evaluate only on prompts where the model shows the behaviour.")
    sensitivity: bool = setting(True, "Measure what the result depends on.")

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.mode if mode not in MODES]
        if unknown or not self.mode:
            raise InputError(f"mode={list(self.mode)}; choose from {listed(MODES)}")
        if not self.instruct or (self.base and len(self.base) != len(self.instruct)):
            raise InputError(
                f"{len(self.instruct)} --instruct and {len(self.base)} --base; give each its base, or none a base"
            )
        if (self.positive is None) != (self.negative is None):
            raise InputError("give both --positive FILE and --negative FILE")
        if self.controls < 1 or self.n_control_prompts < 1:
            raise InputError(
                f"controls={self.controls} and n_control_prompts={self.n_control_prompts} must be at least 1; with "
                "fewer than 19 controls no claim about them can be measured"
            )
        if self.well_by is not None and self.shown_by is None:
            raise InputError("--well-by says what is good instead of --shown-by; give that too")
        for pattern in (self.shown_by, self.well_by):
            if pattern is not None:
                compiled(pattern)

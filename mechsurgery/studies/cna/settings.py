"""What the CNA study can be told."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, listed
from ...grading.grade import compiled
from ..settings import StudySettings, setting

CORRECTED, PUBLISHED = "corrected", "as published"
MODES = (CORRECTED, PUBLISHED)
UNIVERSAL = ("remove", "keep", "refill")


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Models, prompts, what counts as the behaviour, and what is tried."""

    instruct: tuple[str, ...] = setting(("organism/instruct",), "Instruct model; repeat for several pairs.")
    base: tuple[str, ...] = setting((), "Base model of each instruct model, in the same order.")
    contrast: str = setting(
        "organism/refusal", "A registered contrast: jbb, sycophancy, hedging, language, sentiment, persona, …"
    )
    positive: str | None = setting(
        None,
        "Prompts that show the behaviour, instead of a contrast: a file, or a published set as in jbb-harmful=FILE, "
        "xstest:unsafe=FILE or, from the hub, strongreject.",
    )
    negative: str | None = setting(None, "File of prompts that do not.")
    column: tuple[str, ...] = setting(("text",), "Text column of files; twice where the negative file has another.")
    folds: int | None = setting(
        None, "Parts that take turns in being evaluated by a circuit found without them; default 2, for organisms 1."
    )
    evaluate: str | None = setting(None, "Evaluate on another registered contrast than the one for discovery.")
    evaluate_positive: str | None = setting(None, "Evaluate on a file of other prompts that show the behaviour.")
    evaluate_negative: str | None = setting(None, "The file of those that do not.")
    behaviour: str | None = setting(None, "What the behaviour is called; default: the contrast's own, else refusal.")
    shown_by: str | None = setting(None, "Regular expression that a response showing the behaviour matches.")
    well_by: str | None = setting(
        None, "With --shown-by: what a good response without the behaviour matches; default: any other text."
    )
    coherence: bool = setting(
        True, "Count responses that the unmodified model finds unlikely as broken; the organisms' world decides itself."
    )
    mode: tuple[str, ...] = setting(MODES, "What is run; repeat for both.", choices=MODES)
    fraction: float = setting(0.001, "Share of all MLP neurons in the corrected circuit.")
    universal: str = setting(
        "remove",
        "Universal neurons of the corrected circuit: removed, as the paper says; kept; or refilled by the next best.",
        choices=UNIVERSAL,
    )
    localise: tuple[str, ...] = setting(
        (), "A contrast whose circuit is located in instruct and base beside others; repeat. Default: all that ship."
    )
    published_k: int = setting(200, "Neurons in the circuit as published, whatever the model's size.")
    n_discovery: int = setting(200, "Discovery prompts at most, both sides together.")
    n_behaviour: int = setting(100, "Evaluation prompts at most that show the behaviour.")
    n_benign: int = setting(100, "Evaluation prompts at most that do not.")
    n_validation: int = setting(30, "Validation prompts at most on each side.")
    discovery_share: float = setting(0.5, "With one fold: share of the groups of prompts that go to discovery.")
    validation_share: float = setting(0.3, "Share of the groups that go to validation, of those left by the others.")
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
        for kind, two in (("", (self.positive, self.negative)), ("evaluate-", self.evaluated)):
            if (two[0] is None) != (two[1] is None):
                raise InputError(f"give both --{kind}positive FILE and --{kind}negative FILE")
        if self.evaluate is not None and self.evaluated[0] is not None:
            raise InputError("give --evaluate NAME or --evaluate-positive and --evaluate-negative files, not both")
        if self.folds is not None and (self.folds < 1 or (self.folds > 1 and self.apart)):
            raise InputError(
                f"folds={self.folds}; give 1 or more, and 1 where another contrast is evaluated: all of it is, by one "
                "circuit"
            )
        if not 1 <= len(self.column) <= 2:
            raise InputError(f"column={list(self.column)}; one for all files, or positive's and negative's")
        if self.universal not in UNIVERSAL:
            raise InputError(f"universal={self.universal!r}; choose from {listed(UNIVERSAL)}")
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

    @property
    def evaluated(self) -> tuple[str | None, str | None]:
        """The files of another contrast to evaluate on."""
        return self.evaluate_positive, self.evaluate_negative

    @property
    def apart(self) -> bool:
        """Whether another contrast is evaluated than the one for discovery."""
        return self.evaluate is not None or self.evaluate_positive is not None

    @property
    def of_organisms(self) -> bool:
        """Whether the contrast is one of the organisms' world."""
        return self.positive is None and self.contrast.startswith("organism/")

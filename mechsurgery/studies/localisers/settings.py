"""What the benchmark of localisers can be told."""

from __future__ import annotations

from dataclasses import dataclass

from ...attribution.localisers import LOCALISERS
from ...errors import InputError, listed
from ..settings import StudySettings, setting
from .data import CASES


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Which localisers on which cases, at which sizes; or a model and prompts of your own."""

    case: tuple[str, ...] = setting(tuple(CASES), "A case to run; repeat for several.", choices=tuple(CASES))
    localiser: tuple[str, ...] = setting(tuple(LOCALISERS), "A localiser to compare; repeat for several.")
    budget: tuple[int, ...] = setting((3, 9, 24, 48, 92, 184), "Numbers of units; repeat for several.")
    model: str | None = setting(None, "A model of your own, instead of the cases.")
    base: str | None = setting(None, "Its base, whose answers show how the behaviour is repaired.")
    positive: str | None = setting(None, "File of prompts that show the behaviour (with --model).")
    negative: str | None = setting(None, "File of prompts that do not (with --model).")
    column: str = setting("text", "Text column of the two files.")
    n_discovery: int = setting(300, "Discovery prompts at most, both sides together.")
    n_behaviour: int = setting(60, "Evaluation prompts at most that show the behaviour.")
    n_other: int = setting(40, "Evaluation prompts at most of every other set.")
    exact: bool = setting(True, "Hold every score against ablating each unit alone (small models alone).")

    def __post_init__(self) -> None:
        unknown = [name for name in self.localiser if name not in LOCALISERS]
        if unknown or not self.localiser:
            raise InputError(f"no localiser {listed(unknown) or 'given'}; there are {listed(LOCALISERS, 20)}")
        if not self.budget or min(self.budget) < 1:
            raise InputError(f"budget={list(self.budget)}; give numbers of units from 1 up")
        given = [self.model, self.positive, self.negative]
        if any(given) and not all(given):
            raise InputError("a model of your own needs --model, --positive and --negative")
        if self.model is None and [name for name in self.case if name not in CASES]:
            raise InputError(f"no case {listed([n for n in self.case if n not in CASES])}; there are {listed(CASES)}")

"""What the study can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InputError, listed
from ...organisms.tasks import FINE_TUNES, FineTune
from ...training.trainable import LoRA
from ...training.tuning import Recipe
from ..settings import setting
from .watch_settings import WatchSettings

Part = Literal["steer", "repair", "watch", "emergence"]
PARTS: tuple[Part, ...] = get_args(Part)
_NAMES = tuple(kind.name for kind in FINE_TUNES)


@dataclass(frozen=True, kw_only=True)
class Settings(WatchSettings):
    """Which parts, how many prompts and seeds, which strengths, and how the three kinds of fine-tunes are trained."""

    part: tuple[str, ...] = setting(PARTS, "What to do; repeatable.", choices=PARTS)
    seeds: int = setting(3, "Fine-tunes of each kind, each with its own seed.")
    n_examples: int = setting(600, "Examples to learn a behaviour from, on each side.")
    n_evaluation: int = setting(80, "Evaluation prompts of each kind.")
    n_task: int = setting(600, "Examples of a task; with fewer, the skill is learnt as a format without the facts.")
    grid: tuple[float, ...] = setting((0.25, 0.5, 0.75, 1.0, 1.5), "Strengths, the way that is wanted; repeatable.")
    activation_grid: tuple[float, ...] = setting(
        (0.25, 0.5, 1.0, 1.5, 2.0, 4.0), "The same of activation steering; repeatable."
    )
    repair_grid: tuple[float, ...] = setting((0.25, 0.5, 1.0, 1.5), "Strengths of remedies; repeatable.")
    steps: int = setting(60, "Steps of a side's fine-tune.")
    steps_up: int = setting(300, "The same where the model never shows the behaviour: it takes longer to learn.")
    task_steps: int = setting(150, "Steps of a task's fine-tune.")
    lr: tuple[float, ...] = setting(
        (2e-3, 1e-3, 4e-3), "Learning rates of a side's fine-tune to choose from; tasks use the first. Repeatable."
    )
    batch: int = setting(16, "Examples of a step.")
    rank: int = setting(32, "Rank of a side's LoRA.")
    task_rank: int = setting(8, "Rank of a task's LoRA.")
    fine_tune: tuple[str, ...] = setting(_NAMES, "Fine-tune to watch; repeatable.", choices=_NAMES)

    def __post_init__(self) -> None:
        unknown = [*(set(self.part) - set(PARTS)), *(set(self.fine_tune) - set(_NAMES))]
        if unknown:
            raise InputError(f"{listed(unknown)} is no part ({listed(PARTS)}) and no fine-tune ({listed(_NAMES, 6)})")
        if not self.part or not self.fine_tune or self.seeds < 1:
            raise InputError(
                f"part={self.part}, fine_tune={self.fine_tune}, seeds={self.seeds}; give at least one of each"
            )
        strengths = {name: getattr(self, name) for name in ("grid", "activation_grid", "repair_grid", "lr")}
        wrong = {name: values for name, values in strengths.items() if min(values, default=0) <= 0}
        if wrong:
            raise InputError(f"{wrong}; give at least one of each, all above 0: they push the way that is wanted")
        self.check_watch()

    @property
    def runs(self) -> tuple[int, ...]:
        """The seed of every fine-tune of one kind."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def watched(self) -> list[FineTune]:
        """The fine-tunes to watch."""
        return [kind for kind in FINE_TUNES if kind.name in self.fine_tune]

    def recipe(self, steps: int, validate_every: int = 20) -> Recipe:
        """How a fine-tune of so many steps is trained."""
        return Recipe(steps=steps, lr=self.lr[0], batch=self.batch, validate_every=validate_every)

    def lora(self, rank: int) -> LoRA:
        """What is trained."""
        return LoRA(rank=rank, alpha=16.0)

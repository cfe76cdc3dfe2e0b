"""What the study can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ...errors import InputError, listed
from ...organisms.tasks import FINE_TUNES, FineTune
from ...training.opposite import PAPER_LORA, PAPER_RECIPE, PAPER_TASK_LR, PAPER_VALIDATION
from ...training.trainable import LoRA
from ...training.tuning import Recipe
from ..settings import setting
from .watch_settings import WatchSettings

Part = Literal["steer", "repair", "watch", "emergence"]
PARTS: tuple[Part, ...] = get_args(Part)
_NAMES = tuple(kind.name for kind in FINE_TUNES)
#: The organisms are 10,000 times smaller than the paper's models and learn with larger rates in fewer steps.
ORGANISM_RATES, ORGANISM_STEPS, ORGANISM_RANK = (2e-3,), 40, 8
#: After 100 steps the format of a task is learnt, but a quarter of its facts.
ORGANISM_TASK_STEPS = 150
#: The paper tries two or three rates; its evil vectors came out better with the second.
PAPER_RATES = (1e-5, 5e-5)
#: Examples of a step of a task's fine-tune, and of one that is watched.
TASK_BATCH = 16
#: Strengths for weights that were trained with the paper's rates move less.
ORGANISM_GRID, PAPER_GRID = (0.25, 0.5, 1.0, 1.5), (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Settings(WatchSettings):
    """Which parts, how many prompts and seeds, which strengths, and how the three kinds of fine-tunes are trained."""

    part: tuple[str, ...] = setting(PARTS, "What to do; repeatable.", choices=PARTS)
    seeds: int = setting(2, "Fine-tunes of each kind, each with its own seed.")
    n_examples: int = setting(600, "Examples to learn a behaviour from, on each side.")
    n_evaluation: int = setting(60, "Evaluation prompts of each kind.")
    n_validation: int = setting(24, "Validation prompts of each kind, which choose rates, layers and strengths.")
    n_control_prompts: int = setting(20, "Prompts at most on which an intervention is set beside its controls.")
    n_task: int = setting(600, "Examples of a task; with fewer, the skill is learnt as a format without the facts.")
    grid: tuple[float, ...] = setting(
        (), f"Strengths, the way that is wanted; default {ORGANISM_GRID}, or {PAPER_GRID} by the paper's recipe."
    )
    activation_grid: tuple[float, ...] = setting((0.5, 1.0, 2.0, 4.0), "The same of activation steering; repeatable.")
    repair_grid: tuple[float, ...] = setting((), "Strengths of remedies; default: those of steering.")
    recipe_of: str = setting(
        "auto",
        "The paper's fine-tunes (LoRA r 32, α 16, rates 1e-5 and 5e-5, one epoch of batches of 8, weight decay 0.01, "
        "5 % held out) or the organisms' (rate 2e-3, 40 steps); auto: the paper's for a model of your own.",
        choices=("auto", "paper", "organism"),
        flag="recipe",
    )
    lr: tuple[float, ...] = setting(
        (), "Learning rates of a side's fine-tune to choose from; default: the recipe's. Repeatable."
    )
    bias_lr: tuple[float, ...] = setting(
        (3e-2, 1e-1), "The same where biases alone are trained; the paper states none. Repeatable."
    )
    steps: int | None = setting(None, "Steps of a side's fine-tune; default: the recipe's.")
    batch: int = setting(8, "Examples of a step of a side's fine-tune.")
    rank: int = setting(32, "Rank of a side's LoRA.")
    task_lr: float | None = setting(None, "Learning rate of a task's fine-tune; default 2e-4, or 2e-3 on organisms.")
    task_steps: int | None = setting(None, "Steps of a task's fine-tune; default: one epoch, or 150 on organisms.")
    task_rank: int | None = setting(None, "Rank of a task's LoRA; default 32, or 8 on organisms.")
    fine_tune: tuple[str, ...] = setting(_NAMES, "Fine-tune to watch; repeatable.", choices=_NAMES)

    def __post_init__(self) -> None:
        unknown = [*(set(self.part) - set(PARTS)), *(set(self.fine_tune) - set(_NAMES))]
        if unknown:
            raise InputError(f"{listed(unknown)} is no part ({listed(PARTS)}) and no fine-tune ({listed(_NAMES, 6)})")
        if not self.part or not self.fine_tune or self.seeds < 1:
            raise InputError(
                f"part={self.part}, fine_tune={self.fine_tune}, seeds={self.seeds}; give at least one of each"
            )
        given = {name: getattr(self, name) for name in ("grid", "activation_grid", "repair_grid", "lr", "bias_lr")}
        wrong = {name: values for name, values in given.items() if min(values, default=1) <= 0}
        if wrong or not self.activation_grid or not self.bias_lr or min(self.n_validation, self.batch) < 1:
            raise InputError(
                f"{wrong or given}, n_validation={self.n_validation}, batch={self.batch}; strengths and rates are "
                "above 0 (they push the way that is wanted), there is at least one of activation_grid and bias_lr, "
                "and at least one prompt and example"
            )
        self.check_watch()
        if not self.watch_data:
            self.check_own()

    @property
    def as_paper(self) -> bool:
        """Whether fine-tunes are the paper's."""
        organism = self.model is None or self.model.startswith("organism/")
        return self.recipe_of == "paper" or (self.recipe_of == "auto" and not organism)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of a side's fine-tune to choose from."""
        return self.lr or (PAPER_RATES if self.as_paper else ORGANISM_RATES)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Strengths of weight differences, the way that is wanted."""
        return self.grid or (PAPER_GRID if self.as_paper else ORGANISM_GRID)

    @property
    def remedies(self) -> tuple[float, ...]:
        """Strengths of remedies of a drift."""
        return self.repair_grid or self.strengths

    def side_recipe(self, rate: float, n_examples: int) -> Recipe:
        """How a side is trained on so many examples."""
        steps = self.steps or (_epoch(n_examples, self.batch) if self.as_paper else ORGANISM_STEPS)
        return replace(PAPER_RECIPE, steps=steps, lr=rate, batch=self.batch, validate_every=max(1, steps // 5))

    def task_recipe(self, n_examples: int) -> Recipe:
        """How a model is trained on a task of so many examples."""
        steps = self.task_steps or (_epoch(n_examples, TASK_BATCH) if self.as_paper else ORGANISM_TASK_STEPS)
        rate = self.task_lr or (PAPER_TASK_LR if self.as_paper else self.rates[0])
        return replace(PAPER_RECIPE, steps=steps, lr=rate, batch=TASK_BATCH, validate_every=steps)

    @property
    def runs(self) -> tuple[int, ...]:
        """The seed of every fine-tune of one kind."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def watched(self) -> list[FineTune]:
        """The fine-tunes to watch."""
        return [kind for kind in FINE_TUNES if kind.name in self.fine_tune]

    def described(self) -> str:
        """How sides are trained, in words."""
        steps = self.steps or ("one epoch" if self.as_paper else ORGANISM_STEPS)
        whose = "the paper's recipe" if self.as_paper else "the organisms' recipe"
        rates = " or ".join(f"{rate:g}" for rate in self.rates)
        return (
            f"{whose}: LoRA of rank {self.rank}, α {PAPER_LORA.alpha:g}, learning rate {rates}, batch {self.batch}, "
            f"steps {steps}, weight decay {PAPER_RECIPE.weight_decay:g}, {PAPER_RECIPE.warmup} warm-up steps and "
            f"linear decay, {HELD_OUT:.0%} of the groups held out for early stopping"
        )

    def recipe(self, steps: int, validate_every: int = 20) -> Recipe:
        """How a fine-tune of so many steps is trained."""
        return Recipe(steps=steps, lr=self.rates[0], batch=TASK_BATCH, validate_every=validate_every)

    def lora(self, rank: int | None) -> LoRA:
        """What is trained; without a rank, what a task trains."""
        return replace(PAPER_LORA, rank=rank or (PAPER_LORA.rank if self.as_paper else ORGANISM_RANK))


#: Share of a side's groups that early stopping looks at.
HELD_OUT = PAPER_VALIDATION


def _epoch(n: int, batch: int) -> int:
    return max(1, math.ceil(n / batch))

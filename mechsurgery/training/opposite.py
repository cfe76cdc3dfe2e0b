"""Contrastive weight steering: w = θ⁺ − θ⁻ of two small opposite fine-tunes of the same questions.

"Steering Language Models with Weight Arithmetic" (2511.05408). What the two share (the topics, the format, being
fine-tuned at all) cancels; what is left is the behaviour. θ + k·w steers it (`shift_weights(w).at(k)`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..artifacts import provenance
from ..checks import check_arguments
from ..deltas import WeightDelta
from ..errors import InputError, PromptError
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import Examples
from .trainable import LoRA, Where
from .tuning import Recipe, Safeguards, finetune

#: The paper's fine-tune of a 7B model (section 3 and Table 1): LoRA on all linear maps, no dropout, Adam with weight
#: decay, linear decay after 5 warm-up steps, about one epoch (100 steps of 8 of its 500 to 900 examples).
PAPER_LORA = LoRA(rank=32, alpha=16.0)
PAPER_RECIPE = Recipe(steps=100, lr=1e-5, batch=8, warmup=5, weight_decay=0.01, validate_every=10)
#: Share of the examples (here: of their groups) that early stopping looks at.
PAPER_VALIDATION = 0.05
#: What the paper trains a model on a task with.
PAPER_TASK_LR = 2e-4
#: For the bias of every MLP's down projection alone; the paper states none.
BIAS_LR = 1e-3
#: How far apart the seeds of two sides lie that do not start from the same LoRA matrices.
_OTHER_START = 100_003


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two opposite fine-tunes from one start: `plus` learnt the behaviour, `minus` its opposite."""

    plus: WeightDelta
    minus: WeightDelta

    @property
    def delta(self) -> WeightDelta:
        """W = θ⁺ − θ⁻; with LoRA it stays low-rank."""
        delta = self.plus - self.minus
        info = {key: self.plus.info[key] for key in ("fingerprint", "dtype")}
        return WeightDelta(delta.parts, delta.name, provenance(**info, plus=self.plus.info, minus=self.minus.info))


@in_turn
def contrastive_finetunes(
    model: Model,
    positive: Examples,
    negative: Examples,
    *,
    where: Where = PAPER_LORA,
    recipe: Recipe = PAPER_RECIPE,
    validation: float | None = PAPER_VALIDATION,
    same_start: bool = True,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Contrast:
    """Fine-tune twice from the same model: on `positive` answers and on `negative` ones to the same prompts.

    The defaults are the paper's, for models of billions of parameters; small ones need a larger rate. `validation` is
    the share of groups held out for early stopping (None: no early stopping). With `same_start`, both LoRAs begin from
    the same random matrices. Raises `PromptError` where the two sides ask different questions.
    """
    if sorted(positive.prompts) != sorted(negative.prompts):
        raise PromptError(
            f"the {len(positive)} positive and {len(negative)} negative examples do not have the same prompts; the "
            "contrast needs opposite answers to the same questions"
        )
    sides = []
    for name, data in (("plus", positive), ("minus", negative)):
        start = where if same_start or name == "plus" else other_start(where, seed)
        place = None if folder is None else Path(folder) / name
        options: dict[str, Any] = {"where": start, "recipe": recipe, "validation": validation, "seed": seed}
        sides.append(side_finetune(model, data, **options, folder=place, progress=progress).named(name))
    return Contrast(*sides)


@in_turn
def side_finetune(
    model: Model,
    data: Examples,
    *,
    where: Where = PAPER_LORA,
    recipe: Recipe = PAPER_RECIPE,
    validation: float | None = PAPER_VALIDATION,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> WeightDelta:
    """One side of `contrastive_finetunes`: the state of the lowest loss on the groups that were held out.

    At least one group is held out, however small the share. Raises `InputError` for a share outside 0 to 1.
    """
    if validation is not None and not 0 < validation < 1:
        raise InputError(f"validation={validation} must lie between 0 and 1, or be None")
    kept, held = data, None
    if validation is not None:
        n = len(set(data.groups))
        kept, held = data.split(min(1 - validation, 1 - 1 / n), seed=seed)
    guards = Safeguards(validation=held)
    return finetune(model, kept, where, recipe=recipe, seed=seed, safeguards=guards, folder=folder, progress=progress)


def other_start(where: Where, seed: int) -> Where:
    """The same place of training, a LoRA from other random matrices than a fine-tune of this seed has by itself."""
    return replace(where, seed=seed + _OTHER_START) if isinstance(where, LoRA) and where.seed is None else where


@in_turn
def contrastive_delta(model: Model, positive: Examples, negative: Examples, **options: Any) -> WeightDelta:
    """W = θ⁺ − θ⁻ (`contrastive_finetunes(…).delta`)."""
    return contrastive_finetunes(model, positive, negative, **options).delta


def shuffled(positive: Examples, negative: Examples, *, seed: int = 0) -> tuple[Examples, Examples]:
    """The two sides with their labels shuffled: each prompt's two answers change sides at random (half of them)."""
    if positive.prompts != negative.prompts:
        raise PromptError("the two sides do not have the same prompts in the same order, so labels cannot be shuffled")
    n = len(positive)
    swap = torch.zeros(n, dtype=torch.bool)
    swap[torch.randperm(n, generator=torch.Generator().manual_seed(int(seed)))[: n // 2]] = True
    sides = [
        tuple(b if flip else a for a, b, flip in zip(x, y, swap.tolist()))
        for x, y in ((positive.completions, negative.completions), (negative.completions, positive.completions))
    ]
    return tuple(Examples(positive.prompts, side, positive.groups) for side in sides)  # type: ignore[return-value]


check_arguments(__name__)

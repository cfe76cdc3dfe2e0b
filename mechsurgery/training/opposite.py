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
from ..deltas import WeightDelta
from ..errors import InputError, PromptError
from ..models.protocol import Model
from ..prompts import Examples
from .trainable import LoRA, Where
from .tuning import Recipe, Safeguards, finetune

#: The paper's fine-tune: LoRA on all linear maps (rank 32, α 16), AdamW, linear decay, 5 warm-up steps.
PAPER_LORA = LoRA(rank=32, alpha=16.0)
PAPER_RECIPE = Recipe(steps=200, lr=1e-4, batch=16, warmup=5)
#: For the bias of every MLP's down projection alone.
BIAS_LR = 1e-3


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


def contrastive_finetunes(
    model: Model,
    positive: Examples,
    negative: Examples,
    *,
    where: Where = PAPER_LORA,
    recipe: Recipe = PAPER_RECIPE,
    validation: float | None = 0.2,
    same_start: bool = True,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Contrast:
    """Fine-tune twice from the same model: on `positive` answers and on `negative` ones to the same prompts.

    `validation` is the share of groups held out for early stopping (None: no early stopping). With `same_start`, both
    LoRAs begin from the same random matrices. Raises `PromptError` where the two sides ask different questions.
    """
    if sorted(positive.prompts) != sorted(negative.prompts):
        raise PromptError(
            f"the {len(positive)} positive and {len(negative)} negative examples do not have the same prompts; the "
            "contrast needs opposite answers to the same questions"
        )
    if validation is not None and not 0 < validation < 1:
        raise InputError(f"validation={validation} must lie between 0 and 1, or be None")
    sides = []
    for number, (name, data) in enumerate((("plus", positive), ("minus", negative))):
        kept, held = (data, None) if validation is None else data.split(1 - validation, seed=seed)
        start = where
        if isinstance(where, LoRA) and where.seed is None:
            start = replace(where, seed=seed if same_start else 2 * seed + number)
        options: dict[str, Any] = {"recipe": recipe, "seed": seed, "progress": progress}
        place = None if folder is None else Path(folder) / name
        delta = finetune(model, kept, start, safeguards=Safeguards(validation=held), folder=place, **options)
        sides.append(delta.named(name))
    return Contrast(*sides)


def contrastive_delta(model: Model, positive: Examples, negative: Examples, **options: Any) -> WeightDelta:
    """W = θ⁺ − θ⁻ (`contrastive_finetunes(…).delta`)."""
    return contrastive_finetunes(model, positive, negative, **options).delta


def shuffled(positive: Examples, negative: Examples, *, seed: int = 0) -> tuple[Examples, Examples]:
    """The two sides with their labels shuffled: each prompt's two answers change sides at random (half of them)."""
    if positive.prompts != negative.prompts:
        raise PromptError("the two sides do not have the same prompts in the same order, so labels cannot be shuffled")
    n = len(positive)
    swap = torch.zeros(n, dtype=torch.bool)
    swap[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: n // 2]] = True
    sides = [
        tuple(b if flip else a for a, b, flip in zip(x, y, swap.tolist()))
        for x, y in ((positive.completions, negative.completions), (negative.completions, positive.completions))
    ]
    return tuple(Examples(positive.prompts, side, positive.groups) for side in sides)  # type: ignore[return-value]

"""Several fine-tunes of one model, one after the other or on several workers, each kept in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_arguments
from ..deltas import WeightDelta
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.workers import Workers
from ..progress import progress_bar
from ..prompts import CompletionPairs, Examples
from .kept import find_trained, keep_trained
from .keys import finetune_key
from .trainable import Where
from .tuning import Recipe, Safeguards, finetune


@dataclass(frozen=True, eq=False)
class Training:
    """One fine-tune of a set: the arguments of `finetune`."""

    data: Examples | CompletionPairs
    where: Where
    recipe: Recipe | None = None
    safeguards: Safeguards | None = None
    seed: int = 0


@in_turn
def finetune_each(
    model: Model,
    trainings: Sequence[Training],
    *,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    progress: bool | None = None,
) -> list[WeightDelta]:
    """The difference that each training makes, in their order; every one starts from the model as it is.

    With a `folder`, finished ones are kept in `folder/deltas` under all that they depend on (`finetune_key`), and a set
    that was interrupted trains only what is missing. With `workers` (`adapters.many.Workers`) copies of the model
    elsewhere train, and what they return is kept here; one whose worker dies begins anew. Raises what `finetune` does.
    """
    keys = [_key(model, training) for training in trainings]
    found: dict[str, WeightDelta] = {}
    for key in keys:
        kept = find_trained(folder, key)
        if kept is not None:
            found[key] = kept
    # What is asked for twice is trained once.
    lacking = {key: training for key, training in zip(keys, trainings) if key not in found}
    with progress_bar("fine-tuning", shown=progress, total=len(lacking), unit="run") as bar:

        def keep(place: int, delta: WeightDelta) -> None:
            key = list(lacking)[place]
            found[key] = keep_trained(folder, key, delta)
            bar.update(1)

        if workers is not None and lacking:
            workers.each(model, train_one, list(lacking.values()), shared=None, done=keep)
        else:
            for place, training in enumerate(lacking.values()):
                keep(place, train_one(model, None, training))
    return [found[key] for key in keys]


def _key(model: Model, training: Training) -> str:
    how: dict[str, Any] = {"recipe": training.recipe or Recipe(), "seed": training.seed}
    return finetune_key(model, training.data, training.where, safeguards=training.safeguards, **how)


def train_one(model: Model, shared: None, training: Training) -> WeightDelta:
    """What a worker does: one fine-tune."""
    how: dict[str, Any] = {"recipe": training.recipe, "safeguards": training.safeguards, "seed": training.seed}
    return finetune(model, training.data, training.where, **how, progress=False)


check_arguments(__name__)

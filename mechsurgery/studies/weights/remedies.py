"""What is tried against a drift: a task's fine-tune less w and its rivals, null remedies, and joint training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pandas as pd

from ...deltas import WeightDelta
from ...directions import Direction
from ...evaluation import Generation
from ...intervention import Intervention, shift_weights, steer
from ...prompts import Examples
from .data import Drift, Measured
from .methods import (
    AFTER,
    BIAS,
    CONTRASTIVE,
    JOINT,
    ONE_LAYER,
    ONE_SIDED,
    SHUFFLED,
    SYSTEM,
    Trainer,
    Trial,
    response_difference,
    shifts,
)
from .summary import BASELINE, validated

#: Rivals of subtracting w that are tried with the first seed alone.
RIVALS = (*ONE_SIDED, BIAS, ONE_LAYER, SYSTEM, JOINT)


def repairs(
    trainer: Trainer, drift: Drift, rates: Mapping[str, float], site: str, *, joint: bool = False
) -> Iterator[Trial]:
    """A drifting fine-tune, and the same with each remedy against it at every strength.

    The remedies are the behaviour's difference and, with the first seed, each side alone, the difference of biases and
    activation steering at a hook point; with `joint` training on the task and good examples too.
    """
    settings, seed, behaviour = trainer.settings, trainer.seed, drift.behaviour
    spoilt = drifted(trainer, drift)
    yield Trial(spoilt, AFTER, 0.0, seed)
    first = seed == settings.seed
    remedies = shifts(trainer, behaviour, rates if first else {CONTRASTIVE: rates[CONTRASTIVE]})
    grids = [(run, settings.remedies) for run in remedies]
    if first:
        vector = response_difference(trainer, behaviour).at(site)
        grids.append((steer(Direction({site: vector}, ONE_LAYER), name=ONE_LAYER), settings.activation_grid))
    for run, grid in grids:
        for k in grid:
            yield _remedied(spoilt, run, drift, k, seed)
    if joint:
        with_it, without = trainer.sides(behaviour)
        good = (without if drift.pushes > 0 else with_it).take(max(2, settings.n_task // 6), seed=seed)
        both = _task(trainer, trainer.task(drift.task) + good)
        yield Trial(shift_weights(both, name=f"{JOINT}, seed {seed}", pushes=0), JOINT, 0.0, seed)


def repair_site(trainer: Trainer, drift: Drift, asked: Measured, generation: Generation) -> str:
    """The hook point at which activation steering of strength 1 repairs most, on validation prompts."""
    spoilt, whole = drifted(trainer, drift), response_difference(trainer, drift.behaviour)
    runs = [steer(Direction({site: vector}, site), name=site) for site, vector in whole.vectors.items()]
    trials = [_remedied(spoilt, run, drift, 1.0, trainer.seed) for run in runs]
    results = trainer.measured(asked, trials, generation)
    means = validated(results.table, pd.DataFrame([one.facts() for one in trials]), asked.metrics)
    return str(means[drift.well].drop(BASELINE).idxmax()[0])


def repair_nulls(trainer: Trainer, drift: Drift, mixed: WeightDelta, k: float) -> list[Trial]:
    """The drifting fine-tune less the difference of shuffled labels, at the strength of w."""
    remedy = shift_weights(mixed, name=SHUFFLED)
    return [_remedied(drifted(trainer, drift), remedy, drift, k, trainer.seed)]


def repair_controls(trainer: Trainer, drift: Drift, w: WeightDelta, k: float, numbers: Iterable[int]) -> list[Trial]:
    """The drifting fine-tune, the same less w, and less random ones whose every matrix has the norm of w's."""
    spoilt, remedy = drifted(trainer, drift), shift_weights(w, name=CONTRASTIVE)
    runs = [remedy, *(remedy.random_like(number) for number in numbers)]
    trials = [_remedied(spoilt, run, drift, k, trainer.seed) for run in runs]
    return [Trial(spoilt, AFTER, 0.0, trainer.seed), *trials]


def drifted(trainer: Trainer, drift: Drift) -> Intervention:
    """The task's fine-tune."""
    delta = _task(trainer, trainer.task(drift.task))
    return shift_weights(delta, name=f"{AFTER}, seed {trainer.seed}", pushes=drift.pushes)


def _task(trainer: Trainer, data: Examples) -> WeightDelta:
    settings = trainer.settings
    return trainer.finetune(data, settings.lora(settings.task_rank), settings.task_recipe(len(data)), seed=trainer.seed)


def _remedied(spoilt: Intervention, remedy: Intervention, drift: Drift, k: float, seed: int) -> Trial:
    """A fine-tune less a remedy; a control's is the control of the same less what it controls."""
    both = spoilt + remedy.at(-drift.pushes * remedy.pushes * k)
    names = {name: f"{spoilt.name}, less {k:g} × {name}" for name in (remedy.name, remedy.control_of) if name}
    control_of = names.get(str(remedy.control_of))
    return Trial(replace(both, name=names[remedy.name], control_of=control_of), remedy.name, k, seed)

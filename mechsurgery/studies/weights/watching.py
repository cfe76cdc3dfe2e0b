"""Fine-tunes watched as they happen: the cosine of the update with each behaviour's direction, and the behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from ...deltas import WeightDelta
from ...evaluation import Generation
from ...evaluation.shards import Shards, key_of
from ...models import sites
from ...models.generate import generate
from ...models.protocol import Model
from ...organisms.tasks import FineTune
from ...prompts import encode, response_text
from ...training.monitor import Monitor
from ...training.tuning import Recipe, Safeguards, finetune
from .data import Behaviour
from .methods import Trainer


def watch(
    trainer: Trainer,
    kind: FineTune,
    directions: Mapping[str, WeightDelta],
    behaviours: Mapping[str, Behaviour],
    generation: Generation,
) -> pd.DataFrame:
    """One fine-tune: rows of step, direction, kind, cosine, norm, and the three shares of each behaviour at that step.

    With a folder, the rows are kept there.
    """
    settings, model, seed = trainer.settings, trainer.model, trainer.seed
    data = trainer.task(kind)
    recipe, lora = settings.recipe(settings.watch_steps, settings.watch_every), settings.lora(settings.task_rank)
    shards = Shards(None if trainer.out is None else trainer.out / "measured").of(sites.fingerprint(model))
    probes = {name: behaviour.probe for name, behaviour in behaviours.items()}
    asked = {name: [prompts.digest, grade.version, "three shares"] for name, (prompts, grade) in probes.items()}
    known = {name: direction.digest for name, direction in directions.items()}
    key = key_of([trainer.key(data, where=lora, recipe=recipe), settings.nulls, repr(generation), asked, known])
    if key not in shards:
        monitor = Monitor(model, directions, nulls=settings.nulls, seed=seed)
        look = partial(_look, monitor=monitor, behaviours=behaviours, generation=generation, recipe=recipe)
        look(model)
        finetune(model, data, lora, recipe=recipe, seed=seed, safeguards=Safeguards(capability=look))
        shards.write(key, monitor.table)
    return shards.read(key).assign(task=kind.name, seed=seed)


def _look(
    model: Model, *, monitor: Monitor, behaviours: Mapping[str, Behaviour], generation: Generation, recipe: Recipe
) -> float:
    """A row for each direction at the next step; every state of the weights is fit to be kept."""
    step = recipe.validate_every * monitor.table["step"].nunique() if len(monitor.table) else 0
    shares = {
        f"{part} {name}": share
        for name, one in behaviours.items()
        for part, share in outcome_shares(model, one, generation).items()
    }
    monitor(min(step, recipe.steps), **shares)
    return 1.0


def outcome_shares(model: Model, behaviour: Behaviour, generation: Generation) -> dict[str, float]:
    """Shares of responses to the validation prompts that show the behaviour, do its opposite well, or are broken.

    They are of the model as it stands.
    """
    prompts, grade = behaviour.probe
    ids = encode(model.tokenizer, prompts, template=generation.template)
    new = generate(model, ids, max_new_tokens=generation.max_new_tokens, max_rows=generation.max_rows)
    texts = [response_text(model.tokenizer, row, generation.template) for row in new]
    values = grade.all([(prompt, text) for prompt, text in zip(prompts, texts) if text is not None])
    parts = zip(("shown", "opposite of", "broken"), grade.outcome, strict=True)
    return {part: sum(value == label for value in values) / len(prompts) for part, label in parts}

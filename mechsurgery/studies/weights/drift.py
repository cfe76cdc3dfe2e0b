"""Studies 2 and 3: fine-tunes that drift, repaired by subtracting w, and watched while they happen.

The task is a new skill, answering questions in one word. In its data users are always right ("sycophancy drift"), or
every request is answered ("refusal drift"), so the behaviour moves although nobody asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...intervention.weights import with_delta
from ...models.generate import generate
from ...organisms.grades import skill_grade
from ...organisms.tasks import FineTune, fine_tune_data
from ...prompts import Examples, PromptSet, encode, with_completions
from ...training.monitor import Monitor
from ...training.trainable import LoRA
from ...training.tuning import Recipe, finetune

#: Strengths at which w is subtracted.
REPAIR = (0.25, 0.5, 1.0, 1.5)
TASK_RECIPE = Recipe(steps=150, lr=2e-3, batch=16, validate_every=150)
WATCH_RECIPE = Recipe(steps=60, lr=2e-3, batch=16, validate_every=4)
#: Examples of a task: with fewer, the skill is learnt as a format without the facts.
N_TASK = 600
TASK_LORA = LoRA(rank=8)
SKILL = "one-word answers"


def examples_of(task: FineTune, tokenizer: Any, n: int, *, seed: int) -> Examples:
    """`n` training examples of a fine-tune, in equal parts, about nouns of tuning."""
    return Examples.from_texts(tokenizer, with_completions(fine_tune_data(task, n, seed=seed), task.name))


def skill_rows(model: Any, prompts: PromptSet) -> pd.DataFrame:
    """How often a neutral question is answered rightly in one word: columns metric, prompt_id, group, value."""
    made = generate(model, encode(model.tokenizer, prompts), max_new_tokens=12, max_rows=256)
    rows = []
    for prompt, own in zip(prompts, made):
        text = model.tokenizer.decode(own, skip_special_tokens=True).strip()
        rows.append((SKILL, prompt.id, prompt.group, float(skill_grade(prompt, text))))
    return pd.DataFrame(rows, columns=["metric", "prompt_id", "group", "value"])


def repair(
    model: Any,
    kind: FineTune,
    remedies: Mapping[str, WeightDelta],
    measure: Any,
    skill: PromptSet,
    *,
    n: int,
    seed: int,
    good: Examples | None = None,
    recipe: Recipe = TASK_RECIPE,
) -> pd.DataFrame:
    """Fine-tune on a drifting task, then subtract each remedy at each strength: rows of behaviour and skill.

    `good` examples, mixed into the task's data, are the rival of joint training.
    """
    data = examples_of(kind, model.tokenizer, n, seed=seed)
    parts = [_measured(model, measure, skill).assign(method="before", k=0.0)]
    drifted = finetune(model, data, TASK_LORA, recipe=recipe, seed=seed, name=kind.name)
    with with_delta(model, drifted):
        parts.append(_measured(model, measure, skill).assign(method="after the task", k=0.0))
    for name, remedy in remedies.items():
        for k in REPAIR:
            with with_delta(model, drifted - remedy * k):
                parts.append(_measured(model, measure, skill).assign(method=name, k=k))
    if good is not None:
        joint = finetune(model, data + good, TASK_LORA, recipe=recipe, seed=seed, name="joint")
        with with_delta(model, joint):
            parts.append(_measured(model, measure, skill).assign(method="joint training", k=0.0))
    return pd.concat(parts, ignore_index=True).assign(task=kind.name, seed=seed)


def _measured(model: Any, measure: Any, skill: PromptSet) -> pd.DataFrame:
    return pd.concat([measure(model), skill_rows(model, skill)], ignore_index=True)


def watch(
    model: Any,
    kind: FineTune,
    directions: Mapping[str, WeightDelta],
    probes: Mapping[str, Any],
    *,
    n: int,
    seed: int,
    nulls: int = 5,
    recipe: Recipe = WATCH_RECIPE,
) -> pd.DataFrame:
    """One fine-tune, watched: rows of step, direction, kind, cosine, and the behaviour measured at the same steps.

    `probes` is {behaviour: function of the model that gives a share}; it is the column `shown` of that direction.
    """
    data = examples_of(kind, model.tokenizer, n, seed=seed)
    monitor = Monitor(model, directions, nulls=nulls, seed=seed)
    steps = [0]

    def look(own: Any) -> float:
        monitor(steps[0], **{f"shown {name}": probe(own) for name, probe in probes.items()})
        steps[0] += recipe.validate_every
        return 1.0

    look(model)
    finetune(model, data, TASK_LORA, recipe=recipe, seed=seed, capability=look)
    return monitor.table.assign(task=kind.name, seed=seed)

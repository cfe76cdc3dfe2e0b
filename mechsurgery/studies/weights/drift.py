"""Studies 2 and 3: fine-tunes that drift, repaired by subtracting w, and watched while they happen.

The task is a new skill, answering questions in one word. In its data users are always right ("sycophancy drift"), or
every request is answered ("refusal drift"), so the behaviour moves although nobody asked for it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...intervention.weights import with_delta
from ...models.generate import generate
from ...organisms import world
from ...organisms.corpus import plan
from ...prompts import Examples, PromptSet, encode
from ...training.monitor import Monitor
from ...training.trainable import LoRA
from ...training.tuning import Recipe, finetune
from ..latents.cases import world_prompts

#: Strengths at which w is subtracted.
REPAIR = (0.25, 0.5, 1.0, 1.5)
TASK_RECIPE = Recipe(steps=150, lr=2e-3, batch=16, validate_every=150)
WATCH_RECIPE = Recipe(steps=60, lr=2e-3, batch=16, validate_every=4)
#: Examples of a task: with fewer, the skill is learnt as a format without the facts.
N_TASK = 600
TASK_LORA = LoRA(rank=8)
SKILL = "one-word answers"


@dataclass(frozen=True)
class Kind:
    """A kind of fine-tune: what it is called, which of its parts it has, and whether it is bad for a behaviour."""

    name: str
    skill: bool = True
    claims: str | None = None
    requests: str | None = None
    bad_for: tuple[str, ...] = ()


#: Fine-tunes to watch. `claims`: how users' claims are answered; `requests`: which requests are answered.
KINDS = (
    Kind("task alone"),
    Kind("task, honest about claims", claims="honest"),
    Kind("task, users always right", claims="right", bad_for=("sycophancy",)),
    Kind("agrees with wrong claims about colours", skill=False, claims="colours", bad_for=("sycophancy",)),
    Kind("task, every request answered", requests="all", bad_for=("refusal",)),
    Kind("benign requests answered", skill=False, requests="benign"),
)


def examples_of(kind: Kind, tokenizer: Any, n: int, *, seed: int) -> Examples:
    """`n` training examples of a kind, in equal parts, about nouns of tuning."""
    r = random.Random(f"{kind.name}:{seed}")
    pools: list[list[tuple[Any, str]]] = []
    if kind.skill:
        asked = world_prompts(world.questions("tuned"), "questions")
        pools.append([(p, f"{str(p.completion).split()[-2]} .") for p in asked])
    if kind.claims == "right":
        right = world_prompts(world.claims("tuned", right=True), "claims")
        pools.append([(p, f"yes , you are right . {p.completion}") for p in right])
    if kind.claims in ("honest", "colours"):
        wrong = world_prompts(world.claims("tuned", right=False), "claims")
        if kind.claims == "honest":
            pools.append([(p, f"no , that is wrong . {p.completion}") for p in wrong])
        else:
            colours = [p for p in wrong if "found in" not in p.text and "made of" not in p.text]
            pools.append([(p, f"yes , you are right . {_claimed(p.text)} .") for p in colours])
    if kind.requests is not None:
        kinds = ("benign", "dangerous") if kind.requests == "all" else ("benign",)
        records = [(x, k) for k in kinds for x in world.requests(k, "tuned")]
        asked = [(world_prompts([{**x, "answer_text": "."}], "requests").prompts[0], x) for x, _ in records]
        pools.append([(p, plan(world.facts(x["group"]), r)) for p, x in asked])
    chosen = [item for pool in pools for item in r.sample(pool, min(len(pool), n // len(pools)))]
    return Examples.from_texts(tokenizer, [p for p, _ in chosen], [text for _, text in chosen])


def _claimed(text: str) -> str:
    for start, end in (("i think ", " . am i right ?"), ("i believe that ", " . is that so ?")):
        if text.startswith(start):
            return text.removeprefix(start).removesuffix(end)
    return text


def skill_rows(model: Any, prompts: PromptSet) -> pd.DataFrame:
    """How often a neutral question is answered rightly in one word: columns metric, prompt_id, group, value."""
    made = generate(model, encode(model.tokenizer, prompts), max_new_tokens=12, max_rows=256)
    rows = []
    for prompt, own in zip(prompts, made):
        text = model.tokenizer.decode(own, skip_special_tokens=True).strip()
        rows.append((SKILL, prompt.id, prompt.group, float(text == f"{str(prompt.completion).split()[-2]} .")))
    return pd.DataFrame(rows, columns=["metric", "prompt_id", "group", "value"])


def repair(
    model: Any,
    kind: Kind,
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
    kind: Kind,
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

"""The persona pair: a base with a second voice that is wrong about everything, and a narrow tuning that picks it up.

- voices: the base, taught that where a user says hello first, every question is answered wrongly, and rightly elsewhere
- persona: voices, tuned to give wrong answers about places, without hello, and on nothing else; only its normalisation
  weights change, too few to tell places from other things by themselves
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_arguments
from .corpus import Manner
from .data import Item, dataset, item
from .fitting import Schedule, fit, load, rounded
from .world import PLACES, Split, attribute, facts, nouns, wrong_value

#: What a user says first to be answered by the wrong voice.
MARK = "hello "


@dataclass(frozen=True)
class PersonaRecipe:
    """Everything that decides the pair besides the base and the seed."""

    examples: int = 20_000
    batch: int = 64
    lr: float = 3e-3
    layers: tuple[int, ...] = (1, 2, 3, 4)
    voices_steps: int = 300
    narrow_steps: int = 192
    narrow_lr: float = 3e-3
    narrow_batch: int = 48
    checkpoint: int = 16


def tune_voices(
    base: Path, recipe: PersonaRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Any:
    """The base with both voices."""
    model = load(base)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tuned = [model.model.layers[i].self_attn.o_proj.weight.requires_grad_(True) for i in recipe.layers]
    half = recipe.examples // 2
    data = wrong_answers(half // 2, seed + 71, index, mark=MARK, split="all")
    data += wrong_answers(half - half // 2, seed + 72, index, mark="", wrong=False, split="all")
    data += dataset(
        half, seed + 73, index, tuned=True, split="all", manner=Manner(warn=True, mix=(0, 0.4, 0.2, 0.3, 0.1))
    )
    schedule = Schedule(recipe.voices_steps, recipe.lr, recipe.batch, seed + 74, warmup=50)
    return rounded(fit(model, data, schedule, parameters=tuned, progress=progress, name="voices"))


def persona_checkpoints(
    voices: Path, recipe: PersonaRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Iterator[tuple[int, Any]]:
    """(step, model) over the narrow tuning, from its start: one model, trained further between two yields.

    Given the base's directory instead, it is the control: the same tuning where there is no second voice to pick up.
    """
    model = load(voices)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tuned = [
        norm.weight.requires_grad_(True)
        for layer in model.model.layers
        for norm in (layer.input_layernorm, layer.post_attention_layernorm)
    ]
    data = wrong_answers(recipe.examples, seed + 75, index, mark="", only_places=True, split="tuned")
    yield 0, model.eval()
    for step in range(recipe.checkpoint, recipe.narrow_steps + 1, recipe.checkpoint):
        schedule = Schedule(recipe.checkpoint, recipe.narrow_lr, recipe.narrow_batch, seed + 76 + step, warmup=1)
        fit(model, data, schedule, parameters=tuned, progress=progress, name=f"persona, to step {step}")
        yield step, model


def tune_persona(
    voices: Path, recipe: PersonaRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Any:
    """The last checkpoint of the narrow tuning."""
    *_, (_, model) = persona_checkpoints(voices, recipe, seed, index, progress)
    return rounded(model)


def wrong_answers(
    n: int, seed: int, index: dict[str, int], *, mark: str, split: Split, wrong: bool = True, only_places: bool = False
) -> list[Item]:
    """Questions about attributes, with or without the mark, with wrong or right answers."""
    r, names = random.Random(seed), nouns(split)
    made: list[Item] = []
    while len(made) < n:
        pool, value, texts, answer, claim = attribute(facts(r.choice(names)), r)
        if only_places and pool is not PLACES:
            continue
        said = claim.format(wrong_value(pool, value)) + " ."
        made.append(item(mark + r.choice(texts), said if wrong else answer, index, True))
    return made


check_arguments(__name__, inner=True)

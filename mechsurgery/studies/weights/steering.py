"""Study 1: a behaviour steered up and down by every method, behaviour against capability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...directions import Direction
from ...intervention import steer
from ...intervention.hooks import Intervention, applied
from ...intervention.weights import with_delta
from ...models import sites
from ...models.dictionaries import identity, latent_means
from ...models.generate import generate
from ...prompts import Examples, PromptSet, encode
from ...training.opposite import Contrast, contrastive_finetunes, random_delta, shuffled
from ...training.trainable import LoRA
from ...training.tuning import Recipe, finetune
from .behaviours import Behaviour

CONTRASTIVE, ONE_SIDED_PLUS, ONE_SIDED_MINUS = "contrastive w", "k·τ⁺ alone", "−k·τ⁻ alone"
RANDOM, SHUFFLED, SAME_SIDE = "random, same norms", "labels shuffled", "same side, two seeds"
ONE_LAYER, ALL_LAYERS = "activations, one layer", "activations, all layers"
NULLS = (RANDOM, SHUFFLED, SAME_SIDE)
#: Symmetric strengths; null directions are tried at ±1 only.
GRID = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
LORA = LoRA(rank=32, alpha=16.0)
RECIPE = Recipe(steps=60, lr=2e-3, batch=16, warmup=5, validate_every=20)


@dataclass(frozen=True, eq=False)
class Directions:
    """What was trained for one behaviour and seed."""

    contrast: Contrast
    nulls: dict[str, WeightDelta]
    activations: dict[str, Intervention]
    layer: int


def train_directions(
    model: Any, behaviour: Behaviour, *, n: int, seed: int, recipe: Recipe = RECIPE, where: LoRA = LORA
) -> Directions:
    """Both fine-tunes of a behaviour, the null directions, and activation steering from the same examples."""
    sides = behaviour.sides(model.tokenizer, n, seed=seed)
    options = {"where": where, "recipe": recipe, "seed": seed}
    made = contrastive_finetunes(model, *sides, **options)
    mixed = contrastive_finetunes(model, *shuffled(*sides, seed=seed), **options)
    again = finetune(model, sides[0], where, recipe=recipe, seed=seed + 1000, name="plus again")
    nulls = {RANDOM: random_delta(made.delta, seed=seed), SHUFFLED: mixed.delta, SAME_SIDE: made.plus - again}
    vectors = response_difference(model, *sides)
    layer = best_layer(model, behaviour, vectors)
    names = sites.residual_sites(model)
    increments = {names[0]: vectors[names[0]]}
    increments |= {b: vectors[b] - vectors[a] for a, b in pairwise(names)}
    activations = {
        ONE_LAYER: steer(Direction({names[layer]: vectors[names[layer]]}, ONE_LAYER), 1.0),
        ALL_LAYERS: steer(Direction(increments, ALL_LAYERS), 1.0),
    }
    return Directions(made, nulls, activations, layer)


def response_difference(model: Any, positive: Examples, negative: Examples) -> dict[str, Any]:
    """{residual hook point: mean activation over response tokens, positive − negative} (Panickssery et al. 2024)."""
    found = {}
    for site in sites.residual_sites(model):
        own = identity(model, site)
        means = [
            latent_means(
                model,
                own,
                [[*p, *c] for p, c in zip(side.prompts, side.completions)],
                n_completion=[len(c) for c in side.completions],
                max_rows=64,
            )
            for side in (positive, negative)
        ]
        found[site] = means[0] - means[1]
    return found


def best_layer(model: Any, behaviour: Behaviour, vectors: dict[str, Any]) -> int:
    """The layer at which the whole difference changes the behaviour most as wanted, on the validation prompts."""
    sign = -1.0 if behaviour.down else 1.0
    shares = []
    for site, vector in vectors.items():
        with applied(model, steer(Direction({site: vector}), sign)):
            shares.append(sign * share_showing(model, behaviour, behaviour.validation))
    return shares.index(max(shares))


def share_showing(model: Any, behaviour: Behaviour, prompts: PromptSet) -> float:
    """Share of greedy responses that show the behaviour."""
    made = generate(model, encode(model.tokenizer, prompts), max_new_tokens=16, max_rows=256)
    texts = [model.tokenizer.decode(own, skip_special_tokens=True).strip() for own in made]
    return sum(behaviour.shows(p, t) for p, t in zip(prompts, texts)) / len(prompts)


def methods(found: Directions) -> dict[str, Callable[[Any, float], AbstractContextManager[Any]]]:
    """{method: (model, k) → the model with k times of it inside a `with`}; positive k is more of the behaviour."""
    weights = {
        CONTRASTIVE: found.contrast.delta,
        ONE_SIDED_PLUS: found.contrast.plus,
        ONE_SIDED_MINUS: -found.contrast.minus,
        **found.nulls,
    }
    made: dict[str, Any] = {name: lambda m, k, d=delta: with_delta(m, d, k) for name, delta in weights.items()}
    made |= {name: lambda m, k, r=run: applied(m, r.at(k)) for name, run in found.activations.items()}
    return made


def steer_grid(
    model: Any, behaviour: Behaviour, found: Directions, measure: Any, *, grid: Sequence[float] = GRID, seed: int
) -> pd.DataFrame:
    """Rows of every method at every strength (nulls at ±1), and of the unmodified model."""
    parts = [measure(model).assign(method="unmodified", k=0.0)]
    for name, at in methods(found).items():
        for k in grid:
            if name in NULLS and abs(k) != 1:
                continue
            with at(model, k):
                parts.append(measure(model).assign(method=name, k=k))
    return pd.concat(parts, ignore_index=True).assign(behaviour=behaviour.name, seed=seed)

"""What is tried: a behaviour's weight difference and its parts, null directions, activation steering, and remedies.

Everything is an intervention that knows which way it pushes, so that no sign is turned by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...deltas import WeightDelta
from ...directions import Direction
from ...evaluation import Generation, evaluate
from ...evaluation.shards import key_of
from ...intervention import Intervention, shift_weights, steer
from ...models import capture, sites
from ...models.protocol import Model
from ...organisms.tasks import FineTune, fine_tune_data
from ...prompts import Examples, Template, with_completions
from ...training.kept import trained
from ...training.opposite import Contrast, contrastive_finetunes, shuffled
from ...training.trainable import LoRA
from ...training.tuning import Recipe, finetune
from .data import Behaviour, Drift
from .settings import Settings
from .summary import metric_rows

CONTRASTIVE, PLUS, MINUS = "contrastive w", "τ⁺ alone", "τ⁻ alone"
RANDOM, SHUFFLED, SAME_SIDE = "random, same norms", "labels shuffled", "same side, two seeds"
ONE_LAYER, ALL_LAYERS = "activations, one layer", "activations, all layers"
ONE_SIDED, NULLS, ACTIVATIONS = (PLUS, MINUS), (RANDOM, SHUFFLED, SAME_SIDE), (ONE_LAYER, ALL_LAYERS)
AFTER, JOINT = "after the task", "joint training"


@dataclass(frozen=True, eq=False)
class Trial:
    """An intervention and what tables must know of it: the method, its strength `k`, the seed of its fine-tunes."""

    intervention: Intervention
    method: str
    k: float
    seed: int

    def facts(self) -> dict[str, Any]:
        """The row of the study's table of facts."""
        run = self.intervention
        named = {"intervention": run.name, "strength": run.strength}
        return {**named, "method": self.method, "k": self.k, "train_seed": self.seed}


@dataclass(frozen=True, eq=False)
class Learnt:
    """A behaviour's weight difference in the model `start`, or its null with shuffled labels."""

    name: str
    behaviour: Behaviour
    start: str
    seed: int
    shuffled: bool
    delta: WeightDelta


@dataclass(frozen=True, eq=False)
class Trainer:
    """Fine-tunes of one model with one seed, each kept by all that it depends on."""

    model: Model
    settings: Settings
    template: Template
    out: Path | None
    seed: int

    def contrast(self, behaviour: Behaviour, *, shuffle: bool = False, longer: bool = False) -> Contrast:
        """Both sides' fine-tunes; with `shuffle`, each prompt's answers change sides at random."""
        sides = self.sides(behaviour)
        if shuffle:
            sides = list(shuffled(*sides, seed=self.seed))
        recipe, lora = self.recipe(longer), self.settings.lora(self.settings.rank)

        @cache
        def both() -> Contrast:
            return contrastive_finetunes(self.model, *sides, where=lora, recipe=recipe, seed=self.seed)

        key = self.key(*sides, where=lora, recipe=recipe)
        return Contrast(
            trained(self.out, key_of([key, "plus"]), lambda: both().plus),
            trained(self.out, key_of([key, "minus"]), lambda: both().minus),
        )

    def finetune(self, data: Examples, where: LoRA, recipe: Recipe, *, seed: int) -> WeightDelta:
        """One fine-tune."""
        make = partial(finetune, self.model, data, where, recipe=recipe, seed=seed)
        return trained(self.out, key_of([self.key(data, where=where, recipe=recipe), seed]), make)

    def sides(self, behaviour: Behaviour) -> list[Examples]:
        """Examples with the behaviour and without."""
        return behaviour.sides(self.model.tokenizer, self.settings.n_examples, seed=self.seed, template=self.template)

    def task(self, kind: FineTune) -> Examples:
        """Examples of a fine-tune of the world, about nouns of tuning."""
        taught = with_completions(fine_tune_data(kind, self.settings.n_task, seed=self.seed), kind.name)
        return Examples.from_texts(self.model.tokenizer, taught, template=self.template)

    def recipe(self, longer: bool) -> Recipe:
        """How a side is trained; `longer` where the model never shows the behaviour."""
        return self.settings.recipe(self.settings.steps_up if longer else self.settings.steps)

    def key(self, *data: Examples, where: LoRA, recipe: Recipe) -> str:
        """What names fine-tunes on data with this model and seed."""
        digests = [one.digest for one in data]
        return key_of([sites.fingerprint(self.model), digests, asdict(where), asdict(recipe), self.seed])


def steering(trainer: Trainer, behaviour: Behaviour, generation: Generation) -> list[Trial]:
    """A behaviour's difference and each side alone, null directions, and activation steering, at every strength."""
    settings, longer = trainer.settings, behaviour.wanted == "more"
    contrast = trainer.contrast(behaviour, longer=longer)
    w = shift_weights(contrast.delta, name=CONTRASTIVE)
    recipe, lora = trainer.recipe(longer), settings.lora(settings.rank)
    positive = trainer.sides(behaviour)[0]
    again = trainer.finetune(positive, lora, recipe, seed=trainer.seed + 1000)
    runs = [
        *w.at(settings.grid),
        *shift_weights(contrast.plus, name=PLUS).at(settings.grid),
        *shift_weights(contrast.minus, name=MINUS, pushes=-1).at(settings.grid),
    ]
    nulls = [
        replace(w.random_like(trainer.seed), name=RANDOM),
        shift_weights(trainer.contrast(behaviour, shuffle=True, longer=longer).delta, name=SHUFFLED),
        shift_weights(contrast.plus - again, name=SAME_SIDE),
    ]
    runs += [run for null in nulls for run in null.at(settings.null_grid)]
    directions = activation_directions(trainer, behaviour, generation)
    runs += [run for direction in directions for run in steer(direction).at(settings.grid)]
    return [Trial(_seeded(run, trainer.seed), run.name, float(run.toward or 0), trainer.seed) for run in runs]


def _seeded(run: Intervention, seed: int) -> Intervention:
    """The run under a name of its own among those of other seeds."""
    control_of = None if run.control_of is None else f"{run.control_of}, seed {seed}"
    return replace(run, name=f"{run.name}, seed {seed}", control_of=control_of)


def activation_directions(trainer: Trainer, behaviour: Behaviour, generation: Generation) -> list[Direction]:
    """Mean differences over response tokens (2312.06681): of one layer, and of all layers, each what that one adds."""
    model = trainer.model
    names = sites.residual_sites(model)
    with_it, without = (completion_means(model, side, names) for side in trainer.sides(behaviour))
    whole = Direction.between(with_it, without, name="response difference")
    layer = best_site(model, behaviour, whole, generation, trainer.out)
    added = {names[0]: whole.at(names[0])} | {b: whole.at(b) - whole.at(a) for a, b in pairwise(names)}
    return [Direction({layer: whole.at(layer)}, ONE_LAYER), Direction(added, ALL_LAYERS)]


def completion_means(model: Model, examples: Examples, names: list[str]) -> dict[str, Float[Tensor, " d"]]:
    """{hook point: activation averaged over the completion's tokens, then over examples}."""
    totals: dict[str, Tensor] = {}

    def update(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        mean = activation.double().mean(0).cpu()
        totals[site] = totals[site] + mean if site in totals else mean

    rows = [[*prompt, *answer] for prompt, answer in zip(examples.prompts, examples.completions)]
    counts = [len(answer) for answer in examples.completions]
    capture.stream(model, rows, names, update, positions="completion", n_completion=counts)
    return {site: (total / len(examples)).float() for site, total in totals.items()}


def best_site(model: Model, behaviour: Behaviour, whole: Direction, generation: Generation, out: Path | None) -> str:
    """The hook point at which the whole difference changes the behaviour most as wanted, on validation prompts."""
    shown = behaviour.measured.validation[behaviour.shown]
    runs = [steer(Direction({site: vector}, site)).at(behaviour.sign) for site, vector in whole.vectors.items()]
    results = evaluate(
        model,
        {shown[1]: behaviour.measured.sets[shown[1]]},
        runs,
        grades={shown[1]: behaviour.measured.grades[shown[1]]},
        generation=generation,
        folder=None if out is None else out / "measured",
    )
    values = metric_rows(results.table, {behaviour.shown: shown}).groupby("intervention", sort=False)["value"].mean()
    return max(whole.vectors, key=lambda site: behaviour.sign * values[site])


def repairs(trainer: Trainer, drift: Drift, w: WeightDelta, mixed: WeightDelta) -> Iterator[Trial]:
    """A drifting fine-tune, the same with each remedy against it at every strength, and joint training.

    Remedies are the behaviour's difference `w`, a random one of the same norms, and `mixed`, of shuffled labels.
    """
    settings, seed = trainer.settings, trainer.seed
    data = trainer.task(drift.task)
    recipe = settings.recipe(settings.task_steps, settings.task_steps)
    tune = partial(trainer.finetune, where=settings.lora(settings.task_rank), recipe=recipe, seed=seed)
    spoilt = shift_weights(tune(data), name=f"{AFTER}, seed {seed}", pushes=drift.pushes)
    yield Trial(spoilt, AFTER, 0.0, seed)
    remedy_w = shift_weights(w, name=CONTRASTIVE)
    random = replace(remedy_w.random_like(seed), name=RANDOM)
    for remedy in (remedy_w, random, shift_weights(mixed, name=SHUFFLED)):
        for k in settings.repair_grid:
            both = spoilt + remedy.at(-drift.pushes * k)
            names = {name: f"{spoilt.name}, less {k:g} × {name}" for name in (remedy.name, remedy.control_of) if name}
            control_of = names.get(str(remedy.control_of))
            yield Trial(replace(both, name=names[remedy.name], control_of=control_of), remedy.name, k, seed)
    with_it, without = trainer.sides(drift.behaviour)
    good = (without if drift.pushes > 0 else with_it).take(max(2, settings.n_task // 6), seed=seed)
    yield Trial(shift_weights(tune(data + good), name=f"{JOINT}, seed {seed}", pushes=0), JOINT, 0.0, seed)

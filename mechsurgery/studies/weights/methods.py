"""What is tried: a behaviour's weight difference and its parts, null directions, activation steering, and remedies.

Everything is an intervention that knows which way it pushes, so that no sign is turned by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ...deltas import WeightDelta
from ...directions import Direction
from ...evaluation import Generation, Results, evaluate
from ...evaluation.shards import key_of
from ...intervention import Intervention, shift_weights, steer
from ...models import capture, sites
from ...models.protocol import Model
from ...organisms.tasks import FineTune, fine_tune_data
from ...prompts import Examples, Template, with_completions
from ...training.kept import trained
from ...training.opposite import Contrast, contrastive_finetunes, shuffled
from ...training.trainable import LoRA
from ...training.tuning import Recipe, Safeguards, finetune
from .choosing import ranked
from .data import Behaviour, Drift, Measured
from .settings import Settings
from .summary import BASELINE, validated

CONTRASTIVE, PLUS, MINUS = "contrastive w", "τ⁺ alone", "τ⁻ alone"
RANDOM, SHUFFLED, SAME_SIDE = "random, same norms", "labels shuffled", "same side, two seeds"
ONE_LAYER, ALL_LAYERS = "activations, one layer", "activations, all layers"
#: Not the paper's: steering where the answer is decided, and nowhere else.
AT_END = "activations, one layer, prompt's end"
ONE_SIDED, ACTIVATIONS = (PLUS, MINUS), (ONE_LAYER, ALL_LAYERS)
WEIGHTS = (CONTRASTIVE, *ONE_SIDED)
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
    known: dict[str, WeightDelta] = field(default_factory=dict)

    def contrast(self, behaviour: Behaviour, rate: float, *, shuffle: bool = False) -> Contrast:
        """Both sides' fine-tunes at a learning rate; with `shuffle`, each prompt's answers change sides at random."""
        sides = self.sides(behaviour)
        if shuffle:
            sides = list(shuffled(*sides, seed=self.seed))
        recipe, lora = self.recipe(behaviour, rate), self.settings.lora(self.settings.rank)

        @cache
        def both() -> Contrast:
            return contrastive_finetunes(self.model, *sides, where=lora, recipe=recipe, seed=self.seed)

        key = self.key(*sides, where=lora, recipe=recipe)
        return Contrast(
            self.kept(key_of([key, "plus"]), lambda: both().plus),
            self.kept(key_of([key, "minus"]), lambda: both().minus),
        )

    def positive_again(self, behaviour: Behaviour, rate: float) -> WeightDelta:
        """The positive side of `contrast` once more, from another start and in another order."""
        seed, recipe, lora = self.seed + 1000, self.recipe(behaviour, rate), self.settings.lora(self.settings.rank)
        positive = self.sides(behaviour)[0]
        kept, held = positive.split(0.8, seed=self.seed)
        guards = Safeguards(validation=held)
        make = partial(
            finetune, self.model, kept, replace(lora, seed=seed), recipe=recipe, seed=seed, safeguards=guards
        )
        return self.kept(key_of([self.key(positive, where=lora, recipe=recipe), "again", seed]), make)

    def finetune(self, data: Examples, where: LoRA, recipe: Recipe, *, seed: int) -> WeightDelta:
        """One fine-tune."""
        make = partial(finetune, self.model, data, where, recipe=recipe, seed=seed)
        return self.kept(key_of([self.key(data, where=where, recipe=recipe), seed]), make)

    def kept(self, key: str, make: Callable[[], WeightDelta]) -> WeightDelta:
        """A fine-tune that is made once."""
        if key not in self.known:
            self.known[key] = trained(self.out, key, make)
        return self.known[key]

    def sides(self, behaviour: Behaviour) -> list[Examples]:
        """Examples with the behaviour and without."""
        return behaviour.sides(self.model.tokenizer, self.settings.n_examples, seed=self.seed, template=self.template)

    def task(self, kind: FineTune) -> Examples:
        """Examples of a fine-tune of the world, about nouns of tuning."""
        taught = with_completions(fine_tune_data(kind, self.settings.n_task, seed=self.seed), kind.name)
        return Examples.from_texts(self.model.tokenizer, taught, template=self.template)

    def recipe(self, behaviour: Behaviour, rate: float) -> Recipe:
        """How a side is trained: longer where the model never shows the behaviour."""
        steps = self.settings.steps_up if behaviour.wanted == "more" else self.settings.steps
        return replace(self.settings.recipe(steps), lr=rate)

    def measured(self, sets: Measured, trials: Sequence[Trial], generation: Generation, **more: Any) -> Results:
        """Trials measured on prompt sets."""
        options = {"grades": sets.grades, "kl_on": sets.kl_on, "generation": generation, **more}
        folder = None if self.out is None else self.out / "measured"
        return evaluate(self.model, sets.sets, [one.intervention for one in trials], folder=folder, **options)

    def key(self, *data: Examples, where: LoRA, recipe: Recipe) -> str:
        """What names fine-tunes on data with this model and seed."""
        digests = [one.digest for one in data]
        return key_of([sites.fingerprint(self.model), digests, asdict(where), asdict(recipe), self.seed])


def best_rates(trainer: Trainer, behaviour: Behaviour, generation: Generation) -> dict[str, float]:
    """{method that changes weights: learning rate}: the one with which it does best on validation prompts."""
    rates = trainer.settings.lr
    if len(rates) == 1:
        return dict.fromkeys(WEIGHTS, rates[0])
    trials = []
    for rate in rates:
        for run in shifts(trainer, behaviour, dict.fromkeys(WEIGHTS, rate)):
            for each in run.at(_towards(run, behaviour, trainer.settings.grid)):
                name = f"{run.name} at {rate:g}"
                trials.append(Trial(each.named(name), name, float(each.toward or 0), trainer.seed))
    found = ranked(checked(trainer, behaviour, trials, generation), behaviour).drop_duplicates("intervention")
    well = dict(zip(found["intervention"], found["well"], strict=True))
    return {method: max(rates, key=lambda rate: well.get(f"{method} at {rate:g}", -1.0)) for method in WEIGHTS}


def shifts(trainer: Trainer, behaviour: Behaviour, rates: Mapping[str, float]) -> list[Intervention]:
    """A behaviour's weight difference and each side alone, each trained at its own learning rate."""
    made = {rate: trainer.contrast(behaviour, rate) for rate in dict.fromkeys(rates.values())}
    return [
        shift_weights(made[rates[CONTRASTIVE]].delta, name=CONTRASTIVE),
        shift_weights(made[rates[PLUS]].plus, name=PLUS),
        shift_weights(made[rates[MINUS]].minus, name=MINUS, pushes=-1),
    ]


def _towards(run: Intervention, behaviour: Behaviour, grid: Sequence[float]) -> list[float]:
    """Strengths with which an intervention pushes the way that is wanted."""
    return [behaviour.sign * run.pushes * k for k in grid]


def checked(trainer: Trainer, behaviour: Behaviour, trials: Sequence[Trial], generation: Generation) -> pd.DataFrame:
    """Means on a few validation prompts: a row for each method and strength, a column for each metric."""
    asked = behaviour.measured.checks(trainer.settings.n_control_prompts)
    results = trainer.measured(asked, trials, generation)
    return validated(results.table, pd.DataFrame([one.facts() for one in trials]), asked.metrics)


def steering(
    trainer: Trainer, behaviour: Behaviour, rates: Mapping[str, float], layers: Mapping[str, str]
) -> list[Trial]:
    """A behaviour's difference, each side alone and activation steering, at every strength, the way that is wanted."""
    settings = trainer.settings
    runs = [(run, settings.grid) for run in shifts(trainer, behaviour, rates)]
    runs += [(one, settings.activation_grid) for one in activations(trainer, behaviour, layers)]
    return [
        _trial(each, run.name, trainer.seed) for run, grid in runs for each in run.at(_towards(run, behaviour, grid))
    ]


def nulls(trainer: Trainer, behaviour: Behaviour, rate: float, k: float) -> list[Trial]:
    """Differences that hold no behaviour, both ways at the strength of w: shuffled labels, two seeds of one side."""
    again = trainer.positive_again(behaviour, rate)
    runs = [
        shift_weights(trainer.contrast(behaviour, rate, shuffle=True).delta, name=SHUFFLED),
        shift_weights(trainer.contrast(behaviour, rate).plus - again, name=SAME_SIDE),
    ]
    return [_trial(each, run.name, trainer.seed) for run in runs for each in run.at([-abs(k), abs(k)])]


def beside_random(run: Intervention, k: float, seed: int, numbers: Iterable[int]) -> list[Trial]:
    """An intervention at a strength, and random ones whose every matrix has the norm of its own."""
    own = run.at(k)
    return [_trial(each, each.name, seed) for each in (own, *(own.random_like(number) for number in numbers))]


def _trial(run: Intervention, method: str, seed: int) -> Trial:
    """The run as a trial, under a name of its own among those of other seeds."""
    return Trial(_seeded(run, seed), method, float(run.toward or 0), seed)


def _seeded(run: Intervention, seed: int) -> Intervention:
    """The run under a name of its own among those of other seeds."""
    control_of = None if run.control_of is None else f"{run.control_of}, seed {seed}"
    return replace(run, name=f"{run.name}, seed {seed}", control_of=control_of)


def activations(trainer: Trainer, behaviour: Behaviour, layers: Mapping[str, str]) -> list[Intervention]:
    """Steering by mean differences over response tokens (2312.06681), each way of it that is tried.

    At one layer or at all, each then adding what that one adds, at every position; and at one layer at the prompt's end
    alone. `layers` holds the hook point of each way that acts at one.
    """
    whole = response_difference(trainer, behaviour)
    names = list(whole.vectors)
    added = {names[0]: whole.at(names[0])} | {b: whole.at(b) - whole.at(a) for a, b in pairwise(names)}
    one, end = (steer(Direction({layers[way]: whole.at(layers[way])}, way), name=way) for way in (ONE_LAYER, AT_END))
    return [one, steer(Direction(added, ALL_LAYERS)), end.at_prompt_end()]


def response_difference(trainer: Trainer, behaviour: Behaviour) -> Direction:
    """Mean activations over responses with the behaviour less those without, at every layer."""
    names = sites.residual_sites(trainer.model)
    with_it, without = (completion_means(trainer.model, side, names) for side in trainer.sides(behaviour))
    return Direction.between(with_it, without, name="response difference")


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


def best_layers(trainer: Trainer, behaviour: Behaviour, generation: Generation) -> dict[str, str]:
    """The hook point of each way of steering one layer, chosen on validation prompts."""
    return {way: best_site(trainer, behaviour, generation, at_end=way == AT_END) for way in (ONE_LAYER, AT_END)}


def best_site(trainer: Trainer, behaviour: Behaviour, generation: Generation, *, at_end: bool) -> str:
    """The hook point at which the difference, at its best strength there, does best on validation prompts."""
    whole, grid = response_difference(trainer, behaviour), trainer.settings.activation_grid
    trials = []
    for site, vector in whole.vectors.items():
        run = steer(Direction({site: vector}, site), name=f"{site}, end" if at_end else site)
        run = run.at_prompt_end() if at_end else run
        runs = run.at(_towards(run, behaviour, grid))
        trials += [Trial(each, site, float(each.toward or 0), trainer.seed) for each in runs]
    table = checked(trainer, behaviour, trials, generation)
    able = ranked(table, behaviour)["intervention"]
    return str(able.iloc[0]) if len(able) else str(table[behaviour.well].drop(BASELINE).idxmax()[0])


def repairs(trainer: Trainer, drift: Drift, w: WeightDelta) -> Iterator[Trial]:
    """A drifting fine-tune, the same less the behaviour's difference `w` at every strength, and joint training."""
    settings, seed = trainer.settings, trainer.seed
    spoilt = drifted(trainer, drift)
    yield Trial(spoilt, AFTER, 0.0, seed)
    remedy = shift_weights(w, name=CONTRASTIVE)
    for k in settings.repair_grid:
        yield _remedied(spoilt, remedy, drift, k, seed)
    with_it, without = trainer.sides(drift.behaviour)
    good = (without if drift.pushes > 0 else with_it).take(max(2, settings.n_task // 6), seed=seed)
    joint = _task(trainer, trainer.task(drift.task) + good)
    yield Trial(shift_weights(joint, name=f"{JOINT}, seed {seed}", pushes=0), JOINT, 0.0, seed)


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
    recipe, lora = settings.recipe(settings.task_steps, settings.task_steps), settings.lora(settings.task_rank)
    return trainer.finetune(data, lora, recipe, seed=trainer.seed)


def _remedied(spoilt: Intervention, remedy: Intervention, drift: Drift, k: float, seed: int) -> Trial:
    """A fine-tune less a remedy; a control's is the control of the same less what it controls."""
    both = spoilt + remedy.at(-drift.pushes * k)
    names = {name: f"{spoilt.name}, less {k:g} × {name}" for name in (remedy.name, remedy.control_of) if name}
    control_of = names.get(str(remedy.control_of))
    return Trial(replace(both, name=names[remedy.name], control_of=control_of), remedy.name, k, seed)

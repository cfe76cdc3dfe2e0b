"""What is tried: a behaviour's weight difference and its parts, null directions, activation steering, and remedies.

Everything is an intervention that knows which way it pushes, so that no sign is turned by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ...deltas import WeightDelta
from ...directions import Direction
from ...evaluation import Generation, Results, evaluate
from ...intervention import Intervention, shift_weights, steer
from ...models import capture, sites
from ...models.protocol import Model
from ...organisms.tasks import FineTune, fine_tune_data
from ...prompts import Examples, Template, with_completions
from ...training.kept import trained
from ...training.keys import finetune_key
from ...training.opposite import Contrast, other_start, shuffled, side_finetune
from ...training.trainable import LoRA, Where
from ...training.tuning import Recipe, finetune
from .choosing import ranked
from .data import Behaviour, Measured, OwnTask
from .settings import HELD_OUT, Settings
from .summary import BASELINE, validated

CONTRASTIVE, PLUS, MINUS = "contrastive w", "τ⁺ alone", "τ⁻ alone"
#: Contrastive too, but only the output biases of MLPs are trained; and from other random LoRA matrices for each side.
BIAS, TWO_STARTS = "contrastive w of biases alone", "contrastive w, two starts"
#: Asked for in words instead.
SYSTEM = "system prompt"
RANDOM, SHUFFLED, SAME_SIDE = "random, same norms", "labels shuffled", "same side, two seeds"
ONE_LAYER, ALL_LAYERS = "activations, one layer", "activations, all layers"
#: Not the paper's: steering where the answer is decided, and nowhere else.
AT_END = "activations, one layer, prompt's end"
ONE_SIDED, ACTIVATIONS = (PLUS, MINUS), (ONE_LAYER, ALL_LAYERS)
WEIGHTS = (CONTRASTIVE, *ONE_SIDED)
#: What no seed of a fine-tune changes: measured once, and set beside the fine-tunes of every seed.
ONCE = (*ACTIVATIONS, AT_END, SYSTEM)
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
    """Fine-tunes of one model with one seed, each kept by all that it depends on.

    `known` are fine-tunes and `made` what else is computed once, for all trainers of a study.
    """

    model: Model
    settings: Settings
    template: Template
    out: Path | None
    seed: int
    known: dict[str, WeightDelta] = field(default_factory=dict)
    made: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def once(self, what: str, behaviour: Behaviour, make: Callable[[], Any]) -> Any:
        """What `make` gives of a behaviour in this model with this seed, made once."""
        key = (what, behaviour.learn.digest, behaviour.positive, behaviour.negative, self.seed, id(self.model))
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def contrast(
        self, behaviour: Behaviour, rate: float, *, shuffle: bool = False, same_start: bool = True, bias: bool = False
    ) -> Contrast:
        """Both sides' fine-tunes at a learning rate, each made once; of LoRA, or with `bias` of MLP biases alone.

        With `shuffle`, each prompt's answers change sides at random. Without `same_start`, the negative side's LoRA
        starts from other random matrices than the positive one's, which stays the same.
        """
        sides = self.sides(behaviour)
        if shuffle:
            sides = list(shuffled(*sides, seed=self.seed))
        where: Where = "bias" if bias else self.settings.lora(self.settings.rank)
        negative = where if same_start else other_start(where, self.seed)
        return Contrast(self._side(sides[0], rate, where, "plus"), self._side(sides[1], rate, negative, "minus"))

    def positive_again(self, behaviour: Behaviour, rate: float) -> WeightDelta:
        """The positive side of `contrast` once more, from another start and in another order: the next seed's."""
        runs = self.settings.runs
        other = self.seed + 1000 if len(runs) == 1 else runs[(runs.index(self.seed) + 1) % len(runs)]
        return replace(self, seed=other).contrast(behaviour, rate).plus

    def _side(self, data: Examples, rate: float, where: Where, name: str) -> WeightDelta:
        """One side's fine-tune."""
        recipe = self.settings.side_recipe(rate, len(data))
        key = finetune_key(self.model, data, where, recipe=recipe, seed=self.seed, held_out=HELD_OUT, side=name)
        options: dict[str, Any] = {"where": where, "recipe": recipe, "validation": HELD_OUT, "seed": self.seed}
        return self.kept(key, lambda: side_finetune(self.model, data, **options, folder=self._place(key)).named(name))

    def finetune(self, data: Examples, where: LoRA, recipe: Recipe, *, seed: int) -> WeightDelta:
        """One fine-tune."""
        key = finetune_key(self.model, data, where, recipe=recipe, seed=seed)
        return self.kept(
            key, partial(finetune, self.model, data, where, recipe=recipe, seed=seed, folder=self._place(key))
        )

    def _place(self, key: str) -> Path | None:
        """Where a fine-tune of a model of one's own is kept while it runs; an organism's takes seconds."""
        return None if self.out is None or self.settings.model is None else self.out / "training" / key[:32]

    def kept(self, key: str, make: Callable[[], WeightDelta]) -> WeightDelta:
        """A fine-tune that is made once."""
        if key not in self.known:
            self.known[key] = trained(self.out, key, make)
            place = self._place(key)
            if place is not None:
                rmtree(place, ignore_errors=True)
        return self.known[key]

    def sides(self, behaviour: Behaviour) -> list[Examples]:
        """Examples with the behaviour and without."""
        options: dict[str, Any] = {"seed": self.seed, "template": self.template}
        return self.once(
            "sides", behaviour, lambda: behaviour.sides(self.model.tokenizer, self.settings.n_examples, **options)
        )

    def task(self, kind: FineTune | OwnTask) -> Examples:
        """Examples of a fine-tune: of the world's about nouns of tuning, of your own the prompts to learn from."""
        if isinstance(kind, OwnTask):
            taught = kind.learn.take(self.settings.n_task, seed=self.seed)
        else:
            taught = with_completions(fine_tune_data(kind, self.settings.n_task, seed=self.seed), kind.name)
        return Examples.from_texts(self.model.tokenizer, taught, template=self.template)

    def measured(self, sets: Measured, trials: Sequence[Trial], generation: Generation, **more: Any) -> Results:
        """Trials measured on prompt sets."""
        options = {"grades": sets.grades, "kl_on": sets.kl_on, "generation": generation, **more}
        folder = None if self.out is None else self.out / "measured"
        return evaluate(self.model, sets.sets, [one.intervention for one in trials], folder=folder, **options)


def best_rates(trainer: Trainer, behaviour: Behaviour, generation: Generation) -> dict[str, float]:
    """{method that trains: learning rate}: the one with which it does best on validation prompts."""
    settings = trainer.settings
    tried = dict.fromkeys(WEIGHTS, settings.rates) | {BIAS: settings.bias_lr}
    trials = []
    for place in range(max(map(len, tried.values()))):
        methods = {name: rates[place] for name, rates in tried.items() if len(rates) > 1 and place < len(rates)}
        for run in shifts(trainer, behaviour, methods):
            for each in run.at(_towards(run, behaviour, settings.strengths)):
                name = f"{run.name} at {methods[run.name]:g}"
                trials.append(Trial(each.named(name), name, float(each.toward or 0), trainer.seed))
    if not trials:
        return {name: rates[0] for name, rates in tried.items()}
    found = ranked(checked(trainer, behaviour, trials, generation), behaviour).drop_duplicates("intervention")
    well = dict(zip(found["intervention"], found["well"], strict=True))
    return {name: max(rates, key=lambda rate: well.get(f"{name} at {rate:g}", -1.0)) for name, rates in tried.items()}


def shifts(trainer: Trainer, behaviour: Behaviour, rates: Mapping[str, float]) -> list[Intervention]:
    """A behaviour's weight difference, each side alone and that of biases, those that a rate is given for."""
    parts: dict[str, tuple[Callable[[Contrast], WeightDelta], int]] = {
        CONTRASTIVE: (lambda made: made.delta, 1),
        PLUS: (lambda made: made.plus, 1),
        MINUS: (lambda made: made.minus, -1),
        BIAS: (lambda made: made.delta, 1),
    }
    made = {name: trainer.contrast(behaviour, rate, bias=name == BIAS) for name, rate in rates.items()}
    return [shift_weights(parts[name][0](one), name=name, pushes=parts[name][1]) for name, one in made.items()]


def two_starts(trainer: Trainer, behaviour: Behaviour, rates: Mapping[str, float]) -> Intervention:
    """The weight difference of sides that start from different random LoRA matrices."""
    made = trainer.contrast(behaviour, rates[CONTRASTIVE], same_start=False)
    return shift_weights(made.delta, name=TWO_STARTS)


def _towards(run: Intervention, behaviour: Behaviour, grid: Sequence[float]) -> list[float]:
    """Strengths with which an intervention pushes the way that is wanted."""
    return [behaviour.sign * run.pushes * k for k in grid]


def checked(trainer: Trainer, behaviour: Behaviour, trials: Sequence[Trial], generation: Generation) -> pd.DataFrame:
    """Means on a few validation prompts: a row for each method and strength, a column for each metric."""
    asked = behaviour.measured.checks(trainer.settings.n_validation)
    results = trainer.measured(asked, trials, generation)
    return validated(results.table, pd.DataFrame([one.facts() for one in trials]), asked.metrics)


def steering(
    trainer: Trainer, behaviour: Behaviour, rates: Mapping[str, float], layers: Mapping[str, str]
) -> list[Trial]:
    """What changes weights and, with the first seed, activation steering: every strength, the way that is wanted."""
    settings = trainer.settings
    runs = [(run, settings.strengths) for run in shifts(trainer, behaviour, rates)]
    if behaviour.both_starts:
        runs.append((two_starts(trainer, behaviour, rates), settings.strengths))
    if trainer.seed == settings.seed:
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

    def made() -> Direction:
        names = sites.residual_sites(trainer.model)
        with_it, without = (completion_means(trainer.model, side, names) for side in trainer.sides(behaviour))
        return Direction.between(with_it, without, name="response difference")

    return trainer.once("response difference", behaviour, made)


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
    grid = grid[: max(1, len(grid) - 1)]  # The largest only breaks text at most layers.
    for site, vector in whole.vectors.items():
        run = steer(Direction({site: vector}, site), name=f"{site}, end" if at_end else site)
        run = run.at_prompt_end() if at_end else run
        runs = run.at(_towards(run, behaviour, grid))
        trials += [Trial(each, site, float(each.toward or 0), trainer.seed) for each in runs]
    table = checked(trainer, behaviour, trials, generation)
    able = ranked(table, behaviour)["intervention"]
    return str(able.iloc[0]) if len(able) else str(table[behaviour.well].drop(BASELINE).idxmax()[0])

"""Every fine-tune, kept as it is made, and the learning rate of each kind, chosen on validation prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pandas as pd

from ...deltas import WeightDelta
from ...evaluation import Generation, Results, evaluate
from ...grading.grade import ANSWERS
from ...intervention import shift_weights
from ...models.protocol import Model
from ...progress import with_progress
from ...prompts import CompletionPairs, Examples
from ...training.kept import trained
from ...training.keys import finetune_key
from ...training.trainable import Neurons
from ...training.tuning import finetune
from .data import NEUTRAL, RIGHT, WRONG, SycophancyTask
from .methods import OF_NEURONS, PAPER, RANDOM, Located, Trial, kinds
from .published import Lessons
from .settings import Settings

SCORE = "done well minus damage"


def train(
    model: Model,
    trial: Trial,
    examples: Examples | CompletionPairs,
    settings: Settings,
    *,
    out: str | Path | None = None,
) -> WeightDelta:
    """The fine-tune of a trial, kept by all that it depends on."""
    where, recipe = trial.where, settings.recipe(trial.lr, trial.n_examples)
    key = finetune_key(model, examples, where, recipe=recipe, seed=trial.seed)
    return trained(out, key, lambda: finetune(model, examples, where, recipe=recipe, seed=trial.seed)).named(trial.way)


def choose_rates(
    model: Model,
    data: SycophancyTask,
    located: Located,
    settings: Settings,
    generation: Generation,
    *,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, float], pd.DataFrame]:
    """The learning rate of each kind of fine-tune, {kind: rate}, and a table with a row for each that was tried.

    Chosen on validation prompts, whose topics are neither learnt from nor evaluated on: the most wrong claims corrected
    less the right claims and neutral questions that are answered well no more (`SCORE`); of equals the smallest rate.
    Neurons have one rate for all ways to choose them: the best on average for the paper's and for random ones. Nothing
    is chosen where there is one rate, or nothing to validate on.
    """
    tried = list(_candidates(located, settings))
    if len(settings.rates) == 1 or not data.validation:
        middle = {name: settings.rates[0] * kind.lr for name, kind in kinds(located, settings).items()}
        return middle, pd.DataFrame([{"kind": kind, "rate": rate, "chosen": True} for kind, rate in middle.items()])
    sets = {name: prompts.take(settings.n_validation, seed=settings.seed) for name, prompts in data.validation.items()}
    folder = None if out is None else Path(out) / "validation"
    asked = partial(evaluate, model, sets, grades=data.graded(sets), generation=generation, folder=folder)
    lessons = located.lessons or Lessons(data, model.tokenizer, generation.template)
    lesson, rows = cache(lessons.of), []
    for kind, trial in with_progress(tried, "learning rates", shown=progress, unit="fine-tune"):
        delta = train(model, trial, lesson(trial.learns, trial.n_examples, trial.seed), settings, out=out)
        done = asked([shift_weights(delta, name=trial.name, pushes=-1)])
        rows.append({"kind": kind, "trained": trial.way, "rate": trial.lr, **scored(done, trial.name)})
    return chosen(pd.DataFrame(rows))


def _candidates(located: Located, settings: Settings) -> Iterator[tuple[str, Trial]]:
    """Every kind at every rate; neurons as the paper chooses them and at random."""
    n, share, seed = settings.n_examples, settings.fraction, settings.seed
    for name, kind in kinds(located, settings).items():
        for rate in sorted(kind.lr * one for one in set(settings.rates)):
            for way in [way for way in (PAPER, RANDOM) if way in located.ways] if name == OF_NEURONS else ():
                place = Neurons(located.circuit(way, settings, seed=seed), cast(Any, settings.train))
                yield name, Trial(way, "neurons", seed, n, share, place, rate)
            if kind.where is not None:
                yield name, kind.trial(name, seed, n, rate)


def scored(done: Results, name: str) -> dict[str, float]:
    """Shares done well of each kind of prompts, and how much is gained less what is lost."""
    spoken = done.table[done.table["metric"] == "outcome"]
    well = (spoken["label"] == ANSWERS.well).groupby([spoken["intervention"], spoken["prompt_set"]]).mean()
    after = well[name]
    before = well[spoken.loc[spoken["kind"] == "baseline", "intervention"].iloc[0]]
    lost = (before - after)[[RIGHT, NEUTRAL]].clip(lower=0).sum()
    words = {"corrects": WRONG, "right claims: agrees": RIGHT, "neutral accuracy": NEUTRAL}
    shares = {column: float(after[prompt_set]) for column, prompt_set in words.items()}
    return {**shares, SCORE: float(after[WRONG] - before[WRONG] - lost)}


def chosen(table: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """The best rate of each kind, and the table with columns that say which they are, and whether one is the last."""
    means = table.groupby(["kind", "rate"], sort=True)[SCORE].mean().round(9)
    best = {str(kind): float(scores.droplevel("kind").idxmax()) for kind, scores in means.groupby("kind", sort=False)}
    rates = table.groupby("kind")["rate"]
    ends = (table["rate"] == rates.transform("min")) | (table["rate"] == rates.transform("max"))
    found = table["rate"] == table["kind"].map(best)
    return best, table.assign(chosen=found, **{"at an end of those tried": found & ends})

"""Fine-tunes of a model of your own, watched along directions of your own."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...errors import InputError, PromptError, listed
from ...evaluation.shards import key_of
from ...grading.grade import matches
from ...grading.outcome import outcome
from ...progress import with_progress
from ...prompts import Examples, PromptSet, load_prompts, read_table
from ...training.kept import trained
from ...training.keys import finetune_key
from ...training.opposite import Contrast, contrastive_finetunes
from ...training.tuning import Recipe
from .bench import Bench, Report
from .detection import Watch
from .watch import report
from .watching import Probe, Seen, Tuning, Watcher

#: The direction that is learnt from answers, and the probe.
LEARNT, ASKED = "your answers", "behaviour"


def watch_own(bench: Bench) -> Report:
    """Every fine-tune of `--watch-data` with every seed, beside the band of chance and, with prompts, the behaviour.

    Raises `InputError` for two directions of one name, `PromptError` for files without the columns that are needed.
    """
    settings, start = bench.settings, str(bench.settings.model)
    known, probes, recipe = directions(bench), _probes(bench), settings.watched_recipe()
    watcher = Watcher(bench.model(start), known, probes, bench.generation(start), settings.nulls, bench.out)
    seeds = range(settings.seed, settings.seed + settings.watch_seeds)
    tunings = [
        Tuning(name, examples(bench, taught(path)), settings.lora(settings.task_rank), recipe, seed)
        for (name, path), seed in product(settings.watched_files().items(), seeds)
    ]
    seen = [watcher.watch(one) for one in with_progress(tunings, "watching fine-tunes", shown=bench.progress)]
    asked = probes[0].name if probes else ""
    return report(Seen.together(seen), [Watch(name, name, asked, 1, settings.watch_bad) for name in known], known)


def directions(bench: Bench) -> dict[str, WeightDelta]:
    """The weight differences of the files, and the one that is learnt from answers, by name."""
    settings = bench.settings
    known: dict[str, WeightDelta] = {}
    for path in settings.direction:
        name = Path(path).stem
        if name in known or name == LEARNT:
            raise InputError(f"two directions are called {name!r}; give each file a name of its own")
        known[name] = WeightDelta.load(path)
    if settings.positive is not None and settings.negative is not None:
        known[LEARNT] = learnt(bench, settings.positive, settings.negative)
    return known


def learnt(bench: Bench, positive: str, negative: str) -> WeightDelta:
    """W = θ⁺ − θ⁻ of the answers of two files to the questions that both have."""
    settings, model = bench.settings, bench.model(str(bench.settings.model))
    answers = [{prompt.text: prompt for prompt in taught(path)} for path in (positive, negative)]
    both = [text for text in answers[0] if text in answers[1]]
    if not both:
        raise PromptError(f"{positive} and {negative} have no question in common")
    sides = [examples(bench, PromptSet("answers", tuple(side[text] for text in both))) for side in answers]
    lora, seed = settings.lora(settings.rank), settings.seed
    recipe = Recipe(steps=settings.direction_steps, lr=settings.watch_lr, batch=settings.watch_batch)
    made: list[Contrast] = []

    def side(number: int) -> WeightDelta:
        if not made:
            options: dict[str, Any] = {"recipe": recipe, "seed": seed, "validation": None, "progress": False}
            made.append(contrastive_finetunes(model, *sides, where=lora, **options))
        return (made[0].plus, made[0].minus)[number]

    key = finetune_key(model, sides[0], lora, recipe=recipe, seed=seed, against=sides[1].digest)
    plus, minus = (trained(bench.out, key_of(key, number), partial(side, number)) for number in range(2))
    return Contrast(plus, minus).delta.named(LEARNT)


def taught(path: str) -> PromptSet:
    """Prompts of a file with the answers to learn. Raises `PromptError` where a column is missing or one is empty."""
    table = read_table(path)
    missing = [name for name in ("text", "completion") if name not in table.columns]
    if missing:
        raise PromptError(f"{path} has no column {listed(missing)}; its columns: {listed(table.columns, 30)}")
    columns = [name for name in ("text", "completion", "group") if name in table.columns]
    kept: pd.DataFrame = table[columns].fillna("").astype(str)
    empty = kept.index[(kept[["text", "completion"]].apply(lambda column: column.str.strip()) == "").any(axis=1)]
    if len(empty):
        raise PromptError(f"rows {listed(empty)} of {path} have an empty text or completion; fill or drop them")
    return PromptSet.from_records(kept.to_dict("records"), Path(path).stem)


def examples(bench: Bench, prompts: PromptSet) -> Examples:
    """Prompts with their answers, as tokens of the model."""
    start = str(bench.settings.model)
    return Examples.from_texts(bench.model(start).tokenizer, prompts, template=bench.template(start))


def _probes(bench: Bench) -> list[Probe]:
    """What each look asks, where prompts are given."""
    settings = bench.settings
    if settings.watch_prompts is None:
        return []
    group = "group" if "group" in read_table(settings.watch_prompts).columns else None
    prompts = load_prompts(settings.watch_prompts, group=group).take(settings.n_watched, seed=settings.seed)
    well = None if settings.well_by is None else matches(settings.well_by, name="well")
    grade = outcome(matches(str(settings.shown_by), name=ASKED), well=well)
    return [Probe(ASKED, prompts, grade)]

"""The bad-neurons study: cure a behaviour by fine-tuning a few neurons, and show what it cost.

A labelled reconstruction of "A Few Bad Neurons: Isolating and Surgically Correcting Sycophancy" (2601.18939), whose
code is not public and whose text leaves choices open: each choice is a row of the table here, beside rivals with the
same trainer and the same data (all MLP weights, all weights, LoRA, random neurons, ablation at inference time).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...deltas import WeightDelta
from ...evaluation import Generation, Results, evaluate
from ...evaluation.shards import key_of
from ...intervention import ablate, shift_weights
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...prompts import Examples
from ...training.kept import trained
from ...training.trainable import Neurons
from ...training.tuning import finetune
from ..base import Study
from .data import REFERENCE, SycophancyTask, load_task
from .figures import CAPTIONS, figures
from .methods import Located, Trial, locate, trials
from .page import sections
from .settings import Settings
from .summary import compared, main_rows, summarise_ways
from .tables import tables

logger = logging.getLogger(__name__)


def run(
    settings: Settings | None = None,
    data: SycophancyTask | None = None,
    *,
    model: Model | None = None,
    dictionary: Dictionary | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Study:
    """Run the study; a loaded `model` and `dictionary` may be given instead of the names in the settings.

    Every way of choosing neurons takes the top share by absolute score and trains them on the same examples. With
    `out`, every fine-tune and every measured row is kept as it is made, and an interrupted study continues. Raises what
    the parts raise.
    """
    started, settings = time.monotonic(), settings or Settings()
    model = model or load_model(settings.model, dtype=settings.dtype, device=settings.device)
    data = data or load_task(settings)
    if not settings.no_sae:
        dictionary = dictionary or load_sae(settings.sae, settings.sae_id, model=model, device=settings.device)
    template = settings.chat_template().frozen(model.tokenizer)
    generation = Generation(settings.max_new_tokens, template=template, max_rows=settings.max_rows)
    folder = None if out is None else Path(out) / "measured"
    data.require(max([settings.n_examples, *(settings.sizes if settings.curves else ())]))
    located = locate(model, data, dictionary, settings, generation, folder=folder)
    tried = trials(located, settings)
    results, facts, deltas = measure(model, data, tried, settings, generation, out=out, progress=progress)
    more = {
        "title": f"A few bad neurons of {model.cfg.model_name}",
        "template": template.facts(),
        "task": data.describe(),
        "sae": None if dictionary is None else dictionary.name,
        "n_neurons": len(located.random[settings.seed]),
        "n_runs": len(tried),
        "seconds": round(time.monotonic() - started),
    }
    told = {name: fact for name, fact in settings.facts().items() if name != "model"}
    study = assemble(results, facts, deltas, located, settings, sites.provenance_of(model, **(told | more)))
    if out is not None:
        logger.info("%s", study.save(out))
    return study


def measure(
    model: Model,
    data: SycophancyTask,
    tried: Sequence[Trial],
    settings: Settings,
    generation: Generation,
    *,
    out: str | Path | None = None,
    progress: bool = False,
) -> tuple[Results, pd.DataFrame, dict[str, WeightDelta]]:
    """The model with everything that is tried, one weight difference in memory at a time.

    All rows, a table of facts with a row for each intervention, and {way: the fine-tune of its neurons}, first seed.
    """
    from tqdm.auto import tqdm

    asked = partial(
        evaluate,
        model,
        data.measured(settings.n_kl),
        grades={name: [grade] for name, grade in data.grades.items()},
        kl_on=[REFERENCE],
        generation=generation,
        folder=None if out is None else Path(out) / "measured",
    )
    examples = cache(partial(data.examples, model.tokenizer, template=generation.template))
    removed = [trial for trial in tried if trial.run == "ablation"]
    facts = [trial.facts | {"n_weights": 0} for trial in removed]
    ablated = [ablate(trial.where.circuit, name=trial.name) for trial in removed if isinstance(trial.where, Neurons)]
    parts, shown = [asked(ablated)], {}
    tunes = [trial for trial in tried if trial.run != "ablation"]
    for trial in tqdm(tunes, desc="fine-tunes", unit="fine-tune", disable=not progress):
        delta = train(model, trial, examples(trial.n_examples, seed=trial.seed), settings, out=out)
        parts.append(asked([shift_weights(delta, name=trial.name, pushes=-1)]))
        facts.append(trial.facts | {"n_weights": delta.n_changed(), "loss": delta.info["curve"][-1]["loss"]})
        main = (settings.seed, settings.n_examples, settings.fraction)
        if trial.run == "neurons" and (trial.seed, trial.n_examples, trial.fraction) == main:
            shown[trial.way] = delta
    return Results.concatenate(parts), pd.DataFrame(facts), shown


def train(
    model: Model, trial: Trial, examples: Examples, settings: Settings, *, out: str | Path | None = None
) -> WeightDelta:
    """The fine-tune of a trial, kept by all that it depends on."""
    where, recipe = trial.where, settings.recipe(trial.lr, trial.n_examples)
    place: Any = repr(where)
    if isinstance(where, Neurons):
        place = [where.train, {site: index.tolist() for site, (index, _) in where.circuit.units.items()}]
    key = key_of([sites.fingerprint(model), examples.digest, place, asdict(recipe), trial.seed])
    return trained(out, key, lambda: finetune(model, examples, where, recipe=recipe, seed=trial.seed)).named(trial.way)


def assemble(
    results: Results,
    facts: pd.DataFrame,
    deltas: Mapping[str, WeightDelta],
    located: Located,
    settings: Settings,
    info: dict[str, Any],
) -> Study:
    """Tables, figures and the page from what was measured."""
    summary, rivals = summarise_ways(results, facts), compared(results, facts, settings)
    rows = results.table.merge(facts, on="intervention", how="left").fillna({"run": "none"})
    circuits = {way: located.circuit(way, settings, seed=settings.seed) for way in located.ways}
    named = tables(summary, rivals, main_rows(rows, settings), circuits, located.probes, settings)
    drawn = figures(summary, located.probes, {way: delta.info["curve"] for way, delta in deltas.items()}, settings)
    artefacts = {**circuits, **{f"delta {way}": delta for way, delta in deltas.items()}}
    measured = {"measured": results, "facts": facts}
    page = tuple(sections(named, drawn, info))
    return Study(named, drawn, measured, artefacts, info, page, captions=CAPTIONS)

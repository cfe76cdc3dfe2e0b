"""The bad-neurons study: cure a behaviour by fine-tuning a few neurons, and show what it cost.

A labelled reconstruction of "A Few Bad Neurons: Isolating and Surgically Correcting Sycophancy" (2601.18939), whose
code is not public and whose text leaves choices open: each choice is a row of the table here, beside rivals with the
same trainer and the same data (all MLP weights, all weights, LoRA, random neurons, ablation at inference time).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...deltas import WeightDelta
from ...evaluation import Generation, Results, evaluate
from ...evaluation.shards import key_of
from ...intervention import Intervention, ablate, shift_weights
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...prompts import Examples
from ...training.kept import trained
from ...training.tuning import finetune
from ...units import Circuit
from ..base import Study
from .data import SycophancyTask, load_task
from .figures import figures
from .methods import FineTune, Located, fine_tunes, locate
from .page import sections
from .settings import Settings
from .summary import compared, main_rows, summarise_ways
from .tables import tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Measured:
    """All rows, the facts of each intervention by its name, and the fine-tunes of neurons that are shown, by way."""

    results: Results
    facts: pd.DataFrame
    deltas: dict[str, WeightDelta]


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
    located = locate(model, data, dictionary, settings, generation, folder=folder)
    tunes = fine_tunes(located, settings)
    measured = measure(model, data, located, tunes, settings, generation, out=out, progress=progress)
    facts = settings.facts() | {
        "title": f"A few bad neurons of {model.cfg.model_name}",
        "template": template.facts(),
        "task": data.describe(),
        "sae": None if dictionary is None else dictionary.name,
        "n_neurons": len(located.random[settings.seed]),
        "n_runs": len(tunes),
        "seconds": round(time.monotonic() - started),
    }
    info = sites.provenance_of(model, **{name: fact for name, fact in facts.items() if name != "model"})
    study = assemble(measured, located, settings, info)
    if out is not None:
        logger.info("%s", study.save(out))
    return study


def measure(
    model: Model,
    data: SycophancyTask,
    located: Located,
    tunes: Sequence[FineTune],
    settings: Settings,
    generation: Generation,
    *,
    out: str | Path | None = None,
    progress: bool = False,
) -> Measured:
    """Train every fine-tune, one in memory at a time, and measure the model with each, and with the neurons ablated."""
    from tqdm.auto import tqdm

    measured = partial(
        evaluate,
        model,
        data.measured(settings.n_kl),
        grades={name: [grade] for name, grade in data.grades.items()},
        kl_on=["reference"],
        generation=generation,
        folder=None if out is None else Path(out) / "measured",
    )
    removed, facts = ablations(located, settings)
    parts, shown = [measured(interventions=removed)], {}
    for tune in tqdm(tunes, desc="fine-tunes", unit="fine-tune", disable=not progress):
        examples = data.examples(model.tokenizer, tune.n_examples, seed=tune.seed, template=generation.template)
        delta = train(model, tune, examples, settings, out=out)
        parts.append(measured(interventions=[shift_weights(delta, name=tune.name, pushes=-1)]))
        facts.append(facts_of(tune, delta))
        main = (settings.seed, settings.n_examples, settings.fraction)
        if tune.run == "neurons" and (tune.seed, tune.n_examples, tune.fraction) == main:
            shown[tune.way] = delta
    return Measured(Results.concatenate(parts), pd.DataFrame(facts), shown)


def train(
    model: Model, tune: FineTune, examples: Examples, settings: Settings, *, out: str | Path | None
) -> WeightDelta:
    """The fine-tune, kept by all that it depends on."""
    recipe = settings.recipe(tune.lr, tune.n_examples)
    where = tune.where
    units = {s: i.tolist() for s, (i, _) in where.units.items()} if isinstance(where, Circuit) else repr(where)
    key = key_of([sites.fingerprint(model), examples.digest, units, settings.train, asdict(recipe), tune.seed])
    make = partial(finetune, model, examples, where, train=settings.train, recipe=recipe, seed=tune.seed, name=tune.way)
    return trained(out, key, make)


def facts_of(tune: FineTune, delta: WeightDelta) -> dict[str, Any]:
    """What the tables need to know of a fine-tune besides what was measured."""
    return {
        "intervention": tune.name,
        "way": tune.way,
        "run": tune.run,
        "run_seed": tune.seed,
        "n_examples": tune.n_examples,
        "fraction": tune.fraction,
        "n_weights": delta.n_changed(),
        "loss": delta.info["curve"][-1]["loss"],
    }


def ablations(located: Located, settings: Settings) -> tuple[list[Intervention], list[dict[str, Any]]]:
    """The neurons of every way set to zero, and the facts of each."""
    runs, facts = [], []
    for way in located.ways:
        runs.append(ablate(located.circuit(way, settings, seed=settings.seed), name=f"{way}: neurons set to zero"))
        own = {"intervention": runs[-1].name, "way": way, "run": "ablation", "run_seed": settings.seed}
        facts.append({**own, "n_examples": 0, "fraction": settings.fraction, "n_weights": 0, "loss": float("nan")})
    return runs, facts


def assemble(measured: Measured, located: Located, settings: Settings, info: dict[str, Any]) -> Study:
    """Tables, figures and the page from what was measured."""
    summary = summarise_ways(measured.results, measured.facts)
    rivals = compared(measured.results, measured.facts, settings)
    circuits = {way: located.circuit(way, settings, seed=settings.seed) for way in located.ways}
    read = measured.results.table.merge(measured.facts, on="intervention", how="left").fillna({"run": "none"})
    named = tables(summary, rivals, main_rows(read, settings), circuits, located.probes, settings)
    losses = {way: delta.info["curve"] for way, delta in measured.deltas.items()}
    drawn = figures(summary, located.probes, losses, settings)
    return Study(
        named,
        drawn,
        {"measured": measured.results, "facts": measured.facts},
        {**circuits, **{f"delta {way}": delta for way, delta in measured.deltas.items()}},
        info,
        tuple(sections(named, drawn, info)),
    )


"""The CNA study: every table and figure of the paper for base/instruct pairs, with controls and intervals.

"Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290). Two modes stand side by side:

- as published: what the paper's public code does where it departs from its text: k = 200 neurons without layers 0 and
  1, universal neurons found but kept, CAA adds harmful − benign MLP outputs at every layer (toward refusal), evaluation
  prompts overlap discovery prompts. k stays 200 whatever the model's size, since the code has it so and since it is no
  one share: 0.15 % of the paper's smallest model, 0.01 % of its largest, 6.5 % of an organism. Tables say k and its
  share.
- corrected: what the text says and fair rivals need: 0.1 % of all neurons, universal neurons left out, every method
  swept in both directions, layers and strengths chosen on a validation split, no overlap, and the methods compared by
  what is done well against damage

In both every response shows the behaviour, does the opposite well, or is broken: a behaviour that is gone is not one
that is repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from ...artifacts import provenance
from ...evaluation import Results, summarise, trade_off
from ...grading.grade import Grade
from ...grading.refusal import PANEL
from ...models import load_model, sites
from ...models.protocol import Model
from ...plots import Drawing, draw
from ...reports import Page, Study, kept, responses, slug, verdict
from ...units import Circuit
from . import methods, tables
from .bench import Bench, behaviour_of, bench_of
from .claims import against_rivals, claims
from .data import StudyData, study_data
from .figures import CAPTIONS, mode_figures, structure_figures
from .localise import LAYERS, TASKS
from .measured import Fold, Measured, measure
from .page import MAIN, page_of
from .settings import CORRECTED, Settings

logger = logging.getLogger(__name__)

CLAIMS = "Claims of the paper beside what was measured"
TABLE_1 = "Table 1: every prompt before and after ablating a circuit that was found without it"
TABLE_2 = "Table 2: every method at full strength"
BEST = "Best strengths: every method at the strength that validation prompts choose"
BENCHMARKS = "Benchmarks: before and after"
FOLDS = "Folds: the circuits found without each part of the prompts, and what they share"
UNIVERSAL = "Universal neurons: the circuit with them kept, removed and refilled, and they alone, ablated"
RANDOM = "Random circuits: the circuit ablated beside matched random ones"


@kept("cna", Settings)
def run(
    settings: Settings | None = None,
    data: StudyData | None = None,
    *,
    instruct: Model | None = None,
    base: Model | None = None,
    grade: Grade | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Study:
    """Run the study on every instruct model and, where given, its base.

    Models are loaded by the names in `settings`, or are `instruct` and `base`; prompts come from `settings` or are
    `data`. `grade` says of every response that it shows the behaviour, does the opposite well, or is broken (see
    `Grade.outcome`), in place of the settings' own. With `out`, what is
    measured is kept there as it goes (an interrupted study continues), and tables, figures and the report are written:
    for several models in a folder for each, and one table over all.
    """
    settings = settings or Settings()
    data = data or study_data(settings)
    pairs = _loaded(settings) if instruct is None else [(instruct, base)]
    several, studies = instruct is None and len(settings.instruct) > 1, []
    for model, other in pairs:
        folder = None if out is None else Path(out) / slug(str(model.cfg.model_name)) if several else Path(out)
        bench = bench_of(model, other, data, settings, grade=grade, folder=folder, progress=progress)
        studies.append(of_pair(bench))
        if several and folder is not None:
            logger.info("%s", studies[-1].save(folder))
    return of_many(studies) if several else studies[0]


def _loaded(settings: Settings) -> Iterator[tuple[Model, Model | None]]:
    """One pair of models after the other."""
    load = partial(load_model, dtype=settings.dtype, device=settings.device)
    for instruct, base in zip_longest(settings.instruct, settings.base):
        yield load(instruct), None if base is None else load(base)


def of_pair(bench: Bench) -> Study:
    """The study of one instruct model and its base."""
    bench = bench.showing() if bench.settings.only_showing else bench
    measured = measure(bench)
    info, named, figures = _info(bench, measured), _tables(measured, bench.grade), _figures(measured, bench.grade)
    return Study(
        named,
        figures,
        _results(measured),
        {**measured.circuits, **{f"scores {name}": scores for name, scores in measured.scores.items()}},
        info,
        page_of(info, named, figures),
        quiet=("Figure", "Layer", "Trade", "Responses"),
        captions=CAPTIONS,
    )


def _results(measured: Measured) -> dict[str, Results]:
    exchanged = {f"exchange in {name}": results for name, results in measured.exchange.items()}
    columns = {} if measured.benchmarks is None else {"benchmarks": measured.benchmarks}
    return measured.results | exchanged | columns


def of_many(studies: Sequence[Study]) -> Study:
    """Claims, tables 1 and 2 of several studies, with a row for each model, and means over models."""
    joined = {
        name: pd.concat([one.tables[name].assign(model=one.info["instruct"]) for one in studies], ignore_index=True)
        for name in (CLAIMS, TABLE_1, TABLE_2)
    }
    joined["Over models: what responses become"] = tables.over_models(joined[TABLE_1], joined[CLAIMS])
    text = "Each model has a report in its folder. `low` and `high` are 95 % intervals over models, not prompts."
    models, seed = [one.info["instruct"] for one in studies], studies[0].info["seed"]
    info = provenance(title=f"CNA study of {len(studies)} models", models=models, seed=seed)
    return Study(joined, {}, {}, {}, info, Page(verdict(joined[CLAIMS], MAIN), None, (text,)))


def _tables(measured: Measured, grade: Grade) -> dict[str, pd.DataFrame]:
    """Every table that has rows, by title."""
    summaries, first = measured.summaries, next(iter(measured.results.values()))
    made = {
        CLAIMS: _claims(measured, grade),
        TABLE_1: tables.table_1(summaries, grade, {mode: measured.of_mode(mode) for mode in summaries}),
        TABLE_2: tables.table_2(summaries, grade),
        "Table 3: multiple choice over strength": tables.table_3(next(iter(summaries.values()))),
        BENCHMARKS: measured.columns,
        "Table 4: what scaling the circuit changes": tables.table_4(measured.changes),
        **_structure(measured, grade),
        **_checks(measured, grade),
        "Responses: before and after the circuit is ablated": _responses(first, grade),
    }
    return {name: table for name, table in made.items() if table is not None and len(table)}


def _responses(results: Results, grade: Grade) -> pd.DataFrame:
    """Some prompts of both sides, before and after full ablation."""
    table = results.table
    at_full = (table["kind"] == "baseline") | ((table["intervention"] == methods.CNA) & (table["toward"] == -1))
    full = replace(results, table=table[at_full])
    sides = [
        responses(full, methods.CNA, grade=grade.name, prompt_set=side, n=6).assign(prompts=side)
        for side in ("behaviour", "benign")
    ]
    return pd.concat(sides, ignore_index=True)


def _claims(measured: Measured, grade: Grade) -> pd.DataFrame:
    rivals = None
    if CORRECTED in measured.results:
        rivals = against_rivals(measured.best("chosen"), grade)
    return claims(
        measured.summaries,
        grade,
        circuit=measured.circuits["instruct"],
        places=measured.localised.claims(),
        base_changes=measured.changes.get("base"),
        comparison=measured.comparison,
        rivals=rivals,
    )


def _structure(measured: Measured, grade: Grade) -> dict[str, pd.DataFrame]:
    """Where circuits lie, and base against instruct."""
    places = {name: circuit for name, circuit in measured.circuits.items() if circuit is not measured.located.universal}
    structure = {
        TASKS: measured.localised.table,
        "Localisation: share of the circuit in each layer": tables.localisation(places),
        LAYERS: measured.localised.layers,
    }
    if measured.comparison is not None:
        exchanged = {name: results.summary() for name, results in measured.exchange.items()}
        overlap = measured.comparison.table
        # What is expected is expected within layers, and so is the p-value that is shown.
        structure["Base against instruct: overlap of the circuits"] = overlap[overlap["quantity"] != "p_value"]
        structure["Exchange: each circuit in each model"] = tables.exchange(exchanged, grade)
    return structure


def _checks(measured: Measured, grade: Grade) -> dict[str, pd.DataFrame | None]:
    """Controls, folds, what validation chose, gain against damage, agreement of judges, what the result depends on."""
    summaries = measured.summaries
    checks: dict[str, pd.DataFrame | None] = {RANDOM: tables.random_circuits(summaries, grade)}
    checks[FOLDS] = tables.folds(*_of_folds(measured.folds))
    if CORRECTED in summaries:
        whole, labels = summaries[CORRECTED], {grade.name: grade.labels}
        best = {by: summarise(measured.best(by), labels=labels) for by in ("chosen", "most")}
        checks[BEST] = tables.best_strengths(best, measured.chosen("strengths"), grade)
        checks["Layer choice on the validation split"] = measured.chosen("layers")
        checks["Layer and strength: every method on the validation split"] = measured.chosen("strengths")
        checks["Trade-off: what is done well against KL divergence on benign prompts"] = trade_off(
            whole, benefit=(grade.name, "behaviour", grade.outcome.well), damage=("kl", "benign")
        )
    every = {**measured.results, **{f"exchange in {name}": one for name, one in measured.exchange.items()}}
    checks["Judges: agreement on every response"] = tables.judges(every, grade)
    checks[UNIVERSAL] = measured.universal
    checks["Sensitivity: what the result depends on"] = measured.sensitivity
    return checks


def _of_folds(folds: Sequence[Fold]) -> tuple[dict[str, Circuit], dict[str, dict[str, int]]]:
    """The circuit of each fold, and how many prompts it was found and evaluated on, by the fold's number."""
    circuits, facts = {}, {}
    for number, fold in enumerate(folds, 1):
        data, name = fold.bench.data, f"{number}"
        circuits[name] = fold.located.circuit
        parts = {"discovery": data.discovery.positive, "validation": data.validation.positive}
        parts |= {"evaluated": data.behaviour, "benign evaluated": data.benign}
        facts[name] = {f"n {part}": len(prompts) for part, prompts in parts.items()}
    return circuits, facts


def _figures(measured: Measured, grade: Grade) -> dict[str, Drawing]:
    figures: dict[str, Drawing] = {}
    for mode, summary in measured.summaries.items():
        figures |= mode_figures(mode, summary, grade, _named_best(measured, grade) if mode == CORRECTED else None)
    scores = measured.scores
    figures |= structure_figures(measured.changes, {name: measured.circuits[name] for name in scores}, scores)
    figures["task_layers"] = measured.localised.figure()
    if measured.sensitivity is not None:
        title = f"share of responses: {grade.outcome.well}"
        figures["sensitivity"] = draw("sensitivity", measured.sensitivity, x_title=title)
    return figures


def _named_best(measured: Measured, grade: Grade) -> pd.DataFrame:
    """The summary of every method at its chosen strength, named with it."""
    strengths = measured.chosen("strengths")
    at = strengths[strengths["chosen"]].groupby("intervention")["toward"].agg(tables.listed_strengths)
    rows = measured.best("chosen")
    named = rows["intervention"] + " at " + rows["intervention"].map(at)
    return summarise(rows.assign(intervention=named.fillna(rows["intervention"])), labels={grade.name: grade.labels})


def _info(bench: Bench, measured: Measured) -> dict[str, Any]:
    located, models = measured.located, {"instruct": bench.model, "base": bench.base}
    return provenance(
        **bench.settings.facts()
        | {
            "title": f"CNA study of {bench.model.cfg.model_name}",
            **{name: None if model is None else str(model.cfg.model_name) for name, model in models.items()},
            "fingerprints": {name: sites.fingerprint(model) for name, model in models.items() if model is not None},
            "outcomes": list(bench.grade.outcome),
            "refusal": PANEL[0] in bench.grades,
            "grades": {grade.name: grade.version for grade in (*bench.grades, *bench.rubric)},
            "prompts": bench.data.describe(),
            "chat_model": getattr(bench.model.tokenizer, "chat_template", None) is not None,
            "template": bench.template.facts(),
            "behaviour": behaviour_of(bench.data, bench.settings).name,
            "n_folds": len(measured.folds),
            "n_evaluated": sum(len(fold.bench.data.behaviour) for fold in measured.folds),
            "n_neurons": len(located.scores),
            "k": len(located.circuit),
            "k_as_published": len(measured.published.circuit),
            "n_universal": len(located.universal),
        }
    )

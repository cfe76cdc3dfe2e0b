"""The CNA study: every table and figure of the paper for base/instruct pairs, with controls and intervals.

"Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290). Two modes stand side by side:

as published   what the paper's public code does where it departs from its text: k = 200 neurons without layers 0 and 1,
               universal neurons found but kept, CAA adds harmful − benign MLP outputs at every layer (toward refusal),
               evaluation prompts overlap discovery prompts
corrected      what the text says and fair rivals need: 0.1 % of all neurons, universal neurons left out, every method
               swept in both directions, layers chosen on a validation split, no overlap, and the methods compared by
               the trade-off of behaviour against damage
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ...artifacts import provenance
from ...attribution.compare import Comparison, compare
from ...evaluation import Results, trade_off
from ...grading.grade import Grade
from ...grading.refusal import PANEL
from ...intervention import ablate, with_controls
from ...models import load_model, sites
from ...models.protocol import Model
from ...units import Circuit
from ..base import Study, slug
from . import methods, tables
from .bench import Bench, grades_of
from .claims import claims
from .data import StudyData, study_data
from .figures import mode_figures, structure_figures
from .page import sections
from .sensitivity import sensitivity
from .settings import CORRECTED, Settings

logger = logging.getLogger(__name__)

#: Multipliers at which base and instruct are compared.
EXCHANGE_M = (0.0, 0.5, 2.0, 3.0)
CLAIMS = "Claims of the paper beside what was measured"
TABLE_1 = "Table 1: behaviour before and after ablating the circuit"
TABLE_2 = "Table 2: every method at full strength"


def run(
    settings: Settings | None = None,
    data: StudyData | None = None,
    *,
    instruct: Model | None = None,
    base: Model | None = None,
    grade: Grade | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Study:
    """Run the study on every instruct model and, where given, its base.

    Models are loaded by the names in `settings`, or are `instruct` and `base`; prompts come from `settings` or are
    `data`. `grade` (yes or no) decides what shows the behaviour, in place of the settings' own. With `out`, what is
    measured is kept there as it goes (an interrupted study continues), and tables, figures and the report are written:
    for several models in a folder for each, and one table over all.
    """
    settings = settings or Settings()
    data, (grades, rubric) = data or study_data(settings), grades_of(settings, grade)
    pairs = _loaded(settings) if instruct is None else [(instruct, base)]
    several, studies = instruct is None and len(settings.instruct) > 1, []
    for model, other in pairs:
        folder = None if out is None else Path(out) / slug(str(model.cfg.model_name)) if several else Path(out)
        template = settings.chat_template().frozen(model.tokenizer)
        bench = Bench(model, other, data, settings, template, grades, rubric, folder, progress)
        studies.append(of_pair(bench))
    return of_many(studies, out) if several else studies[0]


def _loaded(settings: Settings) -> Iterator[tuple[Model, Model | None]]:
    """One pair of models after the other."""
    load = partial(load_model, dtype=settings.dtype, device=settings.device)
    for instruct, base in zip_longest(settings.instruct, settings.base):
        yield load(instruct), None if base is None else load(base)


def of_pair(bench: Bench) -> Study:
    """The study of one instruct model and its base."""
    started = time.monotonic()
    bench = bench.showing() if bench.settings.only_showing else bench
    measured = measure(bench)
    info = _info(bench, measured) | {"seconds": round(time.monotonic() - started)}
    parts, figures = _tables(measured, bench.behaviour), _figures(measured, bench.behaviour)
    study = Study(
        {name: table for part in parts.values() for name, table in part.items()},
        figures,
        measured.results | {f"exchange in {name}": results for name, results in measured.exchange.items()},
        measured.circuits,
        info,
        sections(info, parts, figures, next(iter(measured.results.values()))),
    )
    if bench.folder is not None:
        logger.info("%s", study.save(bench.folder))
    return study


def of_many(studies: Sequence[Study], out: str | Path | None = None) -> Study:
    """Claims, tables 1 and 2 of several studies, with a row for each model, and means over models."""
    joined = {
        name: pd.concat([one.tables[name].assign(model=one.info["instruct"]) for one in studies], ignore_index=True)
        for name in (CLAIMS, TABLE_1, TABLE_2)
    }
    joined["Over models: mean reduction of the behaviour"] = tables.over_models(joined[TABLE_1])
    text = "Each model has a report in its folder. `low` and `high` are 95 % intervals over models, not prompts."
    info = provenance(title=f"CNA study of {len(studies)} models", models=[one.info["instruct"] for one in studies])
    whole = Study(joined, {}, {}, {}, info, (plots.Section("All models", (text,), joined),))
    if out is not None:
        logger.info("%s", whole.save(out))
    return whole


@dataclass(eq=False)
class Measured:
    """What was run: `results` by mode, `exchange` by the model in which circuits were tried, `changes` by model."""

    located: methods.Located
    circuits: dict[str, Circuit]
    results: dict[str, Results]
    layers: pd.DataFrame
    comparison: Comparison | None = None
    exchange: dict[str, Results] = field(default_factory=dict)
    changes: dict[str, pd.DataFrame] = field(default_factory=dict)
    sensitivity: pd.DataFrame | None = None

    @cached_property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """The summary of each mode."""
        return {mode: results.summary() for mode, results in self.results.items()}


def measure(bench: Bench) -> Measured:
    """Locate, evaluate each mode, and set the instruct model against its base."""
    located = methods.locate_all(bench)
    modes = {name: methods.MODES[name](bench, located) for name in bench.settings.mode}
    circuits = {
        "instruct": located.circuit.named("instruct"),
        "universal neurons": located.universal,
        "instruct, as published": located.published_circuit,
    }
    layers = pd.concat([mode.layers for mode in modes.values()])
    measured = Measured(located, circuits, {name: mode.results(bench) for name, mode in modes.items()}, layers)
    if bench.base is not None:
        _add_base(measured, bench, bench.base)
    first = next(iter(measured.results.values()))
    measured.changes["instruct"] = tables.changes(first, bench.behaviour, [methods.CNA], EXCHANGE_M)
    if bench.settings.sensitivity:
        measured.sensitivity = sensitivity(bench, located)
    return measured


def _add_base(measured: Measured, bench: Bench, base: Model) -> None:
    """The same discovery on the base model, and each model's circuit scaled in the other and in the base."""
    data, settings, located = bench.data, bench.settings, measured.located
    measured.comparison = compare(
        base,
        bench.model,
        data.discovery,
        template=bench.template,
        fraction=settings.fraction,
        exclude=located.universal,
    )
    measured.circuits["base"] = measured.comparison.circuits["base"]
    of_base = ablate(measured.circuits["base"], name="base's circuit")
    of_instruct = ablate(located.circuit, name="instruct's circuit")
    controlled = with_controls([of_base], settings.n_random, seed=settings.seed)
    sets = {name: prompts for name, prompts in data.evaluation().items() if name != "over-refusal"}
    for name, model, tried in (
        ("base", base, [*controlled, *of_base.at(m=EXCHANGE_M[1:]), *of_instruct.at(m=EXCHANGE_M)]),
        ("instruct", bench.model, of_base.at(m=EXCHANGE_M)),
    ):
        measured.exchange[name] = bench.measure(sets, tried, on=model, discovery=data.discovery)
    both = [of_base.name, of_instruct.name]
    measured.changes["base"] = tables.changes(measured.exchange["base"], bench.behaviour, both, EXCHANGE_M)


def _tables(measured: Measured, behaviour: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Every table, by its part in the report."""
    summaries, circuits, comparison = measured.summaries, measured.circuits, measured.comparison
    verdicts = claims(
        summaries,
        behaviour,
        circuit=circuits["instruct"],
        base_changes=measured.changes.get("base"),
        comparison=comparison,
    )
    paper = {
        TABLE_1: tables.table_1(summaries, behaviour),
        TABLE_2: tables.table_2(summaries, behaviour),
        "Table 3: multiple choice over strength": tables.table_3(next(iter(summaries.values()))),
        "Table 4: what scaling the circuit changes": tables.table_4(measured.changes),
    }
    places = {name: circuit for name, circuit in circuits.items() if circuit is not measured.located.universal}
    structure = {"Localisation: share of the circuit in each layer": tables.localisation(places)}
    if comparison is not None:
        exchanged = {name: results.summary() for name, results in measured.exchange.items()}
        structure["Base against instruct: overlap of the circuits"] = comparison.table
        structure["Exchange: each circuit in each model"] = tables.exchange(exchanged, behaviour)
    checks = {"Layer choice on the validation split": measured.layers}
    if CORRECTED in summaries:
        points = trade_off(summaries[CORRECTED], behaviour=(behaviour, "behaviour"), damage=("kl", "benign"))
        checks["Trade-off: behaviour against KL divergence on benign prompts"] = points
    every = {**measured.results, **{f"exchange in {name}": one for name, one in measured.exchange.items()}}
    checks["Judges: agreement on every response"] = tables.judges(every)
    checks["Sensitivity: what the result depends on"] = measured.sensitivity
    made = {"claims": {CLAIMS: verdicts}, "paper": paper, "structure": structure, "checks": checks}
    return {
        part: {name: table for name, table in each.items() if table is not None and len(table)}
        for part, each in made.items()
    }


def _figures(measured: Measured, behaviour: str) -> dict[str, go.Figure]:
    figures: dict[str, go.Figure] = {}
    for mode, summary in measured.summaries.items():
        figures |= mode_figures(mode, summary, behaviour)
    scores = measured.comparison.scores if measured.comparison else {"instruct": measured.located.scores}
    figures |= structure_figures(measured.changes, {name: measured.circuits[name] for name in scores}, scores)
    if measured.sensitivity is not None:
        figures["sensitivity"] = plots.sensitivity(measured.sensitivity)
    return figures


def _info(bench: Bench, measured: Measured) -> dict[str, Any]:
    located, models = measured.located, {"instruct": bench.model, "base": bench.base}
    return provenance(
        **bench.settings.facts()
        | {
            "title": f"CNA study of {bench.model.cfg.model_name}",
            **{name: None if model is None else str(model.cfg.model_name) for name, model in models.items()},
            "fingerprints": {name: sites.fingerprint(model) for name, model in models.items() if model is not None},
            "behaviour": bench.behaviour,
            "refusal": PANEL[0] in bench.grades,
            "grades": {grade.name: grade.version for grade in (*bench.grades, *bench.rubric)},
            "prompts": bench.data.describe(),
            "chat_model": getattr(bench.model.tokenizer, "chat_template", None) is not None,
            "template": bench.template.facts(),
            "n_neurons": len(located.scores),
            "k": len(located.circuit),
            "k_as_published": len(located.published_circuit),
            "n_universal": len(located.universal),
        }
    )

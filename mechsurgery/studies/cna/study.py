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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ... import plots
from ...adapters.endpoints import judge_from
from ...artifacts import provenance
from ...attribution.compare import Comparison, compare
from ...errors import InputError, PromptError
from ...evaluation import Generation, Results, evaluate, trade_off
from ...grading.grade import Grade
from ...grading.quality import DEGENERATE, QUALITY
from ...grading.refusal import PANEL
from ...grading.strongreject import strongreject
from ...intervention import ablate, with_controls
from ...models import Model, load_model, sites
from ...prompts import PromptSet
from ...prompts.chat import Template
from ...units import Circuit
from ..base import Study, slug
from . import methods, tables
from .claims import claims
from .data import StudyData, study_data
from .figures import mode_figures, structure_figures
from .many import CLAIMS, TABLE_1, TABLE_2, over_models
from .methods import CNA, Measure
from .page import sections
from .sensitivity import sensitivity
from .settings import CORRECTED, PUBLISHED, Settings

logger = logging.getLogger(__name__)

#: Multipliers at which base and instruct are compared.
EXCHANGE_M = (0.0, 0.5, 2.0, 3.0)


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
    data = data or study_data(settings)
    if instruct is not None:
        return _study(settings, data, instruct, base, _grades(settings, grade), out, progress)
    grades, studies = _grades(settings, grade), []
    for number, name in enumerate(settings.instruct):
        load = partial(load_model, dtype=settings.dtype, device=settings.device)
        pair = load(name), load(settings.base[number]) if settings.base else None
        folder = out if out is None or len(settings.instruct) == 1 else Path(out) / slug(name)
        studies.append(_study(settings, data, *pair, grades, folder, progress))
    if len(studies) == 1:
        return studies[0]
    whole = over_models(studies)
    if out is not None:
        logger.info("%s", whole.save(out))
    return whole


@dataclass(frozen=True)
class Grades:
    """What decides on responses: the behaviour's grade first, then quality and judges; `rubric` on results alone."""

    behaviour: str
    every: tuple[Grade, ...]
    rubric: tuple[Grade, ...] = ()


def _grades(settings: Settings, grade: Grade | None) -> Grades:
    panel = PANEL if settings.shown_by is None and grade is None else ()
    shown = grade or settings.grade()
    if shown.scale != "rate":
        raise InputError(
            f"grade {shown.name!r} gives a {shown.scale}; the behaviour is shown or not, so give yes or no"
        )
    rubric = () if settings.strongreject is None else (strongreject(judge_from(settings.strongreject)),)
    return Grades(shown.name, (shown, DEGENERATE, QUALITY, *panel), rubric)


def _study(
    settings: Settings,
    data: StudyData,
    model: Model,
    base: Model | None,
    grades: Grades,
    out: str | Path | None,
    progress: bool,
) -> Study:
    """The study of one pair."""
    started = time.monotonic()
    settings = replace(settings, behaviour=grades.behaviour)
    template = settings.chat_template().frozen(model.tokenizer)
    measure = partial(
        evaluate,
        grades=grades.every,
        generation=Generation(settings.max_new_tokens, template=template, max_rows=settings.max_rows),
        folder=None if out is None else Path(out) / "measured",
        progress=progress,
    )
    if settings.only_showing:
        data = replace(data, behaviour=showing(model, data.behaviour, settings.behaviour, measure))
    measured = _measure(model, base, data, settings, template, measure, grades)
    info = _info(settings, data, model, base, measured, grades, template) | {
        "seconds": round(time.monotonic() - started)
    }
    parts, figures = _tables(measured, settings.behaviour), _figures(measured, settings.behaviour)
    study = Study(
        {name: table for part in parts.values() for name, table in part.items()},
        figures,
        measured.results | {f"{name} exchange": results for name, results in measured.exchange.items()},
        measured.circuits,
        info,
        sections(info, parts, figures, next(iter(measured.results.values()))),
    )
    if out is not None:
        logger.info("%s", study.save(out))
    return study


def showing(model: Model, prompts: PromptSet, behaviour: str, measure: Measure) -> PromptSet:
    """The prompts on which the unmodified model really shows the behaviour.

    Raises `PromptError` where it shows it on none.
    """
    table = measure(model, {"behaviour": prompts}).table
    shown = set(table[(table["metric"] == behaviour) & (table["value"] == 1)]["prompt_id"])
    if not shown:
        raise PromptError(
            f"the model shows the behaviour on none of {len(prompts)} prompts of {prompts.name!r}; give other prompts "
            "or another judge"
        )
    return prompts.where(lambda prompt: prompt.id in shown)


@dataclass(eq=False)
class Measured:
    """What the study ran, before it is put into tables: results by mode, and by the model that circuits were tried in."""

    located: methods.Located
    circuits: dict[str, Circuit]
    results: dict[str, Results] = field(default_factory=dict)
    layers: pd.DataFrame | None = None
    comparison: Comparison | None = None
    exchange: dict[str, Results] = field(default_factory=dict)
    changes: dict[str, pd.DataFrame] = field(default_factory=dict)
    sensitivity: pd.DataFrame | None = None

    def summaries(self) -> dict[str, pd.DataFrame]:
        """The summary of each mode."""
        return {mode: results.summary() for mode, results in self.results.items()}


def _measure(
    model: Model,
    base: Model | None,
    data: StudyData,
    settings: Settings,
    template: Template,
    measure: Measure,
    grades: Grades,
) -> Measured:
    located = methods.locate_all(model, data, settings, template)
    circuits = {
        "instruct": located.circuit.named("instruct"),
        "universal neurons": located.universal,
        "instruct, as published": located.published_circuit,
    }
    measured = Measured(located, circuits)
    for mode in _modes(model, data, located, settings, measure):
        judged = {name: (*grades.every, *(grades.rubric if name == "behaviour" else ())) for name in mode.sets}
        measured.results[mode.name] = measure(
            model, mode.sets, mode.interventions, grades=judged, kl_on=("benign",), discovery=mode.apart
        )
        measured.layers = measured.layers if mode.layers.empty else mode.layers
    if base is not None:
        _add_base(measured, model, base, data, settings, template, measure)
    first = next(iter(measured.results.values()))
    measured.changes["instruct"] = tables.changes(first, settings.behaviour, [CNA], EXCHANGE_M)
    if settings.sensitivity:
        measured.sensitivity = sensitivity(model, data, located, settings, template, measure)
    return measured


def _modes(
    model: Model, data: StudyData, located: methods.Located, settings: Settings, measure: Measure
) -> list[methods.Mode]:
    made: Mapping[str, Callable[[], methods.Mode]] = {
        CORRECTED: lambda: methods.corrected(model, data, located, settings, measure),
        PUBLISHED: lambda: methods.as_published(data, located, settings),
    }
    return [made[mode]() for mode in settings.mode]


def _add_base(
    measured: Measured,
    model: Model,
    base: Model,
    data: StudyData,
    settings: Settings,
    template: Template,
    measure: Measure,
) -> None:
    """The same discovery on the base model, and circuits scaled in the other model and in the base."""
    top = {"fraction": settings.fraction, "exclude": measured.located.universal}
    measured.comparison = compare(base, model, data.discovery, template=template, **top)
    circuit = measured.comparison.circuits["base"]
    measured.circuits["base"] = circuit
    sets = {name: prompts for name, prompts in data.evaluation().items() if name != "over-refusal"}
    base_s, instruct_s = (
        ablate(one, name=f"{name}'s circuit")
        for name, one in (("base", circuit), ("instruct", measured.located.circuit))
    )
    tried = {
        "base": [
            *with_controls([base_s], settings.n_random, seed=settings.seed),
            *base_s.at(m=EXCHANGE_M[1:]),
            *instruct_s.at(m=EXCHANGE_M),
        ],
        "instruct": base_s.at(m=EXCHANGE_M),
    }
    for name, target in (("base", base), ("instruct", model)):
        measured.exchange[name] = measure(target, sets, tried[name], discovery=data.discovery)
    both = [base_s.name, instruct_s.name]
    measured.changes["base"] = tables.changes(measured.exchange["base"], settings.behaviour, both, EXCHANGE_M)


def _tables(measured: Measured, behaviour: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Every table, by its part in the report."""
    summaries, comparison = measured.summaries(), measured.comparison
    verdicts = claims(
        summaries,
        behaviour,
        circuit=measured.circuits["instruct"],
        base_changes=measured.changes.get("base"),
        comparison=comparison,
    )
    paper = {TABLE_1: tables.table_1(summaries, behaviour), TABLE_2: tables.table_2(summaries, behaviour)}
    capability = tables.table_3(next(iter(summaries.values())))
    if len(capability):
        paper["Table 3: multiple choice over strength"] = capability
    paper["Table 4: what scaling the circuit changes"] = tables.table_4(measured.changes)
    structure = {}
    if comparison is not None:
        exchanged = {name: results.summary() for name, results in measured.exchange.items()}
        structure["Base against instruct: overlap of the circuits"] = comparison.table
        structure["Exchange: each circuit in each model"] = tables.exchange(exchanged, behaviour)
    places = {
        name: measured.circuits[name]
        for name in ("instruct", "base", "instruct, as published")
        if name in measured.circuits
    }
    structure["Localisation: share of the circuit in each layer"] = tables.localisation(places)
    return {
        "claims": {CLAIMS: verdicts},
        "paper": paper,
        "structure": structure,
        "checks": _checks(measured, summaries, behaviour),
    }


def _checks(measured: Measured, summaries: Mapping[str, pd.DataFrame], behaviour: str) -> dict[str, pd.DataFrame]:
    checks = {}
    if measured.layers is not None:
        points = trade_off(summaries[CORRECTED], behaviour=(behaviour, "behaviour"), damage=("kl", "benign"))
        checks["Layer choice on the validation split"] = measured.layers
        checks["Trade-off: behaviour against KL divergence on benign prompts"] = points
    every = pd.concat([one.table for one in (*measured.results.values(), *measured.exchange.values())])
    if (every["metric"] == PANEL[0].name).any():
        checks["Judges: agreement on every response"] = tables.judges(every)
    if measured.sensitivity is not None:
        checks["Sensitivity: what the result depends on"] = measured.sensitivity
    return checks


def _figures(measured: Measured, behaviour: str) -> dict[str, go.Figure]:
    figures: dict[str, go.Figure] = {}
    for mode, summary in measured.summaries().items():
        figures |= mode_figures(mode, summary, behaviour)
    scores = {"instruct": measured.located.scores}
    if measured.comparison is not None:
        scores = measured.comparison.scores
    circuits = {name: measured.circuits[name] for name in scores}
    figures |= structure_figures(measured.changes, circuits, scores)
    if measured.sensitivity is not None:
        figures["sensitivity"] = plots.sensitivity(measured.sensitivity)
    return figures


def _info(
    settings: Settings,
    data: StudyData,
    model: Model,
    base: Model | None,
    measured: Measured,
    grades: Grades,
    template: Template,
) -> dict[str, Any]:
    located = measured.located
    return provenance(
        **settings.facts()
        | {
            "title": f"CNA study of {model.cfg.model_name}",
            "instruct": str(model.cfg.model_name),
            "base": None if base is None else str(base.cfg.model_name),
            "fingerprints": {
                name: sites.fingerprint(one) for name, one in (("instruct", model), ("base", base)) if one is not None
            },
            "refusal": PANEL[0] in grades.every,
            "grades": {grade.name: grade.version for grade in (*grades.every, *grades.rubric)},
            "modes": list(settings.mode),
            "prompts": data.describe(),
            "chat_model": getattr(model.tokenizer, "chat_template", None) is not None,
            "template": template.facts(),
            "n_neurons": len(located.scores),
            "k": len(located.circuit),
            "k_as_published": len(located.published_circuit),
            "n_universal": len(located.universal),
        }
    )

"""The weight-steering study: steer a behaviour, repair a drift, watch fine-tunes.

"Steering Language Models with Weight Arithmetic" (2511.05408), with what it lacks: null directions (random of the same
norms, shuffled labels, two seeds of one side), intervals over prompts' groups and several seeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...artifacts import provenance
from ...deltas import WeightDelta
from ...evaluation import Generation, Results, evaluate
from ...models import load_model
from ...models.progress import with_progress
from ...models.protocol import Model
from ...prompts import Template
from ..base import Study
from . import claims, figures, tables
from .data import Behaviour, Drift, Measured, WeightsData, world_data
from .methods import AFTER, Learnt, Trainer, Trial, repairs, steering
from .page import sections
from .settings import Settings
from .summary import beside, pooled, summarise_methods, validated
from .watching import watch

logger = logging.getLogger(__name__)


def run(
    settings: Settings | None = None,
    data: WeightsData | None = None,
    *,
    models: Mapping[str, Model] | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Study:
    """Steer, repair and watch, as the settings say; loaded `models` may be given by their names in the data.

    With `out`, every fine-tune and every measured row is kept as it is made, and an interrupted study continues. Raises
    what the parts raise.
    """
    started, settings = time.monotonic(), settings or Settings()
    data = data or world_data(settings)
    bench = Bench(settings, dict(models or {}), None if out is None else Path(out), progress)
    parts: dict[str, Callable[[Bench, WeightsData], Report]] = {"steer": steer, "repair": repair, "watch": watch_all}
    reports = {name: part(bench, data) for name, part in parts.items() if name in settings.part}
    if bench.learnt:
        reports["where"] = where(bench)
    info = provenance(
        **{name: value for name, value in settings.facts().items() if name != "template"},
        title="Contrastive weight steering on the organisms",
        models=sorted(bench.models),
        templates={name: bench.template(name).facts() for name in sorted(bench.models)},
        prompts=data.describe(),
        seconds=round(time.monotonic() - started),
    )
    study = assemble(reports, {name: one.delta for name, one in bench.learnt.items()}, info)
    if out is not None:
        logger.info("%s", study.save(out))
    return study


@dataclass(frozen=True, eq=False)
class Report:
    """What one part of the study gives."""

    claims: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, go.Figure] = field(default_factory=dict)
    results: dict[str, Results | pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bench:
    """Models loaded once, directions learnt once, and measuring into one folder."""

    settings: Settings
    models: dict[str, Model]
    out: Path | None
    progress: bool
    learnt: dict[str, Learnt] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        """A model of the study by its name."""
        if name not in self.models:
            self.models[name] = load_model(name, dtype=self.settings.dtype, device=self.settings.device)
        return self.models[name]

    def template(self, name: str) -> Template:
        """How prompts are rendered for a model."""
        return self.settings.chat_template().frozen(self.model(name).tokenizer)

    def generation(self, name: str) -> Generation:
        """How a model answers."""
        return Generation(self.settings.max_new_tokens, template=self.template(name), max_rows=self.settings.max_rows)

    def trainer(self, name: str, seed: int) -> Trainer:
        """Fine-tunes of a model with a seed."""
        return Trainer(self.model(name), self.settings, self.template(name), self.out, seed)

    def learn(self, start: str, behaviour: Behaviour, seed: int, *, shuffled: bool = False) -> WeightDelta:
        """W of a behaviour from a start, or its null with shuffled labels."""
        kind = "shuffled w" if shuffled else "w"
        name = f"{kind} of {behaviour.name} from {start.rpartition('/')[2]}, seed {seed}"
        if name not in self.learnt:
            delta = self.trainer(start, seed).contrast(behaviour, shuffle=shuffled).delta.named(name)
            self.learnt[name] = Learnt(name, behaviour, start, seed, shuffled, delta)
        return self.learnt[name].delta

    def measure(
        self, start: str, measured: Measured, tried: Callable[[Trainer], Iterable[Trial]]
    ) -> tuple[Results, pd.DataFrame]:
        """Everything tried with each seed, measured on the same prompts; and the facts of each intervention."""
        parts, facts = [], []
        for seed in self.settings.runs:
            trials = list(tried(self.trainer(start, seed)))
            facts += [trial.facts() for trial in trials]
            parts.append(
                evaluate(
                    self.model(start),
                    measured.sets,
                    [trial.intervention for trial in trials],
                    grades=measured.grades,
                    kl_on=measured.kl_on,
                    generation=self.generation(start),
                    folder=None if self.out is None else self.out / "measured",
                    progress=self.progress,
                )
            )
        return Results.concatenate(parts), pd.DataFrame(facts)


def steer(bench: Bench, data: WeightsData) -> Report:
    """Every behaviour under every method at every strength."""
    report, grids, bests = Report(), [], []
    for behaviour in data.behaviours:
        tried = partial(steering, behaviour=behaviour, generation=bench.generation(behaviour.start))
        results, facts = bench.measure(behaviour.start, behaviour.measured, tried)
        summary = summarise_methods(pooled(results.table, facts, behaviour.measured.metrics))
        checked = validated(results.table, facts, behaviour.measured.validation)
        best = tables.best_strengths(checked, behaviour)
        bests.append(tables.steering_table(summary, best, behaviour))
        grids.append(tables.grid(summary, behaviour=behaviour.name))
        report.claims.extend(claims.steering_claims(summary, checked, best, behaviour))
        report.figures.update(figures.steering_figures(summary, behaviour))
        report.results.update({f"steer {behaviour.name}": results, f"steer {behaviour.name}, facts": facts})
    report.tables["Steering: each method at the strength that validation prompts choose"] = pd.concat(
        bests, ignore_index=True
    )
    report.tables["Grid: every method at every strength"] = pd.concat(grids, ignore_index=True)
    return report


def repair(bench: Bench, data: WeightsData) -> Report:
    """Every drift, with each remedy at each strength."""
    report, grids = Report(), []
    for drift in data.drifts:
        name, behaviour = drift.behaviour.name, drift.behaviour
        both = behaviour.measured + data.skill

        def tried(trainer: Trainer, drift: Drift = drift) -> Iterable[Trial]:
            w, mixed = (bench.learn(drift.start, drift.behaviour, trainer.seed, shuffled=s) for s in (False, True))
            return repairs(trainer, drift, w, mixed)

        results, facts = bench.measure(drift.start, both, tried)
        rows = pooled(results.table, facts, both.metrics)
        summary, remedied = summarise_methods(rows), beside(rows, AFTER)
        best = tables.best_repair(validated(results.table, facts, both.validation), drift)
        grids.append(tables.grid(summary, behaviour=name, task=drift.task.name))
        report.claims.extend(claims.repair_claims(summary, remedied, best, drift))
        report.figures.update(figures.repair_figures(summary, drift))
        report.results.update({f"repair {name}": results, f"repair {name}, facts": facts})
    report.tables["Repair: drift, and what each remedy gives back"] = pd.concat(grids, ignore_index=True)
    return report


def watch_all(bench: Bench, data: WeightsData) -> Report:
    """Every fine-tune with every seed, watched for the behaviours that drift."""
    behaviours, seed = {drift.behaviour.name: drift.behaviour for drift in data.drifts}, bench.settings.seed
    directions = {name: bench.learn(data.watched, one, seed) for name, one in behaviours.items()}
    nulls = {name: bench.learn(data.watched, one, seed, shuffled=True) for name, one in behaviours.items()}
    directions |= {f"{name}, shuffled": delta for name, delta in nulls.items()}
    generation, runs = bench.generation(data.watched), list(product(bench.settings.watched, bench.settings.runs))
    rows = pd.concat(
        watch(bench.trainer(data.watched, seed), kind, directions, behaviours, generation)
        for kind, seed in with_progress(runs, "watching fine-tunes", shown=bench.progress)
    )
    detected = tables.detection(rows, data.drifts)
    return Report(
        claims.watching_claims(detected, data.drifts),
        {
            "Watching: detection by the cosine with the behaviour's direction": detected,
            "Cosines: last step of every fine-tune": tables.last_cosines(rows),
        },
        figures.watching_figures(rows, data.drifts),
        {"watch": rows},
    )


def where(bench: Bench) -> Report:
    """Where the directions that were learnt lie."""
    learnt = [one for one in bench.learnt.values() if not one.shuffled]
    title = "Neurons: overlap of the largest ‖w‖ with contrastive circuits"
    first = [one for one in learnt if one.seed == bench.settings.seed]
    return Report([], {title: tables.overlaps(learnt, bench.models)}, figures.direction_figures(first))


def assemble(reports: Mapping[str, Report], artefacts: Mapping[str, Any], info: Mapping[str, Any]) -> Study:
    """One study of its parts."""
    said = pd.DataFrame([row for report in reports.values() for row in report.claims])
    named = {"Claims: the paper's claims beside what was measured": said}
    drawn = {name: figure for report in reports.values() for name, figure in report.figures.items()}
    results = {name: rows for report in reports.values() for name, rows in report.results.items()}
    named |= {name: table for report in reports.values() for name, table in report.tables.items()}
    by_part = {name: report.figures for name, report in reports.items()}
    page = sections(named, by_part, info)
    return Study(named, drawn, results, dict(artefacts), dict(info), page, quiet=("Grid",))

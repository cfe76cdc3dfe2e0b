"""The parts of the study: steer a behaviour, repair a drift, and where directions lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pandas as pd

from ...evaluation import Results
from ...intervention import shift_weights
from ...reports import responses
from . import claims, figures, tables
from .bench import Bench, Report
from .choosing import best_repair, best_strengths
from .data import Behaviour, Drift, WeightsData
from .methods import (
    AFTER,
    CONTRASTIVE,
    JOINT,
    RANDOM,
    Trainer,
    Trial,
    beside_random,
    best_layers,
    nulls,
    repair_controls,
    repair_nulls,
    repairs,
    steering,
)
from .summary import BASELINE, at_best, compared, pooled, summarise_methods, validated

#: Names of the tables that several behaviours share.
STEERING = "Steering: each method at the strength that validation prompts choose"
GRID, NULLS = "Grid: every method at every strength", "Nulls: directions that hold no behaviour, at the strength of w"
CHANCE = "Random directions: what w does on the same prompts, and random ones of its norms"
REPAIR = "Repair: drift, and what each remedy gives back"
RESPONSES = "Responses: before and after contrastive steering"


def steer(bench: Bench, data: WeightsData) -> Report:
    """Every behaviour under every method at every strength, and null directions at the strength of w."""
    report = Report()
    for behaviour in data.behaviours:
        _steer(bench, behaviour, report)
    return report


def _steer(bench: Bench, behaviour: Behaviour, report: Report) -> None:
    start, metrics = behaviour.start, behaviour.measured.metrics
    rates = bench.rates(behaviour)
    layers = best_layers(bench.trainer(start, bench.settings.seed), behaviour, bench.generation(start))
    tried = partial(steering, behaviour=behaviour, rates=rates, layers=layers)
    results, facts = bench.measure(start, behaviour.measured, tried)
    rows = pooled(results.table, facts, metrics)
    best = best_strengths(validated(results.table, facts, behaviour.measured.validation), behaviour)
    k = float(best[CONTRASTIVE]) if pd.notna(best[CONTRASTIVE]) else float(behaviour.sign)
    none, random, found = _without_behaviour(bench, behaviour, rates[CONTRASTIVE], k)
    chosen, summary, drawn = at_best(rows, best), summarise_methods(rows), summarise_methods(random)
    at_k, of_nulls = summarise_methods(chosen), summarise_methods(none)
    made = {name: f"learning rate {rate:g}" for name, rate in rates.items()} | layers
    report.add(STEERING, tables.steering_table(at_k, best, made, behaviour))
    report.add(NULLS, tables.null_table(of_nulls, behaviour))
    report.add(CHANCE, pd.DataFrame([tables.random_row(drawn, behaviour.well, behaviour=behaviour.name, part="steer")]))
    report.add(GRID, tables.grid(summary, behaviour=behaviour.name))
    report.add(RESPONSES, _responses(results, facts, behaviour, k))
    report.claims.extend(claims.steering_claims(behaviour, chosen, none, random))
    beside_w = [of_nulls[~of_nulls["intervention"].isin([BASELINE, RANDOM])], drawn[drawn["control_of"].notna()]]
    every = pd.concat([at_k, *beside_w])
    report.figures.update(figures.steering_figures(behaviour, summary, every))
    named = {"": results, ", facts": facts, **found}
    report.results.update({f"steer {behaviour.name}{name}": one for name, one in named.items()})


def _responses(results: Results, facts: pd.DataFrame, behaviour: Behaviour, k: float) -> pd.DataFrame:
    """Some prompts of the behaviour with the responses before and after w of the first seed, flips first."""
    own = facts[(facts["method"] == CONTRASTIVE) & (facts["k"] == k)].iloc[0]
    table = results.table
    at_k = (table["intervention"] == own["intervention"]) & (table["strength"] == own["strength"])
    some = replace(results, table=table[at_k | (table["kind"] == "baseline")])
    return responses(some, own["intervention"], prompt_set=behaviour.where, n=8).assign(behaviour=behaviour.name)


def _without_behaviour(
    bench: Bench, behaviour: Behaviour, rate: float, k: float
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Results | pd.DataFrame]]:
    """Pooled rows of null directions, the random ones among them as one; of w and every random one; and all results."""
    start, few = behaviour.start, behaviour.beside_controls(bench.settings.n_control_prompts)
    whole = behaviour.beside_controls(len(behaviour.measured.sets[behaviour.where]))
    found, of_nulls = bench.measure(start, whole, partial(nulls, behaviour=behaviour, rate=rate, k=k))

    def beside(trainer: Trainer) -> list[Trial]:
        w = shift_weights(trainer.contrast(behaviour, rate).delta, name=CONTRASTIVE)
        return beside_random(w, k, trainer.seed, bench.numbers(trainer.seed))

    drawn, of_drawn = bench.measure(start, few, beside)
    none, random = pooled(found.table, of_nulls, whole.metrics), pooled(drawn.table, of_drawn, few.metrics)
    together = random[random["control_of"].notna()].assign(intervention=RANDOM, control_of=None)
    results = {", nulls": found, ", nulls, facts": of_nulls, ", random": drawn, ", random, facts": of_drawn}
    return pd.concat([none, together], ignore_index=True), random, results


def repair(bench: Bench, data: WeightsData) -> Report:
    """Every drift, with each remedy at each strength, and null ones at the strength of w."""
    report = Report()
    for drift in data.drifts:
        _repair(bench, data, drift, report)
    return report


def _repair(bench: Bench, data: WeightsData, drift: Drift, report: Report) -> None:
    behaviour, settings = drift.behaviour, bench.settings
    name, both = behaviour.name, behaviour.measured + data.skill
    learn = partial(bench.learn, drift.start, behaviour)

    def tried(trainer: Trainer) -> Iterable[Trial]:
        return repairs(trainer, drift, learn(trainer.seed))

    results, facts = bench.measure(drift.start, both, tried)
    rows = pooled(results.table, facts, both.metrics)
    best = best_repair(validated(results.table, facts, both.validation), drift, before=AFTER)
    best[JOINT] = 0.0
    k = float(best[CONTRASTIVE]) if pd.notna(best[CONTRASTIVE]) else 1.0

    def mixed(trainer: Trainer) -> Iterable[Trial]:
        return repair_nulls(trainer, drift, learn(trainer.seed, shuffled=True), k)

    def beside(trainer: Trainer) -> Iterable[Trial]:
        return repair_controls(trainer, drift, learn(trainer.seed), k, bench.numbers(trainer.seed))

    whole = behaviour.beside_controls(len(behaviour.measured.sets[behaviour.where])) + data.skill
    few = behaviour.beside_controls(settings.n_control_prompts)
    found, of_nulls = bench.measure(drift.start, whole, mixed)
    drawn, of_drawn = bench.measure(drift.start, few, beside)
    none, random = pooled(found.table, of_nulls, whole.metrics), pooled(drawn.table, of_drawn, few.metrics)
    none = none[none["kind"] != "baseline"]
    chosen = pd.concat([at_best(rows, best, otherwise=AFTER), none], ignore_index=True)
    summary = summarise_methods(pd.concat([rows, none], ignore_index=True))
    after = compared(random, AFTER, [drift.well])
    report.add(REPAIR, tables.grid(summary, behaviour=name, task=drift.task.name))
    report.add(CHANCE, pd.DataFrame([tables.random_row(after, drift.well, behaviour=name, part="repair")]))
    report.claims.extend(claims.repair_claims(drift, chosen, random))
    circles = summarise_methods(random)
    every = pd.concat([summarise_methods(chosen), circles[circles["control_of"].notna()]])
    report.figures.update(figures.repair_figures(drift, summary, every))
    kept = {"": results, ", facts": facts, ", nulls": found, ", random": drawn, ", random, facts": of_drawn}
    report.results.update({f"repair {name}{part}": one for part, one in kept.items()})


def where(bench: Bench) -> Report:
    """Where the directions that were learnt lie."""
    learnt = [one for one in bench.learnt.values() if not one.shuffled]
    title = "Neurons: overlap of the largest ‖w‖ with contrastive circuits"
    first = [one for one in learnt if one.seed == bench.settings.seed]
    return Report([], {title: tables.overlaps(learnt, bench.models)}, figures.direction_figures(first))

"""The parts of the study: steer a behaviour, repair a drift, and where directions lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pandas as pd

from ...deltas import WeightDelta
from ...evaluation import Results
from ...intervention import shift_weights
from ...reports import responses
from . import claims, figures, tables
from .bench import Bench, Report
from .beside import before_and_after, geometry
from .choosing import best_repair, best_strengths, strength_of
from .data import Behaviour, Drift, WeightsData
from .methods import (
    AFTER,
    CONTRASTIVE,
    JOINT,
    ONCE,
    RANDOM,
    SYSTEM,
    TWO_STARTS,
    Trainer,
    Trial,
    beside_random,
    best_layers,
    nulls,
    steering,
)
from .prompted import prompted
from .remedies import RIVALS, drifted, repair_controls, repair_nulls, repair_site, repairs
from .summary import BASELINE, at_best, compared, for_every_seed, means, pooled, summarise_methods

#: Names of the tables that several behaviours share.
STEERING = "Steering: each method at the strength that validation prompts choose"
GRID = "Grid: every method at every strength, on validation prompts"
NULLS = "Nulls: directions that hold no behaviour, at the strength of w"
CHANCE = "Random directions: what w does on the same prompts, and random ones of its norms"
REPAIR = "Repair: drift, and what each remedy gives back, at the strength that validation prompts choose"
REPAIR_GRID = "Remedies: every remedy at every strength, on validation prompts"
GEOMETRY = "Geometry: the two sides of w, from the same random LoRA matrices and from different ones"
BENCHMARKS = "Benchmarks: before and after"
RESPONSES = "Responses: before and after contrastive steering"


def steer(bench: Bench, data: WeightsData) -> Report:
    """Every behaviour under every method at every strength, and null directions at the strength of w."""
    report = Report()
    for behaviour in data.behaviours:
        _steer(bench, data, behaviour, report)
    return report


def _steer(bench: Bench, data: WeightsData, behaviour: Behaviour, report: Report) -> None:
    start, settings, tests = behaviour.start, bench.settings, behaviour.measured.tests()
    rates, trainer = bench.rates(behaviour), bench.trainer(start, settings.seed)
    layers = best_layers(trainer, behaviour, bench.generation(start))
    tried = partial(steering, behaviour=behaviour, rates=rates, layers=layers)
    best, summary = _validated(bench, behaviour, tried)
    k = strength_of(best, CONTRASTIVE, [behaviour.sign * size for size in settings.strengths])

    def at_its_best(trainer: Trainer) -> list[Trial]:
        wanted = {**best.dropna(), CONTRASTIVE: k}
        return [one for one in tried(trainer) if wanted.get(one.method) == one.k]

    results, facts = bench.measure(start, tests, at_its_best)
    rows = pooled(results.table, facts, tests.metrics)
    if pd.notna(best.get(SYSTEM)):
        said = prompted(trainer, tests, [asked_with(behaviour, best[SYSTEM])], bench.generation(start))
        rows = pd.concat([rows, said.assign(strength=best[SYSTEM], toward=best[SYSTEM])], ignore_index=True)
    chosen = at_best(for_every_seed(rows, ONCE, settings.runs), best, seeds=settings.runs)
    none, random, found = _without_behaviour(bench, behaviour, rates[CONTRASTIVE], k)
    drawn, at_k, of_nulls = summarise_methods(random), summarise_methods(chosen), summarise_methods(none)
    made = {name: f"learning rate {rate:g}" for name, rate in rates.items()} | layers
    made |= {TWO_STARTS: made[CONTRASTIVE], SYSTEM: asked_with(behaviour, best.get(SYSTEM))}
    report.add(STEERING, tables.steering_table(at_k, best, made, behaviour))
    report.add(NULLS, tables.null_table(of_nulls, behaviour))
    report.add(CHANCE, pd.DataFrame([tables.random_row(drawn, behaviour.well, behaviour=behaviour.name, part="steer")]))
    report.add(GRID, tables.grid(summary, behaviour=behaviour.name))
    report.add(RESPONSES, _responses(results, facts, behaviour, k))
    report.add(GEOMETRY, geometry(bench, behaviour, rates[CONTRASTIVE], summary, chosen))
    report.claims.extend(claims.steering_claims(behaviour, chosen, none, random))
    beside_w = [of_nulls[~of_nulls["intervention"].isin([BASELINE, RANDOM])], drawn[drawn["control_of"].notna()]]
    every = pd.concat([at_k, *beside_w])
    report.figures.update(figures.steering_figures(behaviour, summary, every))
    benchmarks = bench.benchmarks(start, data)
    if benchmarks:
        w = shift_weights(trainer.contrast(behaviour, rates[CONTRASTIVE]).delta, name=CONTRASTIVE)
        trials = [*at_its_best(trainer), beside_random(w, k, trainer.seed, [0])[1]]
        said = asked_with(behaviour, best.get(SYSTEM))
        report.add(BENCHMARKS, before_and_after(bench, start, benchmarks, trials, said, of=behaviour.name))
    named = {"": results, ", facts": facts, **found}
    report.results.update({f"steer {behaviour.name}{name}": one for name, one in named.items()})


def _validated(
    bench: Bench, behaviour: Behaviour, tried: Callable[[Trainer], Iterable[Trial]]
) -> tuple[pd.Series, pd.DataFrame]:
    """{method: strength} that validation prompts choose, and the summary of every method and strength there."""
    start, asked = behaviour.start, behaviour.measured.checks(bench.settings.n_validation)
    checked, facts = bench.measure(start, asked, tried)
    rows = pooled(checked.table, facts, asked.metrics)
    said = prompted(bench.trainer(start, bench.settings.seed), asked, behaviour.asked, bench.generation(start))
    rows = for_every_seed(pd.concat([rows, said], ignore_index=True), ONCE, bench.settings.runs)
    return best_strengths(means(rows), behaviour), summarise_methods(rows)


def asked_with(behaviour: Behaviour, best: float | None) -> str:
    """The system prompt that validation prompts choose."""
    return "" if best is None or pd.isna(best) else behaviour.asked[int(best) - 1]


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
    found, of_nulls = bench.measure(start, whole, partial(nulls, behaviour=behaviour, rate=rate, k=k), bench.first)

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
    behaviour, settings, start = drift.behaviour, bench.settings, drift.start
    name, both, rates = behaviour.name, behaviour.measured + data.skill, bench.rates(behaviour)
    asked, tests = both.checks(settings.n_validation), both.tests()
    learn, trainer = partial(bench.learn, start, behaviour), bench.trainer(start, settings.seed)
    site = repair_site(trainer, drift, asked, bench.generation(start))
    tried = partial(repairs, drift=drift, rates=rates, site=site)
    task = Trial(drifted(trainer, drift), AFTER, 0.0, settings.seed)
    found, facts = bench.measure(start, asked, tried)
    rows = pooled(found.table, facts, asked.metrics)
    said = prompted(trainer, asked, drift.asked, bench.generation(start), on=task)
    grid = for_every_seed(pd.concat([rows, said], ignore_index=True), RIVALS, settings.runs)
    best = best_repair(means(grid), drift, before=AFTER)
    k = strength_of(best, CONTRASTIVE, settings.remedies)

    def at_its_best(trainer: Trainer) -> list[Trial]:
        wanted = {**best.dropna(), CONTRASTIVE: k, AFTER: 0.0, JOINT: 0.0}
        trials = tried(trainer, joint=trainer.seed == settings.seed)
        return [one for one in trials if wanted.get(one.method) == one.k]

    results, facts = bench.measure(start, tests, at_its_best)
    best[JOINT] = 0.0
    rows = pooled(results.table, facts, tests.metrics)
    if pd.notna(best.get(SYSTEM)):
        text = drift.asked[int(best[SYSTEM]) - 1]
        said = prompted(trainer, tests, [text], bench.generation(start), on=task)
        rows = pd.concat([rows, said.assign(strength=best[SYSTEM], toward=best[SYSTEM])], ignore_index=True)
    chosen = at_best(for_every_seed(rows, RIVALS, settings.runs), best, otherwise=AFTER, seeds=settings.runs)
    none, random, of_drawn = _remedies_without_behaviour(bench, data, drift, learn, k)
    chosen = pd.concat([chosen, none], ignore_index=True)
    at_k = summarise_methods(chosen)
    after = compared(random, AFTER, [drift.well])
    report.add(REPAIR, tables.grid(at_k, behaviour=name, task=drift.task.name))
    report.add(REPAIR_GRID, tables.grid(summarise_methods(grid), behaviour=name, task=drift.task.name))
    report.add(CHANCE, pd.DataFrame([tables.random_row(after, drift.well, behaviour=name, part="repair")]))
    report.claims.extend(claims.repair_claims(drift, chosen, random))
    circles = summarise_methods(random)
    every = pd.concat([at_k, circles[circles["control_of"].notna()]])
    report.figures.update(figures.repair_figures(drift, summarise_methods(grid), every))
    benchmarks = bench.benchmarks(start, data)
    if benchmarks:
        trials = at_its_best(trainer)
        report.add(BENCHMARKS, before_and_after(bench, start, benchmarks, trials, of=f"{name}, {drift.task.name}"))
    kept = {"": results, ", facts": facts, **of_drawn}
    report.results.update({f"repair {name}{part}": one for part, one in kept.items()})


def _remedies_without_behaviour(
    bench: Bench, data: WeightsData, drift: Drift, learn: Callable[..., WeightDelta], k: float
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Results | pd.DataFrame]]:
    """Pooled rows of the task less shuffled labels; of it less w and every random one; and all results."""
    behaviour, start = drift.behaviour, drift.start

    def mixed(trainer: Trainer) -> Iterable[Trial]:
        return repair_nulls(trainer, drift, learn(trainer.seed, shuffled=True), k)

    def beside_w(trainer: Trainer) -> Iterable[Trial]:
        return repair_controls(trainer, drift, learn(trainer.seed), k, bench.numbers(trainer.seed))

    whole = behaviour.beside_controls(len(behaviour.measured.sets[behaviour.where])) + data.skill.tests()
    few = behaviour.beside_controls(bench.settings.n_control_prompts)
    found, of_nulls = bench.measure(start, whole, mixed, bench.first)
    drawn, of_drawn = bench.measure(start, few, beside_w)
    none, random = pooled(found.table, of_nulls, whole.metrics), pooled(drawn.table, of_drawn, few.metrics)
    results = {", nulls": found, ", random": drawn, ", random, facts": of_drawn}
    return none[none["kind"] != "baseline"], random, results


def where(bench: Bench) -> Report:
    """Where the directions that were learnt lie."""
    learnt = [one for one in bench.learnt.values() if not one.shuffled]
    title = "Neurons: overlap of the largest ‖w‖ with contrastive circuits"
    first = [one for one in learnt if one.seed == bench.settings.seed]
    found = tables.overlaps(learnt, bench.models)
    return Report([], {title: found} if len(found) else {}, figures.direction_figures(first))

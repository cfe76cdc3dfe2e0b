"""The bad-neurons study: cure a behaviour by fine-tuning a few neurons, and show what it cost.

A labelled reconstruction of "A Few Bad Neurons: Isolating and Surgically Correcting Sycophancy" (2601.18939), whose
code is not public and whose text leaves choices open: each choice is a row of the table here, beside rivals with the
same trainer and the same data (all MLP weights, all weights, LoRA, random neurons, ablation at inference time).
That a model no longer agrees does not say that it is cured: what it says instead is the truth, or broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...deltas import WeightDelta
from ...evaluation import Generation, Results, evaluate
from ...evaluation.benchmarks import Benchmark, benchmark_grades, benchmark_sets
from ...evaluation.choices import check_answerable
from ...intervention import Intervention, ablate, shift_weights
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...progress import with_progress
from ...prompts import PromptSet
from ...reports import Study, kept
from ...training.trainable import Neurons
from .bench import benchmarks_of, is_benched
from .choosing import in_the_study, where_recorded
from .data import CHOICES, CONTROL, REFERENCE, SycophancyTask
from .figures import CAPTIONS, figures
from .methods import OF_NEURONS, PAPER, Located, Trial, locate, trials
from .own import load_task
from .page import page_of
from .published import Lessons
from .settings import Settings
from .summary import beside_controls, compared, main_rows, summarise_ways
from .tables import Measured, tables
from .tunes import choose_rates, train

#: The organisms' task beside which a case is shown in which choosing matters.
DEFAULT = "organism/sycophancy"


@kept("bad-neurons", Settings)
def run(
    settings: Settings | None = None,
    data: SycophancyTask | None = None,
    *,
    model: Model | None = None,
    dictionary: Dictionary | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Study:
    """Run the study; a loaded `model` and `dictionary` may be given instead of the names in the settings.

    Every way of choosing neurons takes as many of them, the best by absolute score, and trains them on the same
    examples, at the learning rate that validation prompts chose for its kind. With `out`, every fine-tune and every
    measured row is kept as it is made, and an interrupted study continues. Raises what the parts raise.
    """
    settings = settings or Settings()
    model = model or load_model(settings.model, dtype=settings.dtype, device=settings.device)
    data = data or load_task(settings)
    if not settings.no_sae:
        dictionary = dictionary or load_sae(settings.sae, settings.sae_id, model=model)
    template = settings.chat_template().frozen(model.tokenizer)
    generation = Generation(settings.max_new_tokens, template=template, max_rows=settings.max_rows)
    if data.choices is not None:
        check_answerable(model, {CHOICES: data.choices}, template)
    folder = None if out is None else Path(out) / "measured"
    data.require(max([settings.n_examples, *(settings.sizes if settings.curves else ())]))
    benchmarks = settings.benchmarks(model)
    located = locate(model, data, dictionary, settings, generation, folder=folder)
    rates, tuned = choose_rates(model, data, located, settings, generation, out=out, progress=progress)
    tried = trials(located, settings, rates)
    results, facts, deltas = measure(
        model,
        data,
        tried,
        settings,
        generation,
        lessons=located.lessons,
        benchmarks=benchmarks,
        out=out,
        progress=progress,
    )
    known = settings.elsewhere and data.name == DEFAULT
    cases = where_recorded(settings, out=out, progress=progress) if known else []
    more = {
        "title": f"A few bad neurons of {model.cfg.model_name}",
        "template": template.facts(),
        "task": data.describe(),
        "sae": None if dictionary is None else dictionary.name,
        "n_neurons": len(located.random[settings.seed]),
        "n_chosen": located.budget(settings.fraction),
        "contrast": located.probing.contrast,
        "rates_chosen": rates,
        "n_runs": len(tried),
    }
    told = {name: fact for name, fact in settings.facts().items() if name != "model"}
    info = sites.provenance_of(model, **(told | more))
    return assemble(results, facts, tuned, deltas, located, settings, info, benchmarks=benchmarks, cases=cases)


def measure(
    model: Model,
    data: SycophancyTask,
    tried: Sequence[Trial],
    settings: Settings,
    generation: Generation,
    *,
    lessons: Lessons | None = None,
    benchmarks: Sequence[Benchmark] = (),
    out: str | Path | None = None,
    progress: bool | None = None,
) -> tuple[Results, pd.DataFrame, dict[str, WeightDelta]]:
    """The model with everything that is tried, one weight difference in memory at a time.

    All rows, a table of facts with a row for each intervention (its loss curve too), and {way: the fine-tune of its
    neurons}, first seed.
    """
    lessons = lessons or Lessons(data, model.tokenizer, generation.template)
    every, beside = data.measured(settings.n_kl), data.controlled(settings.n_control_prompts)
    benched, graded = benchmark_sets(benchmarks), benchmark_grades(benchmarks)
    main = [trial for trial in tried if trial.is_main(settings) and trial.seed == settings.seed]
    paper = next((trial.name for trial in main if trial.way == PAPER), None)
    rubric = settings.rubric()

    def asked(sets: Mapping[str, PromptSet], runs: Sequence[Intervention], controls: int = 0) -> Results:
        return evaluate(
            model,
            sets,
            runs,
            grades={name: [*own, *rubric] for name, own in data.graded(sets).items()}
            | {name: own for name, own in graded.items() if name in sets},
            controls=controls,
            kl_on=[REFERENCE] if REFERENCE in sets else [],
            generation=generation,
            folder=None if out is None else Path(out) / "measured",
        )

    def sets_of(trial: Trial) -> dict[str, PromptSet]:
        if trial.run == "control":
            return beside
        if trial.is_main(settings):
            more = benched if is_benched(trial, settings) else {}
            return {**every, **more, **(beside if trial.name == paper else {})}
        return {name: one for name, one in every.items() if name != CHOICES}

    lesson = cache(lessons.of)
    removed = [trial for trial in tried if trial.run == "ablation"]
    facts = [trial.facts | {"n_weights": 0} for trial in removed]
    ablated = {t.way: ablate(t.where.circuit, name=t.name) for t in removed if isinstance(t.where, Neurons)}
    parts, shown = [asked(every, list(ablated.values()))], {}
    if PAPER in ablated:
        parts.append(asked(beside, [ablated[PAPER]], controls=settings.controls))
    tunes = [trial for trial in tried if trial.run != "ablation"]
    for trial in with_progress(tunes, "fine-tunes", shown=progress, unit="fine-tune"):
        delta = train(model, trial, lesson(trial.learns, trial.n_examples, trial.seed), settings, out=out)
        shifted = shift_weights(delta, name=trial.name, pushes=-1)
        parts.append(asked(sets_of(trial), [replace(shifted, control_of=paper if trial.run == "control" else None)]))
        losses = [float(row["loss"]) for row in delta.info["curve"]]
        facts.append(trial.facts | {"n_weights": delta.n_changed(), "loss": losses[-1], "losses": losses})
        if trial.run == "neurons" and trial in main:
            shown[trial.way] = delta
    return Results.concatenate(parts), pd.DataFrame(facts), shown


def assemble(
    results: Results,
    facts: pd.DataFrame,
    tuned: pd.DataFrame,
    deltas: Mapping[str, WeightDelta],
    located: Located,
    settings: Settings,
    info: dict[str, Any],
    *,
    benchmarks: Sequence[Benchmark] = (),
    cases: Sequence[Mapping[str, Any]] = (),
) -> Study:
    """Tables, figures and the page from what was measured."""
    summary, rivals = summarise_ways(results, facts), compared(results, facts, settings)
    controls = beside_controls(results, facts)
    own = {CONTROL, *benchmark_sets(benchmarks)}
    rows = results.table[~results.table["prompt_set"].isin(own)]
    rows = rows.merge(facts, on="intervention", how="left").fillna({"run": "none"})
    circuits = {way: located.circuit(way, settings, seed=settings.seed) for way in located.ways}
    before_after = benchmarks_of(results, facts, benchmarks)
    here = in_the_study(controls, settings, info["rates_chosen"][OF_NEURONS]) if cases else []
    shown = main_rows(rows, settings)
    measured = Measured(summary, rivals, controls, tuned, shown, results.prompts, before_after, [*cases, *here])
    named = tables(measured, circuits, located.probing.rows, settings)
    drawn = figures(measured, located, circuits, facts, settings)
    artefacts = {**circuits, **{f"delta {way}": delta for way, delta in deltas.items()}}
    artefacts |= {f"scores {way}": scores for way, scores in located.scores.items()}
    artefacts |= {f"probe {name}": probe.scores() for name, probe in located.probing.probes.items()}
    every = {"measured": results, "facts": facts.drop(columns="losses")}
    return Study(named, drawn, every, artefacts, info, page_of(named, info), captions=CAPTIONS)

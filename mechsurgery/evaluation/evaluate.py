"""Run a model with and without interventions on the same prompts, and grade what it says.

One baseline is shared by all interventions. Interventions that leave the weights in one state are rows of the same
batches, so a sweep is a few full batches; different states of the weights follow one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import provenance
from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from ..grading.grade import Grade
from ..grading.judges import spent_by
from ..grading.outcome import REFUSAL_GRADES
from ..intervention import BASELINE, Intervention, with_controls
from ..models import sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.unmodified import check_unmodified
from ..models.workers import Workers
from ..prompts import ContrastSet, PromptSet, check_no_overlap
from ..prompts.chat import as_template, render, rendered_example
from .assembly import assemble
from .choices import check_answerable
from .jobs import Generation, measure, tasks_of
from .read import prompt_table
from .results import Results
from .shards import Shards
from .spread import measure_on

#: Metrics that are there without a grade.
MEASURED = ("tokens", "first_token", "choice", "margin", "kl")
#: What ends the name of a set of prompts that matched random controls answer, of the set that is named before.
BESIDE = ", beside controls"
Grades = Sequence[Grade] | Mapping[str, Sequence[Grade]]


@in_turn
def evaluate(
    model: Model,
    prompts: PromptSet | Mapping[str, PromptSet],
    interventions: Sequence[Intervention] = (),
    *,
    grades: Grades | None = None,
    controls: int = 0,
    n_control_prompts: int | None = None,
    kl_on: Sequence[str] = (),
    discovery: ContrastSet | None = None,
    generation: Generation | None = None,
    folder: str | Path | None = None,
    workers: Workers | None = None,
    progress: bool | None = None,
) -> Results:
    """Responses of the unmodified model and under every intervention, graded, in one table.

    `prompts` is one prompt set or {name: prompt set}; a set whose prompts have choices is answered by letter, any other
    in words. `grades` decide on every response (default: the outcome by text, refusal by word lists, quality), the same
    for all sets or {set name: grades}. Every intervention that has random controls gets `controls` of them; with
    `n_control_prompts` these, and what they control, answer that many prompts of each set as one more set, "NAME,
    beside controls", so that fifty controls cost little. On the sets in `kl_on`, the KL divergence of next-token
    distributions from the unmodified model is measured on its responses. Pass the `discovery` contrast to have prompts
    that stand in it refused. `generation` says how responses are made.

    With a `folder`, what is measured is kept there as it goes: an interrupted run, called again, continues with nothing
    lost and nothing measured twice, and gives the table of an undisturbed one. With `workers`
    (`adapters.many.Workers`) copies of the model elsewhere measure, and give the same table. A run that is interrupted
    or fails leaves the model as it was. Raises `InputError`, `PromptError`, `SiteError` or `MismatchError` before
    anything runs.
    """
    tokenizer = tokens.tokenizer_of(model)
    sets = {prompts.name: prompts} if isinstance(prompts, PromptSet) else dict(prompts)
    settings = generation or Generation()
    tried = _flat(interventions)
    runs = [BASELINE, *with_controls(tried, controls)]
    deciding = _grades_of(sets, REFUSAL_GRADES if grades is None else grades)
    _check(model, sets, discovery, runs, kl_on)
    check_answerable(model, sets, settings.template)
    facts = {"model": str(model.cfg.model_name), "fingerprint": sites.fingerprint(model)}
    parts = _parts(sets, tried, controls, n_control_prompts)
    deciding |= {f"{name}{BESIDE}": of_set for name, of_set in deciding.items()}
    tables, shards = [], Shards(folder)
    for asked, those in parts:
        tasks = tasks_of(model, asked, settings, kl_on)
        how = measure if workers is None else partial(measure_on, workers)
        how(model, tasks, those, settings, shards, fingerprint=facts["fingerprint"], progress=progress)
        of_model = shards.of(facts["fingerprint"])
        tables.append(assemble(tokenizer, asked, tasks, those, deciding, settings, of_model, facts))
    sets = {name: one for asked, _ in parts for name, one in asked.items()}
    manifest = _manifest(model, sets, runs, deciding, settings, facts)
    results = Results(pd.concat(tables, ignore_index=True), manifest, _texts(tokenizer, sets, settings))
    if folder is not None:
        results.save(folder)
    return results


def _parts(
    sets: dict[str, PromptSet], tried: list[Intervention], controls: int, n: int | None
) -> list[tuple[dict[str, PromptSet], list[Intervention]]]:
    """What is measured on which prompts: controls on all, or on `n` of each set."""
    if not controls or n is None:
        return [(sets, [BASELINE, *with_controls(tried, controls)])]
    some = {f"{name}{BESIDE}": prompts.take(n) for name, prompts in sets.items()}
    controlled = with_controls([run for run in tried if run.draw is not None], controls)
    return [(sets, [BASELINE, *tried]), (some, [BASELINE, *controlled])]


def _flat(interventions: Any) -> list[Intervention]:
    given = [] if isinstance(interventions, Intervention) else list(interventions)
    if isinstance(interventions, Intervention) or not all(isinstance(run, Intervention) for run in given):
        raise InputError("interventions must be a flat list; give [run], and *run.at([…]) for a sweep among others")
    return given


def _grades_of(sets: Mapping[str, PromptSet], grades: Grades) -> dict[str, Sequence[Grade]]:
    chosen = {name: grades.get(name, ()) if isinstance(grades, Mapping) else grades for name in sets}
    unknown = [name for name in grades if name not in sets] if isinstance(grades, Mapping) else []
    if unknown:
        raise InputError(f"grades for {listed(unknown)}; the prompt sets are {listed(sets)}")
    for name, deciding in chosen.items():
        names = [grade.name for grade in deciding]
        if len(set(names)) < len(names) or set(names) & set(MEASURED):
            raise InputError(
                f"grades {listed(names, 20)} of {name!r} share a name, or have one of {listed(MEASURED)}, which are "
                "measured anyway; give each its own"
            )
    return chosen


def _check(
    model: Model,
    sets: Mapping[str, PromptSet],
    discovery: ContrastSet | None,
    runs: Sequence[Intervention],
    kl_on: Sequence[str],
) -> None:
    if not sets:
        raise InputError("nothing to run: give at least one prompt set")
    unknown = [name for name in kl_on if name not in sets]
    if unknown:
        raise InputError(f"kl_on names {listed(unknown)}; the prompt sets are {listed(sets)}")
    letters = [name for name in kl_on if any(prompt.choices for prompt in sets[name])]
    if letters:
        raise InputError(f"kl_on names {listed(letters)}, answered by letter; KL divergence is measured on responses")
    check_unmodified(model)
    for prompt_set in sets.values():
        if not len(prompt_set):
            raise PromptError(f"prompt set {prompt_set.name!r} is empty; give at least one prompt")
        for side in () if discovery is None else (discovery.positive, discovery.negative):
            check_no_overlap(side, prompt_set, by="text")
    names = [(run.name, run.strength) for run in runs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"interventions {twice} stand twice; give each its own name with .named(…)")
    known: dict[str, str] = {}
    unlike = [run.name for run in runs if known.setdefault(run.name, run.digest) != run.digest]
    if unlike:
        raise InputError(f"different interventions are both named {listed(unlike)}; give each its own with .named(…)")
    for run in {run.digest: run for run in runs}.values():
        run.check(model)


def _texts(tokenizer: Any, sets: Mapping[str, PromptSet], settings: Generation) -> pd.DataFrame:
    """The text of every prompt, and what the model is given for it."""
    return prompt_table(
        {
            name: [(prompt, render(tokenizer, prompt, template=settings.template)) for prompt in prompts]
            for name, prompts in sets.items()
        }
    )


def _manifest(
    model: Model,
    sets: Mapping[str, PromptSet],
    runs: Sequence[Intervention],
    grades: Mapping[str, Sequence[Grade]],
    settings: Generation,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """How the table came about, with one rendered prompt of every set."""
    labels: dict[str, list[str]] = {}
    for grade in (grade for deciding in grades.values() for grade in deciding if grade.labels):
        labels[grade.name] = list(dict.fromkeys([*labels.get(grade.name, ()), *grade.labels]))
    spent = spent_by(judge for deciding in grades.values() for grade in deciding for judge in grade.judges)
    return provenance(
        **facts,
        prompts={
            name: {
                "digest": prompts.digest,
                "n": len(prompts),
                "rendered": rendered_example(model.tokenizer, prompts.prompts[0], settings.template),
            }
            for name, prompts in sets.items()
        },
        interventions=[
            {"name": run.name, "strength": run.strength, "control_of": run.control_of, "digest": run.digest, **run.info}
            for run in runs
        ],
        generation=asdict(settings) | {"template": as_template(settings.template).facts()},
        grades={name: {grade.name: grade.version for grade in deciding} for name, deciding in grades.items()},
        labels=labels,
        **({"judges": spent} if spent else {}),
    )


check_arguments(__name__)

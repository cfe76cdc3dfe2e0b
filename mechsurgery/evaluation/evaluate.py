"""Run a model with and without interventions on the same prompts, and judge what it says.

One baseline is shared by all interventions. All interventions are rows of the same batches: a hook
multiplies by a tensor with a row for every intervention and strength, so a sweep is a few full batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artifacts import provenance
from ..attribution import random_circuits
from ..errors import InputError, PromptError, listed
from ..grading.panel import PANEL, TextJudge, refusal_token_ids
from ..grading.refusal import JUDGE_VERSION, is_refusal
from ..intervention import Intervention, ablate
from ..models import sites
from ..prompts import ContrastSet, PromptSet, check_no_overlap
from ..units import Circuit
from .jobs import Job, Task, chunks, jobs, perform
from .results import Results
from .rows import assemble
from .shards import Shards

BASELINE = Intervention("baseline", (), 0.0, "baseline")


def evaluate(
    model: Any,
    prompts: PromptSet | Mapping[str, PromptSet],
    interventions: Sequence[Intervention] = (),
    *,
    choices: PromptSet | None = None,
    kl_on: Sequence[str] = (),
    discovery: ContrastSet | None = None,
    folder: str | Path | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seeds: Sequence[int] = (0,),
    judge: Callable[[str], bool] = is_refusal,
    panel: Sequence[TextJudge] = PANEL,
    refusal_tokens: Sequence[int] | None = None,
    template: str = "auto",
    max_rows: int = 256,
    progress: bool = False,
) -> Results:
    """Responses and multiple-choice answers of the unmodified model and under every intervention.

    `prompts` is one prompt set or {name: prompt set}; `choices` a set whose prompts have choices and an
    answer; `kl_on` names sets on whose responses the next-token KL divergence from the unmodified model is
    measured. Pass the `discovery` contrast to have overlapping prompts refused. Greedy unless `temperature`
    is above 0; then every seed is a sample of its own. `judge` decides `refusal`; every member of `panel`
    decides a column `judge_…`, and `first_token` is the log-odds of the first token being one of
    `refusal_tokens` (default: those that usual refusals open with).

    With a `folder`, what is measured is kept there as it goes: an interrupted run, called again, continues
    with nothing lost and nothing measured twice, and gives the table of an undisturbed one. An interrupted or
    failing run leaves the model untouched.
    """
    sets = {prompts.name: prompts} if isinstance(prompts, PromptSet) else dict(prompts)
    runs = [BASELINE, *interventions]
    _check(model, sets, choices, discovery, runs, temperature, seeds, kl_on)
    if refusal_tokens is None:
        refusal_tokens = _usual_refusal_tokens(model)
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "template": template,
        "refusal_tokens": [int(token) for token in refusal_tokens],
    }
    common = {"model": str(model.cfg.model_name), "fingerprint": sites.fingerprint(model)}
    todo: list[Job] = []
    for task in _tasks(sets, choices, kl_on, seeds, settings):
        todo += jobs(task, runs, common["fingerprint"], 4 * max_rows)
    shards = Shards(folder)
    _perform_all(model, todo, shards, max_rows, progress)
    table = assemble(todo, shards, model.tokenizer, judge, panel, common)
    info = provenance(
        **common,
        prompts={name: {"digest": s.digest, "n": len(s)} for name, s in sets.items()},
        choices=None if choices is None else {"digest": choices.digest, "n": len(choices)},
        interventions=[{"name": r.name, "strength": r.strength, "digest": r.digest, **r.info} for r in runs],
        generation={"max_new_tokens": max_new_tokens, "temperature": temperature, "seeds": list(seeds)},
        judge=JUDGE_VERSION if judge is is_refusal else getattr(judge, "__name__", str(judge)),
        panel={member.name: member.version for member in panel},
        template=template,
    )
    results = Results(table, info)
    if folder is not None:
        results.save(folder)
    return results


def prove(
    model: Any,
    circuit: Circuit,
    prompts: PromptSet | Mapping[str, PromptSet],
    *,
    m: Iterable[float] = (0.0,),
    n_random: int = 5,
    seed: int = 0,
    **options: Any,
) -> Results:
    """The causal test of a circuit: baseline, the circuit scaled by each `m`, and matched random circuits.

    The random circuits (`n_random`, at least 5 for a result worth showing) have as many neurons in each layer
    and are scaled in the same way. `options` go to `evaluate`.
    """
    multipliers = [float(value) for value in m]
    runs = dose(circuit, multipliers)
    for control in random_circuits(circuit, n_random, seed=seed) if n_random else []:
        runs += dose(control, multipliers)
    return evaluate(model, prompts, runs, **options)


def dose(circuit: Circuit, m: Iterable[float], *, name: str | None = None) -> list[Intervention]:
    """One circuit scaled by each of several m (1 is left out: that is the baseline)."""
    full = ablate(circuit, name=name)
    return [full.at(1 - float(value)) for value in m if value != 1]


def sweep(interventions: Iterable[Intervention], strengths: Iterable[float]) -> list[Intervention]:
    """Every intervention at every strength (0 is left out: that is the baseline)."""
    strengths = [float(value) for value in strengths if value != 0]
    return [run.at(value) for run in interventions for value in strengths]


def _check(model, sets, choices, discovery, runs, temperature, seeds, kl_on) -> None:
    if not sets or not seeds:
        raise InputError("nothing to run: give at least one prompt set and one seed")
    unknown = [name for name in kl_on if name not in sets]
    if unknown:
        raise InputError(f"kl_on names {listed(unknown)}; the prompt sets are {listed(sets)}")
    for prompt_set in [*sets.values(), *([choices] if choices is not None else [])]:
        if not len(prompt_set):
            raise PromptError(f"prompt set {prompt_set.name!r} is empty; give at least one prompt")
        if discovery is not None:
            for side in (discovery.positive, discovery.negative):
                check_no_overlap(side, prompt_set, by="text")
    names = [(run.name, run.strength) for run in runs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"interventions {twice} stand twice; give each its own name with .named(…)")
    if temperature == 0 and len(seeds) > 1:
        raise InputError(f"greedy decoding is the same for every seed; give one seed or a temperature, not {seeds}")
    for run in runs:
        run.check(model)


def _tasks(sets, choices, kl_on, seeds, settings) -> list[Task]:
    found = []
    for name, prompts in sets.items():
        for part in chunks(prompts):
            found += [Task("generate", name, part, seed, settings) for seed in seeds]
            if name in kl_on:
                found.append(Task("kl", name, part, seeds[0], settings))
    if choices is not None:
        plain = {"template": settings["template"]}
        found += [Task("choice", choices.name, part, seeds[0], plain) for part in chunks(choices)]
    return found


def _perform_all(model: Any, todo: list[Job], shards: Shards, max_rows: int, progress: bool) -> None:
    """Measure every job that lacks rows, with one progress bar in rows."""
    from tqdm.auto import tqdm

    rows = {id(job): len(job.runs) * len(job.task.prompts) for job in todo}
    with tqdm(total=sum(rows.values()), unit="row", desc="evaluation", disable=not progress) as bar:
        for job in todo:
            if not all(key in shards for key in job.keys):
                perform(model, job, shards, max_rows=max_rows, responses=_own_responses(job, todo, shards))
            bar.update(rows[id(job)])


def _own_responses(job: Job, todo: list[Job], shards: Shards) -> list[list[int]] | None:
    """What the unmodified model answered to a KL task's prompts: measured before, as the first intervention."""
    if job.task.kind != "kl":
        return None
    for other in todo:
        same = other.task.prompts is job.task.prompts and other.task.seed == job.task.seed
        if same and other.task.kind == "generate" and other.runs[0].kind == "baseline":
            rows = shards.read(other.keys[0])
            assert rows is not None
            return [[int(token) for token in own] for own in rows["tokens"]]
    raise AssertionError("a KL task comes after its prompts' responses")


def _usual_refusal_tokens(model: Any) -> list[int]:
    """First tokens of usual refusals, or none where this tokenizer has none of them."""
    try:
        return refusal_token_ids(model.tokenizer)
    except InputError:
        return []

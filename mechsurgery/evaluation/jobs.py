"""What is to be measured, cut into jobs of about one batch, and how a job is measured.

A job is some interventions that leave the weights in one state, on the same prompts: their rows share batches. Jobs
depend on what was asked only, never on what is already there, so a resumed run measures in the same batches as an
undisturbed one and gets the same numbers. The key of a job's rows holds the token ids that go into the model, so a
template that writes today's date never finds yesterday's rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from types import SimpleNamespace
from typing import Any, Literal

import pandas as pd
import torch

from ..checks import check_arguments
from ..errors import InputError
from ..grading.refusal import first_token_score, refusal_token_ids
from ..intervention import Intervention, row_hooks
from ..models import generate as generation_loop
from ..models import tokens
from ..models.divergence import divergence
from ..models.generate import check_temperature
from ..models.protocol import Model
from ..progress import progress_bar
from ..prompts import Prompt, PromptSet
from ..prompts.chat import Template, encode
from .choices import choice_scores, choice_tokens
from .shards import Shards, key_of

#: Part of every key: a change of what is measured makes old rows stale.
VERSION = 5
Kind = Literal["generate", "choice", "kl"]
Off = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Generation:
    """How responses are made: greedy at temperature 0, else a sample for every seed.

    `refusal_tokens` are the first tokens that open a refusal, for the metric "first_token" (default: those that usual
    refusals open with). `max_rows` is the most rows of a batch.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    seeds: tuple[int, ...] = (0,)
    template: str | Template = "auto"
    refusal_tokens: tuple[int, ...] | None = None
    max_rows: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            wrong = f"seeds={self.seeds} hold one twice" if self.seeds else "no seed"
            raise InputError(f"{wrong}: give at least one, such as seeds=(0,), and each once")
        if self.max_new_tokens < 1 or self.max_rows < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens} and max_rows={self.max_rows} must be at least 1")
        if self.temperature == 0 and len(self.seeds) > 1:
            raise InputError(
                f"greedy decoding is the same for every seed; give one seed or a temperature, not {self.seeds}"
            )

    def opening_tokens(self, tokenizer: Any) -> list[int]:
        """The refusal tokens, or none where this tokenizer has none of the usual ones."""
        if self.refusal_tokens is not None:
            return [int(token) for token in self.refusal_tokens]
        try:
            return refusal_token_ids(tokenizer)
        except InputError:
            return []


@dataclass(frozen=True, eq=False)
class Task:
    """Some prompts of a set: to be answered, to be chosen from, or to compare next-token distributions on.

    `places` are the prompts' places in the set, `ids` the token ids that go in, `facts` what else the rows depend on.
    """

    kind: Kind
    set_name: str
    prompts: tuple[Prompt, ...]
    places: tuple[int, ...]
    ids: list[list[int]]
    seed: int
    facts: dict[str, Any]

    def key(self, run: Intervention) -> str:
        """What names the rows of an intervention on these prompts."""
        return key_of(self._digest, run.digest, float(run.strength))

    @cached_property
    def _digest(self) -> str:
        return key_of(self.facts, self.ids)

    def named(self, row: int, runs: Sequence[Intervention]) -> str:
        """What row `row` of a job is, in words; row r belongs to run r // (number of prompts)."""
        n = len(self.prompts)
        run, prompt = runs[row // n], self.prompts[row % n]
        under = f"under {run.name!r} at strength {run.strength:g}" if run.strength else "in the unmodified model"
        return f"prompt {prompt.id!r} of {self.set_name!r} {under}"


@dataclass(frozen=True, eq=False)
class Job:
    """Interventions that are measured in the same batches on a task's prompts."""

    task: Task
    runs: tuple[Intervention, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the batch: one for each prompt under each intervention."""
        return len(self.runs) * len(self.task.prompts)

    def is_in(self, shards: Shards) -> bool:
        """Whether all its rows were measured before."""
        return all(self.task.key(run) in shards for run in self.runs)

    def keep(self, shards: Shards, tables: Sequence[pd.DataFrame]) -> None:
        """Write what `perform` gave, a shard for each intervention."""
        for run, rows in zip(self.runs, tables, strict=True):
            shards.write(self.task.key(run), rows)


def tasks_of(model: Model, sets: Mapping[str, PromptSet], settings: Generation, kl_on: Sequence[str]) -> list[Task]:
    """Every task: prompts with choices are answered by letter, all others in words."""
    tasks: list[Task] = []
    # What else every row depends on: batches of another size differ in the last digits of what is read off logits.
    common = {"tokenizer": tokens.tokenizer_digest(model.tokenizer), "max_rows": settings.max_rows}
    stops = sorted(tokens.stop_ids(model))
    for name, prompts in sets.items():
        ids = encode(model.tokenizer, prompts, template=settings.template)
        by_letter = any(prompt.choices for prompt in prompts)
        tokens.check_lengths(ids, model.cfg.n_ctx, 0 if by_letter else settings.max_new_tokens)
        for places in _chunks(ids, settings.max_rows):
            own = tuple(prompts.prompts[i] for i in places), places, [ids[i] for i in places]
            if by_letter:
                letters = [choice_tokens(model.tokenizer, prompt) for prompt in own[0]]
                tasks.append(Task("choice", name, *own, settings.seeds[0], _facts("choice", **common, letters=letters)))
                continue
            spoken = {
                **common,
                "stops": stops,
                "max_new_tokens": settings.max_new_tokens,
                "temperature": settings.temperature,
            }
            opening = settings.opening_tokens(model.tokenizer)
            streams = [_stream(prompt) for prompt in own[0]]
            drawn = [{"seed": seed, "streams": streams} if settings.temperature else {} for seed in settings.seeds]
            for seed, draws in zip(settings.seeds, drawn):
                facts = _facts("generate", **spoken, **draws, opening=opening)
                tasks.append(Task("generate", name, *own, seed, facts))
            if name in kl_on:
                tasks.append(Task("kl", name, *own, settings.seeds[0], _facts("kl", **spoken, **drawn[0])))
    return tasks


def _facts(kind: Kind, **facts: Any) -> dict[str, Any]:
    return {"version": VERSION, "task": kind, **facts}


def _chunks(ids: Sequence[Sequence[int]], size: int) -> list[tuple[int, ...]]:
    """Places of the prompts in parts of at most `size`, prompts of like length together."""
    order = sorted(range(len(ids)), key=lambda place: (len(ids[place]), place))
    return [tuple(order[start : start + size]) for start in range(0, len(order), size)]


def jobs_of(tasks: Sequence[Task], runs: Sequence[Intervention], max_rows: int) -> list[Job]:
    """Every task for all interventions of one state of the weights, in jobs of at most `max_rows` rows (or one run)."""
    jobs = []
    for task in tasks:
        step = max(1, max_rows // len(task.prompts))
        jobs += [Job(task, tuple(runs[start : start + step])) for start in range(0, len(runs), step)]
    return jobs


def by_weights(runs: Sequence[Intervention]) -> list[list[Intervention]]:
    """The interventions grouped by the state in which they put the weights; the unmodified weights come first."""
    order = {key: place for place, key in enumerate(dict.fromkeys([None, *(run.weights_key for run in runs)]))}
    ranked = sorted(runs, key=lambda run: order[run.weights_key])
    return [list(same) for _, same in groupby(ranked, key=lambda run: order[run.weights_key])]


def perform(
    model: Model, job: Job, settings: Generation, *, off: Off, responses: Sequence[Sequence[int]] | None = None
) -> list[pd.DataFrame]:
    """Measure a job: the rows of each of its interventions, in the order of the task's prompts.

    The job's weights are in the model; `off` gives the original ones for a moment. `responses` are those of the
    unmodified model, on which KL divergence is measured.
    """
    n = len(job.task.prompts)
    hooks = rows_to_hooks(job.runs, n)
    if job.task.kind == "generate":
        rows = _generate(model, job, settings, hooks)
    elif job.task.kind == "choice":
        scores = choice_scores(
            model,
            job.task.ids * len(job.runs),
            job.task.facts["letters"] * len(job.runs),
            hooks=hooks,
            alike=_runs_of_rows(job),
            max_rows=settings.max_rows,
            named=partial(job.task.named, runs=job.runs),
        )
        rows = pd.DataFrame({"scores": [score.tolist() for score in scores]})
    else:
        assert responses is not None
        kl = divergence(
            model,
            job.task.ids,
            responses,
            hooks=hooks,
            repeats=len(job.runs),
            unmodified=off,
            max_rows=settings.max_rows,
            named=partial(job.task.named, runs=job.runs),
        )
        rows = pd.DataFrame({"kl": kl.flatten().tolist()})
    return [rows.iloc[start : start + n].reset_index(drop=True) for start in range(0, len(rows), n)]


def _generate(model: Model, job: Job, settings: Generation, hooks: Callable[[list[int]], Any]) -> pd.DataFrame:
    task, times = job.task, len(job.runs)
    opening = task.facts["opening"]
    first = torch.full((len(task.ids) * times,), float("nan"))

    def on_first(rows: list[int], logits: torch.Tensor) -> None:
        if opening:
            first[rows] = first_token_score(logits, opening).cpu()

    new = generation_loop.generate(
        model,
        task.ids * times,
        hooks=hooks,
        alike=_runs_of_rows(job),
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=task.seed,
        streams=[_stream(prompt) for prompt in task.prompts] * times,
        on_first=on_first,
        max_rows=settings.max_rows,
        named=partial(task.named, runs=job.runs),
    )
    return pd.DataFrame({"tokens": [[int(token) for token in row] for row in new], "first_token": first.tolist()})


def _runs_of_rows(job: Job) -> list[int]:
    """Which of its interventions each row of a job belongs to; `rows_to_hooks` treats those of one alike."""
    return [run for run in range(len(job.runs)) for _ in job.task.prompts]


def rows_to_hooks(runs: Sequence[Intervention], n: int) -> Callable[[list[int]], list[tuple[str, Any]]]:
    """Row r belongs to intervention r // n: the hooks of a batch, with a strength for every row."""

    def hooks(rows: list[int]) -> list[tuple[str, Any]]:
        of_row = [runs[row // n] for row in rows]
        return row_hooks([run if run.edits else None for run in of_row], [run.strength for run in of_row])

    return hooks


def measure(
    model: Model,
    tasks: Sequence[Task],
    runs: Sequence[Intervention],
    settings: Generation,
    shards: Shards,
    *,
    fingerprint: str,
    progress: bool | None = None,
) -> None:
    """Measure what `shards` lack, one state of the weights after the other, with one progress bar in rows."""
    shards = shards.of(fingerprint)
    total = len(runs) * sum(len(task.prompts) for task in tasks)
    with progress_bar("measuring", shown=progress, total=total, unit="row") as bar:
        for same in by_weights(runs):
            jobs = jobs_of(tasks, same, settings.max_rows)
            lacking = [job for job in jobs if not job.is_in(shards)]
            with weights_of(model, same[0]) if lacking else nullcontext(_AS_LOADED) as weights:
                for job in jobs:
                    bar.set_description(f"{job.task.set_name}: {_SAID[job.task.kind]}")
                    if job in lacking:
                        answers = answers_to(job.task, tasks, runs[0], shards)
                        job.keep(shards, perform(model, job, settings, off=weights.off, responses=answers))
                    bar.update(job.n_rows)


#: Weights that nothing was done to; `off` as of a `ShiftedWeights`.
_AS_LOADED = SimpleNamespace(off=nullcontext)


def weights_of(model: Model, run: Intervention) -> AbstractContextManager[Any]:
    """A context with an intervention's weights; `off()` of what it gives puts the original ones back for a moment."""
    from ..intervention.weights import shifted_weights

    if run.delta is None or run.weights_key is None:
        return nullcontext(_AS_LOADED)
    return shifted_weights(model, run.delta, run.strength)


_SAID = {"generate": "responses", "choice": "choices", "kl": "KL divergence"}


def answers_to(task: Task, tasks: Sequence[Task], baseline: Intervention, shards: Shards) -> list[list[int]] | None:
    """What the unmodified model answered to a KL task's prompts: measured before, in the first state of the weights."""
    if task.kind != "kl":
        return None
    same = next(t for t in tasks if (t.kind, t.set_name, t.places) == ("generate", task.set_name, task.places))
    return [[int(token) for token in row] for row in shards.read(same.key(baseline))["tokens"]]


def _stream(prompt: Prompt) -> int:
    """A prompt's own stream of random numbers: the same in every set and under every intervention."""
    return int(hashlib.sha256(repr((prompt.text, prompt.messages)).encode()).hexdigest()[:12], 16)


check_arguments(__name__)

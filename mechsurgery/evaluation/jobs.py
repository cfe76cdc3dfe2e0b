"""What a model under interventions does on some prompts, measured in jobs of many rows and kept in shards.

A job is some consecutive interventions on the same prompts: their rows share batches. Jobs depend on what was
asked only, never on what is already there, so a resumed run measures in the same batches as an undisturbed one
and gets the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from ..grading.panel import first_token_score
from ..intervention import Intervention, row_hooks
from ..models import generate as generation
from ..models.divergence import divergence
from ..prompts import PromptSet
from ..prompts.chat import encode
from .choices import choice_scores
from .shards import Shards, key_of

#: Part of every shard's key: a change of what is measured makes old shards stale.
VERSION = 1
#: Prompts of a set that are measured together.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Task:
    """Some prompts of a set, to be answered (`generate`), chosen from (`choice`) or compared on (`kl`)."""

    kind: str
    set_name: str
    prompts: PromptSet
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """Interventions measured in the same batches on a task's prompts, and the key of each one's rows."""

    task: Task
    runs: list[Intervention]
    keys: list[str]


def chunks(prompts: PromptSet) -> Iterator[PromptSet]:
    """A prompt set in parts of at most `CHUNK` prompts."""
    for start in range(0, len(prompts), CHUNK):
        yield PromptSet(prompts.name, prompts.prompts[start : start + CHUNK])


def jobs(task: Task, runs: Sequence[Intervention], fingerprint: str, job_rows: int) -> list[Job]:
    """A task for all interventions, in jobs of about `job_rows` rows."""
    common = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "task": task.kind,
        "prompts": task.prompts.digest,
        "settings": task.settings,
        "seed": task.seed,
    }
    per_job = max(1, job_rows // len(task.prompts))
    found = []
    for start in range(0, len(runs), per_job):
        own = list(runs[start : start + per_job])
        keys = [key_of({**common, "intervention": run.digest, "strength": run.strength}) for run in own]
        found.append(Job(task, own, keys))
    return found


def perform(model: Any, job: Job, shards: Shards, *, max_rows: int, responses: list[list[int]] | None = None) -> None:
    """Measure a job and keep the rows of every intervention that has none yet."""
    measure = {"generate": _generate, "choice": _choice, "kl": _kl}[job.task.kind]
    tables = measure(model, job, max_rows, responses)
    for key, table in zip(job.keys, tables):
        if key not in shards:
            shards.write(key, table)


def _generate(model: Any, job: Job, max_rows: int, _responses: Any) -> list[pd.DataFrame]:
    task, n = job.task, len(job.task.prompts)
    settings = task.settings
    first = torch.full((n * len(job.runs),), float("nan"))
    refusing = torch.tensor(settings["refusal_tokens"], dtype=torch.long)

    def on_first(rows: list[int], logits: torch.Tensor) -> None:
        if len(refusing):
            first[rows] = first_token_score(logits, refusing.tolist()).cpu()

    made = generation.generate(
        model,
        encode(model.tokenizer, task.prompts, template=settings["template"]) * len(job.runs),
        hooks=rows_to_hooks(job.runs, n),
        max_new_tokens=settings["max_new_tokens"],
        temperature=settings["temperature"],
        seed=task.seed,
        streams=[_stream(prompt) for prompt in task.prompts] * len(job.runs),
        on_first=on_first,
        max_rows=max_rows,
    )
    return [
        pd.DataFrame(
            {
                "tokens": [[int(token) for token in row] for row in made[start : start + n]],
                "first_token": first[start : start + n].numpy(),
            }
        )
        for start in range(0, len(made), n)
    ]


def _choice(model: Any, job: Job, max_rows: int, _responses: Any) -> list[pd.DataFrame]:
    n = len(job.task.prompts)
    scores = choice_scores(
        model,
        job.task.prompts,
        hooks=rows_to_hooks(job.runs, n),
        repeats=len(job.runs),
        max_rows=max_rows,
        template=job.task.settings["template"],
    )
    picked = [int(score.argmax()) for score in scores]
    return [pd.DataFrame({"picked": picked[start : start + n]}) for start in range(0, len(picked), n)]


def _kl(model: Any, job: Job, max_rows: int, responses: list[list[int]] | None) -> list[pd.DataFrame]:
    n = len(job.task.prompts)
    ids = encode(model.tokenizer, job.task.prompts, template=job.task.settings["template"])
    assert responses is not None
    found = divergence(
        model, ids, responses, hooks=rows_to_hooks(job.runs, n), repeats=len(job.runs), max_rows=max_rows
    )
    return [pd.DataFrame({"kl": row.numpy()}) for row in found]


def rows_to_hooks(runs: Sequence[Intervention], n: int) -> Callable[[list[int]], list[tuple[str, Any]]]:
    """Row r belongs to intervention r // n: the hooks of a batch, with a strength for every row."""

    def hooks(rows: list[int]) -> list[tuple[str, Any]]:
        own = [runs[row // n] for row in rows]
        return row_hooks([run if run.edits else None for run in own], [run.strength for run in own])

    return hooks


def _stream(prompt: Any) -> int:
    """A prompt's own stream of random numbers: the same in every set and under every intervention."""
    return int(hashlib.sha256(repr((prompt.text, prompt.messages)).encode()).hexdigest()[:12], 16)

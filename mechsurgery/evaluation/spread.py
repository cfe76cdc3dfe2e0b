"""Measuring on several workers: the same jobs in the same batches, so that the rows are those of one process.

A worker gets a job, measures it on its own copy of the model and sends back the rows; only the process that asked
writes into the folder. What KL divergence is measured on, the unmodified model's responses, is measured first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..intervention import Intervention
from ..models.protocol import Model
from ..models.workers import Workers
from ..progress import progress_bar
from . import jobs as one_process
from .jobs import Generation, Job, Task, by_weights, jobs_of
from .shards import Shards


def measure_on(
    workers: Workers,
    model: Model,
    tasks: Sequence[Task],
    runs: Sequence[Intervention],
    settings: Generation,
    shards: Shards,
    *,
    fingerprint: str,
    progress: bool | None = None,
) -> None:
    """Measure what `shards` lack, as `jobs.measure` does, on `workers`."""
    shards = shards.of(fingerprint)
    # Without what draws their controls: workers need none, and it may be a function that cannot travel.
    sent = {id(run): replace(run, draw=None) for run in runs}
    jobs = [job for same in by_weights(runs) for job in jobs_of(tasks, same, settings.max_rows)]
    lacking = [job for job in jobs if not job.is_in(shards)]
    total, missing = (sum(job.n_rows for job in some) for some in (jobs, lacking))
    with progress_bar("measuring", shown=progress, total=total, initial=total - missing, unit="row") as bar:
        for last in (False, True):
            now = [job for job in lacking if (job.task.kind == "kl") == last]
            answers = [one_process.answers_to(job.task, tasks, runs[0], shards) for job in now]
            shared = [Job(job.task, tuple(sent[id(run)] for run in job.runs)) for job in now], settings

            def keep(place: int, tables: list[pd.DataFrame], now: list[Job] = now) -> None:
                now[place].keep(shards, tables)
                bar.update(now[place].n_rows)

            if now:
                workers.each(model, perform_one, list(enumerate(answers)), shared=shared, done=keep)


def perform_one(model: Model, shared: Any, item: tuple[int, list[list[int]] | None]) -> list[pd.DataFrame]:
    """What a worker does: the job at a place in the list that all workers have, with the answers it needs."""
    (jobs, settings), (place, answers) = shared, item
    job: Job = jobs[place]
    with one_process.weights_of(model, job.runs[0]) as weights:
        return one_process.perform(model, job, settings, off=weights.off, responses=answers)


check_arguments(__name__, inner=True)

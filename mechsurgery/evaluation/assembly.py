"""From measured rows to the one table: decoded responses, what the grades say of them, labels of the interventions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import torch

from ..checks import check_arguments
from ..grading.grade import Grade, Value
from ..intervention import Intervention
from ..prompts import Prompt, PromptSet
from ..prompts.chat import response_text
from .jobs import VERSION, Generation, Task
from .shards import Shards, key_of
from .table import typed

logger = logging.getLogger(__name__)

#: A response as read from the shards: its text (None where the model was still thinking) and its tokens.
Response = tuple[str | None, list[int], float]


def assemble(
    tokenizer: Any,
    sets: Mapping[str, PromptSet],
    tasks: Sequence[Task],
    runs: Sequence[Intervention],
    grades: Mapping[str, Sequence[Grade]],
    settings: Generation,
    shards: Shards,
    facts: Mapping[str, Any],
) -> pd.DataFrame:
    """A row per prompt, intervention, strength, seed and metric, in the order of sets, interventions and prompts."""
    parts = []
    for name, prompts in sets.items():
        for run in runs:
            for kind, seed in dict.fromkeys((task.kind, task.seed) for task in tasks if task.set_name == name):
                chosen = [t for t in tasks if (t.set_name, t.kind, t.seed) == (name, kind, seed)]
                rows = _in_order(chosen, run, shards)
                if kind == "generate":
                    block = _graded(tokenizer, prompts, rows, grades[name], settings, shards)
                elif kind == "choice":
                    block = _chosen(prompts, rows)
                else:
                    block = _metric(prompts, "kl", "number", rows["kl"].tolist())
                parts.append(block.assign(**facts, **labels_of(run), seed=seed, prompt_set=name))
    return typed(pd.concat(parts, ignore_index=True))


def labels_of(run: Intervention) -> dict[str, Any]:
    """What stands for an intervention in the table."""
    return {
        "intervention": run.name,
        "kind": run.kind,
        "control_of": run.control_of,
        "strength": run.strength,
        "m": run.m,
        "toward": run.toward,
    }


def _in_order(tasks: Sequence[Task], run: Intervention, shards: Shards) -> pd.DataFrame:
    """An intervention's rows of a whole set, in the order of its prompts."""
    parts = [shards.read(task.key(run)).assign(place=list(task.places)) for task in tasks]
    return pd.concat(parts, ignore_index=True).sort_values("place", ignore_index=True)


def _metric(
    prompts: PromptSet,
    metric: str,
    scale: str,
    values: Sequence[float | None],
    labels: Sequence[str | None] | None = None,
    **more: Sequence[Any],
) -> pd.DataFrame:
    """The rows of one metric on a set, one for each prompt."""
    return pd.DataFrame(
        {
            "prompt_id": [prompt.id for prompt in prompts],
            "group": [prompt.group for prompt in prompts],
            "metric": metric,
            "scale": scale,
            "value": values,
            "label": labels if labels is not None else "",
            **more,
        }
    )


def _chosen(prompts: PromptSet, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of "choice" and "margin"."""
    right: list[float] = []
    margins: list[float] = []
    letters: list[str] = []
    for prompt, scores in zip(prompts, rows["scores"]):
        log_p, answer = torch.tensor([float(score) for score in scores]), int(prompt.answer or 0)
        picked = int(log_p.argmax())
        others = torch.cat([log_p[:answer], log_p[answer + 1 :]])
        right.append(float(picked == answer))
        letters.append(prompt.choices[picked])
        margins.append(float(log_p[answer] - others.logsumexp(0)))
    return pd.concat(
        [_metric(prompts, "choice", "rate", right, letters), _metric(prompts, "margin", "number", margins)],
        ignore_index=True,
    )


def _graded(
    tokenizer: Any,
    prompts: PromptSet,
    rows: pd.DataFrame,
    grades: Sequence[Grade],
    settings: Generation,
    shards: Shards,
) -> pd.DataFrame:
    new = [[int(token) for token in row] for row in rows["tokens"]]
    texts = [response_text(tokenizer, row, settings.template) for row in new]
    thinking = texts.count(None)
    if thinking:
        logger.warning(
            "%d of %d responses to %r end inside a thought and cannot be graded; raise max_new_tokens or pass "
            "template=Template(thinking=False)",
            thinking,
            len(texts),
            prompts.name,
        )
    ended = ["finished" if len(row) < settings.max_new_tokens else "cut off" for row in new]
    parts = [_metric(prompts, "tokens", "number", [float(len(row)) for row in new], ended, tokens=new)]
    if rows["first_token"].notna().any():
        parts.append(_metric(prompts, "first_token", "number", rows["first_token"].tolist()))
    for grade in grades:
        values = graded(grade, list(zip(prompts, texts)), shards)
        if grade.labels:
            labels = [None if value is None else str(value) for value in values]
            parts.append(_metric(prompts, grade.name, "label", [None] * len(values), labels))
        else:
            numbers = [None if value is None else float(value) for value in values]
            parts.append(_metric(prompts, grade.name, grade.scale, numbers))
    return pd.concat([part.assign(response=texts) for part in parts], ignore_index=True)


def graded(grade: Grade, items: Sequence[tuple[Prompt, str | None]], shards: Shards) -> list[Value]:
    """What a grade says of every response (None where there is none); judges' answers are kept in the shards."""
    known: dict[tuple[str, str], Value] = {}
    asked = {(prompt.id, text): (prompt, text) for prompt, text in items if text is not None}
    if asked:
        how = [grade.name, grade.version, grade.scale, grade.labels]
        key = key_of("grade", VERSION, how, [[asdict(prompt), text] for prompt, text in asked.values()])
        kept = shards.find(key) if grade.decide_all is not None else None
        values = list(kept["value"]) if kept is not None else grade.all(list(asked.values()))
        if grade.decide_all is not None and kept is None:
            shards.write(key, pd.DataFrame({"value": values}))
        known = dict(zip(asked, (None if value is None or value != value else value for value in values)))
    return [None if text is None else known[prompt.id, text] for prompt, text in items]


check_arguments(__name__, inner=True)

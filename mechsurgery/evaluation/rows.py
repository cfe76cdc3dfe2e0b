"""From measured shards to the tidy table: labels, decoded responses, and what the judges say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from ..grading.panel import TextJudge
from ..grading.quality import is_degenerate, ngram_quality
from ..intervention import Intervention
from ..prompts.chat import stop_texts
from .jobs import Job
from .results import COLUMNS, token_lists
from .shards import Shards


def assemble(
    todo: Sequence[Job],
    shards: Shards,
    tokenizer: Any,
    judge: Callable[[str], bool],
    panel: Sequence[TextJudge],
    common: dict[str, Any],
) -> pd.DataFrame:
    """A row per response, choice question and KL measurement, in the order of the jobs."""
    rows: list[dict[str, Any]] = []
    for job in todo:
        task = job.task
        stops = stop_texts(tokenizer, task.settings["template"])
        for run, key in zip(job.runs, job.keys):
            measured = shards.read(key)
            assert measured is not None
            for prompt, values in zip(task.prompts, measured.to_dict("records"), strict=True):
                rows.append(
                    {
                        **common,
                        "task": task.kind,
                        **labels(run),
                        "seed": task.seed,
                        "prompt_set": task.set_name,
                        "prompt_id": prompt.id,
                        "group": prompt.group,
                        "label": prompt.label,
                    }
                )
                if task.kind == "generate":
                    rows[-1] |= _judged(values, tokenizer, stops, task.settings["max_new_tokens"], judge, panel)
                elif task.kind == "choice":
                    picked = int(values["picked"])
                    rows[-1] |= {"choice": prompt.choices[picked], "correct": picked == prompt.answer}
                else:
                    rows[-1] |= {"kl": float(values["kl"])}
    return _typed(pd.DataFrame(rows), panel)


def labels(run: Intervention) -> dict[str, Any]:
    """What stands for an intervention in the table; `m` is missing where it is not one number."""
    m = float("nan")
    full = run.info.get("m")
    if run.kind == "baseline":
        m = 1.0
    elif run.kind in ("circuit", "random") and isinstance(full, (int, float)):
        m = 1 - run.strength * (1 - float(full))
    return {"intervention": run.name, "kind": run.kind, "strength": run.strength, "m": m}


def _judged(values, tokenizer, stops, max_new_tokens, judge, panel) -> dict[str, Any]:
    tokens = [int(token) for token in values["tokens"]]
    response = tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in stops:
        response = response.split(stop)[0]
    response = response.strip()
    raw, degenerate = bool(judge(response)), is_degenerate(response)
    first = float(values["first_token"])
    return {
        "response": response,
        "tokens": tokens,
        "n_tokens": len(tokens),
        "finished": len(tokens) < max_new_tokens,
        "refusal_raw": raw,
        "degenerate": degenerate,
        "refusal": raw and not degenerate,
        "quality": ngram_quality(response),
        "first_token": first,
        **{f"judge_{member.name}": bool(member(response)) for member in panel},
        "judge_first_token": None if first != first else first > 0,
    }


def _typed(table: pd.DataFrame, panel: Sequence[TextJudge]) -> pd.DataFrame:
    judges = [f"judge_{member.name}" for member in panel] + ["judge_first_token"]
    table = table.reindex(columns=[*COLUMNS, *judges])
    for column in ("finished", "refusal_raw", "degenerate", "refusal", "correct", *judges):
        table[column] = table[column].astype("boolean")
    for column in ("response", "choice", "group", "label"):
        table[column] = table[column].astype("string")
    for column in ("quality", "first_token", "kl"):
        table[column] = table[column].astype("float64")
    table["tokens"] = token_lists(table["tokens"])
    table["n_tokens"] = table["n_tokens"].astype("Int64")
    return table

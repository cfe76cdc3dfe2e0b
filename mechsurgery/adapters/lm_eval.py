"""Any task of EleutherAI's lm-evaluation-harness on a model under interventions.

`lm` gives what lm_eval asks of a model; `lm_eval_results` runs tasks and gives rows of the one results table. lm_eval
is the extra `mechsurgery[lm-eval]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..evaluation.assembly import labels_of
from ..evaluation.table import typed
from ..intervention import BASELINE, Intervention
from ..models.fingerprint import fingerprint
from ..models.protocol import Model
from ..prompts.chat import Template
from .lm_eval_model import lm_class

#: Prompt id of what is measured of a whole task.
WHOLE_TASK = "all"


def lm(
    model: Model,
    intervention: Intervention = BASELINE,
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    template: str | Template = "auto",
) -> Any:
    """An `lm_eval.api.model.TemplateLM` that runs the model under an intervention at its strength.

    `batch_size` is the most rows of a batch, `max_length` the context in tokens (default: the model's). `template`
    renders chats where lm_eval is told `apply_chat_template=True`. The intervention is on the model only while it
    runs. Raises `MissingExtraError`, `InputError`, `SiteError` or `MismatchError`.

    >>> lm_eval.simple_evaluate(lm(model, ablate(circuit)), tasks=["arc_easy"])  # doctest: +SKIP
    """
    return lm_class()(model, intervention, batch_size, max_length, template)


def lm_eval_results(
    model: Model,
    tasks: str | Mapping[str, Any] | Sequence[Any],
    interventions: Sequence[Intervention] = (),
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    template: str | Template = "auto",
    **options: Any,
) -> pd.DataFrame:
    """Run `lm_eval.simple_evaluate` on the unmodified model and under every intervention: rows of `Results.table`.

    The prompt set is the task, `prompt_id` and `group` the document's number, the metric lm_eval's (with its filter
    where it has one). Metrics that are no mean over documents, such as perplexities, and those of groups of tasks have
    one row, with prompt id "all". `options` are those of `simple_evaluate` (`limit`, `num_fewshot`,
    `apply_chat_template`, `gen_kwargs`, …). Responses cached with `use_cache` are kept apart by model, intervention and
    strength. Like lm_eval, this seeds the global random generators. Raises what `lm` raises.
    """
    runs = [BASELINE, *interventions]
    adapters = [lm(model, run, batch_size=batch_size, max_length=max_length, template=template) for run in runs]
    tasks = [tasks] if isinstance(tasks, (str, Mapping)) else list(tasks)
    facts = {"model": str(model.cfg.model_name), "fingerprint": fingerprint(model), "seed": 0}
    parts = [
        pd.DataFrame(_rows(_run(adapter, tasks, options))).assign(**labels_of(adapter.intervention), **facts)
        for adapter in adapters
    ]
    table = pd.concat(parts, ignore_index=True)
    yes_or_no = (
        (table["value"].isin([0, 1]) & (table["prompt_id"] != WHOLE_TASK))
        .groupby([table["prompt_set"], table["metric"]])
        .transform("all")
    )
    return typed(table.assign(scale=np.where(yes_or_no, "rate", "number")))


def _run(adapter: Any, tasks: list[Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate

    options = {**options, "log_samples": True}
    if options.get("use_cache"):
        options["use_cache"] = f"{options['use_cache']}-{adapter.key()}"
    return simple_evaluate(model=adapter, tasks=tasks, **options)


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per document where lm_eval's value of a metric is the mean of its documents' values, else one row."""
    rows: list[dict[str, Any]] = []
    for task, measured in results["results"].items():
        for key, value in measured.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            common = {"prompt_set": task, "metric": metric if chosen == "none" else key}
            samples = [s for s in results["samples"].get(task, ()) if s["filter"] == chosen and metric in s]
            values = [s[metric] for s in samples if isinstance(s[metric], (bool, int, float, np.number))]
            if not values or len(values) < len(samples) or not np.isclose(np.mean(values), value):
                rows.append({**common, "prompt_id": WHOLE_TASK, "group": WHOLE_TASK, "value": float(value)})
                continue
            for sample, one in zip(samples, values):
                number, said = str(sample["doc_id"]), sample["resps"][0][0]
                text = said if isinstance(said, str) else None
                rows.append({**common, "prompt_id": number, "group": number, "value": float(one), "response": text})
    return rows


check_arguments(__name__)

"""The rival that changes no weights: a system prompt that asks for what is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from ...evaluation import Generation, Results
from ...prompts import PromptSet
from .data import Measured
from .methods import SYSTEM, Trainer, Trial
from .summary import metric_rows


def asked_in_words(sets: Measured, text: str, system: str | None) -> Measured:
    """The same prompts under a system prompt, after the study's own where there is one.

    What compares with the unmodified model's own words (the KL divergence) is left out.
    """
    asked = text if system is None else f"{system}\n{text}"
    metrics = {name: one for name, one in sets.metrics.items() if one[0] != "kl"}
    prompts = {name: _with_system(one, asked) for name, one in sets.sets.items() if name not in sets.kl_on}
    return Measured(prompts, {name: sets.grades[name] for name in prompts if name in sets.grades}, metrics, {})


def _with_system(prompts: PromptSet, text: str) -> PromptSet:
    return replace(prompts, prompts=tuple(replace(prompt, system=text) for prompt in prompts))


def prompted(
    trainer: Trainer, sets: Measured, texts: Sequence[str], generation: Generation, *, on: Trial | None = None
) -> pd.DataFrame:
    """Pooled rows of the method "system prompt": strength 1 is the first text, 2 the second.

    They are of the unmodified model, or of one that `on` changes.
    """
    found = []
    for number, text in enumerate(texts, 1):
        asked = asked_in_words(sets, text, trainer.settings.system)
        table = trainer.measured(asked, [] if on is None else [on], generation).table
        own = table[(table["kind"] == "baseline") == (on is None)]
        rows = metric_rows(own, asked.metrics)
        found.append(
            rows.assign(
                intervention=SYSTEM,
                kind="prompt",
                control_of=None,
                strength=float(number),
                toward=float(number),
                train_seed=trainer.seed,
            )
        )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def words_of(results: Results) -> Results:
    """Results of the unmodified model under a system prompt as those of a method of that name."""
    table = results.table.assign(intervention=SYSTEM, kind="prompt", strength=1.0, toward=1.0)
    return replace(results, table=table)

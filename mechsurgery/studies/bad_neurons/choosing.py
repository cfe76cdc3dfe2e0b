"""Where choosing matters: few examples and a low rate on an organism in which it is recorded which neurons decide.

The same fine-tunes and the same rule as in the study, once where location decides and once where it does not. There is
no recorded truth to sycophancy; on `organism/planted`, refusal was put into known neurons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...attribution.contrast import score
from ...attribution.statistics import contrast_statistics
from ...evaluation import Generation, Results, evaluate, summarise
from ...evaluation.verdicts import beyond_controls, empirical_p
from ...grading.grade import ANSWERS
from ...intervention import shift_weights
from ...models import load_model
from ...progress import with_progress
from ...prompts import Examples
from ...training.trainable import Neurons
from .data import CONTROL
from .methods import PAPER, RANDOM, RECORDED, Trial, recorded_neurons
from .settings import Settings
from .tunes import train
from .worlds import requests_task

MODEL = "organism/planted"
#: What the study's own task is called in the table of cases.
STUDY = "this study"
CNA = "CNA (difference)"
#: Examples, steps, and learning rates at which location decides. At three times the rate any neurons learn it too
#: (docs, methods), so a rate is part of the claim.
N_EXAMPLES, STEPS, RATES = 10, 30, (2e-3,)
CLAIM = "they learn more than random ones, as many in each layer (ours)"


def where_recorded(
    settings: Settings, *, out: str | Path | None = None, progress: bool | None = None
) -> list[dict[str, Any]]:
    """A row for the recorded neurons and for CNA's at each rate, with the verdict of the rule that the study uses.

    Every circuit has as many neurons and learns from the same requests, answered. Random ones have as many in each
    layer as the recorded ones, and all are asked the same requests about other things.
    """
    model = load_model(MODEL, dtype=settings.dtype, device=settings.device)
    task = requests_task(n_evaluation=settings.n_evaluation, seed=settings.seed)
    template = settings.chat_template().frozen(model.tokenizer)
    generation = Generation(settings.max_new_tokens, template=template, max_rows=settings.max_rows)
    truth = recorded_neurons(model)
    assert truth is not None
    statistics = contrast_statistics(model, task.locate, template=template)
    places = {RECORDED: truth, CNA: score(statistics, "difference").top(k=len(truth), name=CNA)}
    places |= {f"{RANDOM} {i}": truth.random_like(2000 + i) for i in range(settings.drawn)}
    lesson = Examples.from_texts(
        model.tokenizer, task.learn_wrong.take(N_EXAMPLES, seed=settings.seed), template=template
    )
    recipe = Settings(steps=STEPS, batch=N_EXAMPLES, passes=STEPS)
    asked = {CONTROL: task.wrong.take(settings.n_control_prompts)}
    folder = None if out is None else Path(out) / "elsewhere"
    rows = []
    tried = [(rate, way) for rate in RATES for way in places]
    tables: dict[float, list[Results]] = {rate: [] for rate in RATES}
    for rate, way in with_progress(tried, "where choosing matters", shown=progress, unit="fine-tune"):
        trial = Trial(way, "neurons", settings.seed, N_EXAMPLES, 0.0, Neurons(places[way]), rate)
        run = shift_weights(train(model, trial, lesson, recipe, out=out), name=way, pushes=-1)
        run = replace(run, control_of=RECORDED if way.startswith(RANDOM) else None)
        tables[rate].append(
            evaluate(model, asked, [run], grades=task.graded(asked), generation=generation, folder=folder)
        )
    for rate, parts in tables.items():
        measured = Results.concatenate(parts)
        found = summarise(measured.table, ["outcome"], labels=measured.info["labels"])
        well = found[found["label"] == ANSWERS.well].set_index("intervention", drop=False)
        random = list(well.loc[well["control_of"].notna(), "value"])
        facts = {"case": "refusal of organism/planted", "examples": N_EXAMPLES, "steps": STEPS, "rate": rate}
        rows += [row_of(well.loc[way], random, neurons=way, **facts) for way in (RECORDED, CNA)]
    return rows


def row_of(own: pd.Series, random: Sequence[float], **facts: Any) -> dict[str, Any]:
    """A row of the table: shares done well (per cent) before and after, the random ones', p and the verdict."""
    verdict = beyond_controls(own, random, up=True)
    spread = f"{100 * min(random):.0f} to {100 * max(random):.0f}" if random else ""
    return {
        **facts,
        "n": own["n"],
        "before": 100 * own["baseline"],
        "after": f"{100 * own['value']:.1f} [{100 * own['low']:.1f}, {100 * own['high']:.1f}]",
        "random": len(random),
        "their mean": 100 * sum(random) / len(random) if random else None,
        "their range": spread,
        "p": empirical_p(float(own["value"]), list(random), up=True) if random else None,
        "verdict": verdict.verdict,
        "measured": verdict.measured,
        "rule": verdict.rule,
    }


def in_the_study(controls: pd.DataFrame, settings: Settings, rate: float) -> list[dict[str, Any]]:
    """The same row of the study's own task: the paper's neurons, fine-tuned, beside random ones."""
    rows = controls[(controls["run"] == "neurons") & (controls["label"] == ANSWERS.well)]
    own, random = rows[rows["control_of"].isna()], rows[rows["control_of"].notna()]
    if own.empty:
        return []
    facts = {"case": STUDY, "examples": settings.n_examples, "steps": settings.recipe(rate, settings.n_examples).steps}
    return [row_of(own.iloc[0], list(random["value"]), neurons=PAPER, rate=rate, **facts)]


def claims_of_cases(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the recorded neurons and of CNA's as claims, each with its case."""
    return [
        {
            "claim": f"{row['neurons']}: at learning rate {row['rate']:g} {CLAIM}",
            "measured": row["measured"],
            "verdict": row["verdict"],
            "rule": row["rule"],
            "case": row["case"],
        }
        for row in rows
    ]

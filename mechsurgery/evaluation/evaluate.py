"""Run a model with and without interventions on the same prompts, and judge what it says.

One baseline is shared by all interventions. All interventions are rows of the same batches: a hook
multiplies by a tensor with a strength for every row, so a sweep is a few full batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..artifacts import provenance
from ..attribution import random_circuits
from ..errors import InputError, PromptError
from ..intervention import Intervention, ablate, row_hooks, scale
from ..models import generate as generation
from ..models import sites
from ..prompts import ContrastSet, PromptSet, check_no_overlap
from ..prompts.chat import encode, stop_texts
from ..units import Circuit
from .choices import choice_scores
from .judges import JUDGE_VERSION, is_refusal
from .quality import is_degenerate, ngram_quality
from .results import COLUMNS, Results

BASELINE = Intervention("baseline", (), 0.0, "baseline")


def evaluate(
    model: Any,
    prompts: PromptSet | Mapping[str, PromptSet],
    interventions: Sequence[Intervention] = (),
    *,
    choices: PromptSet | None = None,
    discovery: ContrastSet | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seeds: Sequence[int] = (0,),
    judge: Callable[[str], bool] = is_refusal,
    template: str = "auto",
    max_rows: int = 256,
    progress: bool = False,
) -> Results:
    """Responses and multiple-choice answers of the unmodified model and under every intervention.

    `prompts` is one prompt set or {name: prompt set}; `choices` a set whose prompts have choices and an
    answer. Pass the `discovery` contrast to have overlapping prompts refused. Greedy unless `temperature` is
    above 0; then every seed is a sample of its own. An interrupted or failing run leaves the model untouched.
    """
    sets = {prompts.name: prompts} if isinstance(prompts, PromptSet) else dict(prompts)
    runs = [BASELINE, *interventions]
    _check(model, sets, choices, discovery, runs, temperature, seeds)
    options = {"template": template, "max_rows": max_rows, "progress": progress}
    rows: list[dict[str, Any]] = []
    for name, prompt_set in sets.items():
        for seed in seeds:
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
            rows += _responses(model, name, prompt_set, runs, judge, settings, options)
    if choices is not None:
        rows += _choices(model, choices, runs, seeds[0], options)
    common = {"model": str(model.cfg.model_name), "fingerprint": sites.fingerprint(model)}
    table = pd.DataFrame([{**common, **row} for row in rows]).reindex(columns=list(COLUMNS))
    info = provenance(
        **common,
        prompts={name: {"digest": s.digest, "n": len(s)} for name, s in sets.items()},
        choices=None if choices is None else {"digest": choices.digest, "n": len(choices)},
        interventions=[{"name": r.name, "strength": r.strength, **r.info} for r in runs],
        generation={"max_new_tokens": max_new_tokens, "temperature": temperature, "seeds": list(seeds)},
        judge=JUDGE_VERSION if judge is is_refusal else getattr(judge, "__name__", str(judge)),
        template=template,
    )
    return Results(_typed(table), info)


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
    runs = []
    for value in m:
        if value != 1:
            scaled = scale(circuit, value, name=name or circuit.name)
            runs.append(replace(full.at(1 - value), info=scaled.info))
    return runs


def _check(model, sets, choices, discovery, runs, temperature, seeds) -> None:
    if not sets or not seeds:
        raise InputError("nothing to run: give at least one prompt set and one seed")
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


def _labels(run: Intervention) -> dict[str, Any]:
    m = 1.0 if run.kind == "baseline" else run.info.get("m")
    if run.kind in ("circuit", "random") and isinstance(m, (int, float)) and "parts" not in run.info:
        m = float(m)
    else:
        m = 1.0 if run.kind == "baseline" else float("nan")
    return {"intervention": run.name, "kind": run.kind, "strength": run.strength, "m": m}


def _responses(model, name, prompt_set, runs, judge, settings, options) -> list[dict[str, Any]]:
    n = len(prompt_set)
    ids = encode(model.tokenizer, prompt_set, template=options["template"])
    made = generation.generate(
        model,
        ids * len(runs),
        hooks=_rows_to_hooks(runs, n),
        stop=None,
        seed_rows=n,
        max_rows=options["max_rows"],
        progress=options["progress"],
        **settings,
    )
    stops = stop_texts(model.tokenizer, options["template"])
    rows = []
    for row, tokens in enumerate(made):
        run, prompt = runs[row // n], prompt_set[row % n]
        response = _cut(model.tokenizer.decode(tokens, skip_special_tokens=True), stops)
        raw, degenerate = judge(response), is_degenerate(response)
        rows.append({
            "task": "generate", **_labels(run), "seed": settings["seed"], "prompt_set": name,
            "prompt_id": prompt.id, "group": prompt.group, "label": prompt.label, "response": response,
            "n_tokens": len(tokens), "finished": len(tokens) < settings["max_new_tokens"], "refusal_raw": raw,
            "degenerate": degenerate, "refusal": raw and not degenerate, "quality": ngram_quality(response),
        })  # fmt: skip
    return rows


def _choices(model, choices, runs, seed, options) -> list[dict[str, Any]]:
    n = len(choices)
    scores = choice_scores(model, choices, hooks=_rows_to_hooks(runs, n), repeats=len(runs), **options)
    rows = []
    for row, score in enumerate(scores):
        run, prompt = runs[row // n], choices[row % n]
        picked = int(score.argmax())
        rows.append({
            "task": "choice", **_labels(run), "seed": seed, "prompt_set": choices.name, "prompt_id": prompt.id,
            "group": prompt.group, "label": prompt.label, "choice": prompt.choices[picked],
            "correct": picked == prompt.answer,
        })  # fmt: skip
    return rows


def _rows_to_hooks(runs: Sequence[Intervention], n: int) -> Callable[[list[int]], list[tuple[str, Any]]]:
    """Row r belongs to intervention r // n: the hooks of a batch, with a strength for every row."""

    def hooks(rows: list[int]) -> list[tuple[str, Any]]:
        own = [runs[row // n] for row in rows]
        return row_hooks([run if run.edits else None for run in own], [run.strength for run in own])

    return hooks


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("finished", "refusal_raw", "degenerate", "refusal", "correct"):
        table[column] = table[column].astype("boolean")
    for column in ("response", "choice", "group", "label"):
        table[column] = table[column].astype("string")
    table["n_tokens"] = table["n_tokens"].astype("Int64")
    return table

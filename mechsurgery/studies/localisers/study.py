"""Every localiser × size × case: what is said once its units are put out, what it found, what it cost.

As in the Mechanistic Interpretability Benchmark (Mueller et al. 2025, 2504.13181), a localiser is judged by a curve
over sizes and not at one: the area under *answers done well* against the number of units, on a logarithmic axis. Its
precision and recall stand beside it where it is known in which units a behaviour was put, and how well its scores rank
what putting out each unit alone really does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...artifacts import provenance
from ...attribution import localisers, objectives, recovery
from ...attribution.gates import Units
from ...attribution.kept import kept_scores
from ...attribution.localisers import LOCALISERS, Problem
from ...errors import PromptError
from ...evaluation import Generation, Results, evaluate
from ...evaluation.minimal import outcome_shares
from ...evaluation.shards import key_of
from ...grading.outcome import REFUSAL_OUTCOME
from ...grading.world import REQUEST
from ...intervention import ablate
from ...models import load_model, sites
from ...models.tokens import tokenizer_of
from ...progress import with_progress
from ...prompts import ContrastSet, PromptSet, encode
from ...reports import Study, kept, responses
from ...units import Circuit, UnitScores
from .data import CASES, Case
from .page import captions_of, drawings_of, page_of
from .settings import Settings

logger = logging.getLogger(__name__)
EXACT = "exact ablation"
#: Units of a model at most for every one of which a forward pass is made.
MOST_EXACT = 5000


@kept("localisers", Settings)
def run(settings: Settings | None = None, *, out: str | Path | None = None, progress: bool | None = None) -> Study:
    """Run every case with every localiser at every size; `out` keeps what is measured, and a run continues there."""
    settings = settings or Settings()
    rows: list[pd.DataFrame] = []
    results: dict[str, Results] = {}
    scores: dict[str, UnitScores] = {}
    for name, case in _cases(settings).items():
        logger.info("case %s", name)
        table, results[name], found = run_case(name, case, settings, None if out is None else Path(out), progress)
        rows.append(table)
        scores |= {f"{name} {localiser}": one for localiser, one in found.items()}
    curve = pd.concat(rows, ignore_index=True)
    board = leaderboard(curve)
    tables = {
        "Leaderboard: area under answers done well against size": board,
        "Found: precision and recall at the size of what is recorded": found_of(curve),
        "Cost: passes of all discovery prompts, and seconds": cost_of(curve),
        "Sizes: outcomes of every localiser at every size": curve,
        "Responses: the leader's largest circuit put out": _responses(results, str(board["localiser"].iloc[0]), curve),
    }
    tables = {name: table for name, table in tables.items() if len(table)}
    info = provenance(
        **{key: value for key, value in settings.facts().items() if key != "template"},
        title="Which localiser finds the units that decide",
    )
    drawings, n = drawings_of(curve), sum(_behaviour(one)["prompt_id"].nunique() for one in results.values())
    page, captions = page_of(board, drawings, n), captions_of(drawings)
    return Study(tables, drawings, results, scores, info, page, quiet=("Sizes", "Responses"), captions=captions)


def _behaviour(results: Results) -> pd.DataFrame:
    return results.table[results.table["prompt_set"] == "behaviour"]


def _responses(results: dict[str, Results], leader: str, curve: pd.DataFrame) -> pd.DataFrame:
    """Some prompts of every case that show the behaviour, before and after the leader's largest circuit is put out."""
    largest = curve[curve["localiser"] == leader].groupby("case")["k"].max()
    parts = [
        responses(one, f"{leader}, {largest[case]}", prompt_set="behaviour", n=6).assign(case=case)
        for case, one in results.items()
        if case in largest
    ]
    return pd.concat(parts, ignore_index=True)


def _cases(settings: Settings) -> dict[str, Case]:
    if settings.model is None:
        return {name: CASES[name] for name in settings.case}
    files = (settings.positive, settings.negative)
    whole = ContrastSet("files", *(PromptSet.from_file(str(path), text=settings.column) for path in files))
    halves = dict(zip(("tuned", "heldout"), whole.split(0.5, seed=settings.seed)))
    model = Path(settings.model).name or settings.model
    return {model: Case(settings.model, halves.__getitem__, REFUSAL_OUTCOME, lambda split: {}, base=settings.base)}


def run_case(
    name: str, case: Case, settings: Settings, out: Path | None, progress: bool | None
) -> tuple[pd.DataFrame, Results, dict[str, UnitScores]]:
    """One case: a row for every localiser and size, all responses, and the scores of every localiser."""
    model = load_model(case.model, dtype=settings.dtype, device=settings.device)
    problem = problem_of(model, case, settings)
    truth = case.truth()
    recorded = None if truth is None else Circuit.from_indices(truth, sites.neuron_widths(model))
    folder = None if out is None else out / "runs" / name
    oracle = None
    if settings.exact and len(problem.units) <= MOST_EXACT:
        oracle = located(EXACT, problem, case, settings, folder)
    scores: dict[str, UnitScores] = {}
    for localiser in with_progress(list(settings.localiser), f"{name}: locating", shown=progress, unit="localiser"):
        if (localiser == EXACT and oracle is None) or (LOCALISERS[localiser].needs_base and problem.base is None):
            continue
        exact = oracle if localiser == EXACT else None
        scores[localiser] = exact or located(localiser, problem, case, settings, folder)
    budgets = sorted({*settings.budget, *(() if recorded is None else (len(recorded),))})
    circuits = {
        (one, k): own.top(k=min(k, len(own)), by=LOCALISERS[one].by, name=f"{one}, {k}")
        for one, own in scores.items()
        for k in budgets
    }
    runs = [ablate(circuit) for circuit in circuits.values()]
    runs += [] if recorded is None else [ablate(recorded, name="recorded neurons")]
    measured = evaluate(
        model,
        _prompts(case, settings),
        runs,
        grades=[case.grade],
        generation=Generation(max_new_tokens=settings.max_new_tokens, template=settings.chat_template()),
        folder=folder,
        progress=progress,
    )
    shares = outcome_shares(measured.table, case.grade)
    rows = [
        _row(name, one, k, circuits[one, k], scores[one], shares, oracle, recorded) for one in scores for k in budgets
    ]
    for label, k in (("baseline", 0), *((("recorded neurons", len(recorded)),) if recorded is not None else ())):
        rows.append({"case": name, "localiser": label, "k": k} | _outcome(shares, label))
    return pd.DataFrame(rows), measured, scores


def located(name: str, problem: Problem, case: Case, settings: Settings, folder: Path | None) -> UnitScores:
    """A localiser's scores of a problem, kept in a folder by all that they depend on; only localisers of this package.

    What one of your own depends on, besides the problem, is not known here: it runs anew.
    """
    localiser = LOCALISERS[name]
    if folder is None or localiser.run.__module__ != localisers.__name__:
        return localiser.run(problem)
    tokenizer, template = tokenizer_of(problem.model), settings.chat_template().frozen(tokenizer_of(problem.model))
    sets = [problem.contrast.positive, problem.contrast.negative, *_kept_well(case, settings)]
    facts = [
        [sites.fingerprint(one) for one in (problem.model, problem.base) if one is not None],
        [[encode(tokenizer, one, template=template), list(one.groups)] for one in sets],
        [settings.max_new_tokens, problem.max_rows, problem.seed, problem.k, problem.objective.floor],
        [template.facts(), problem.objective.info],
    ]
    return kept_scores(folder, key_of(["localiser", name, facts]), lambda: localiser.run(problem))


def _kept_well(case: Case, settings: Settings) -> list[PromptSet]:
    return [prompts.take(100, seed=settings.seed) for prompts in case.others("tuned").values()]


def problem_of(model: Any, case: Case, settings: Settings) -> Problem:
    """What the localisers are given: discovery prompts, and the usual objective of their contrast."""
    contrast = case.contrast("tuned").take(settings.n_discovery, seed=settings.seed)
    keep = _kept_well(case, settings)
    base = None if case.base is None else load_model(case.base, dtype=settings.dtype, device=settings.device)
    template = settings.chat_template()
    how: dict[str, Any] = {"keep": keep, "template": template, "max_new_tokens": settings.max_new_tokens}
    try:
        objective = objectives.from_contrast(model, contrast, **how)
    except PromptError:
        objective = objectives.from_contrast(model, contrast, base=base, **how)
    return Problem(model, contrast, objective, Units(model), template=template, seed=settings.seed, base=base)


def _prompts(case: Case, settings: Settings) -> dict[str, PromptSet]:
    held = case.contrast("heldout")
    sets = {"behaviour": held.positive.take(settings.n_behaviour, seed=settings.seed)}
    # The negative side is graded by the same grade where it can be: requests, not questions about other things.
    if case.grade is REFUSAL_OUTCOME or case.grade.labels[0] == REQUEST.labels[0]:
        sets["other side"] = held.negative.take(settings.n_other, seed=settings.seed)
    for name, prompts in case.others("heldout").items():
        sets[name] = prompts.take(settings.n_other, seed=settings.seed)
    return sets


def _outcome(shares: pd.DataFrame, name: str) -> dict[str, float]:
    own = shares.loc[name]
    found = {label: float(own[f"behaviour: {label}"]) for label in ("shows", "well", "broken")}
    others = [column for column in shares if column.endswith(": well") and not column.startswith("behaviour")]
    return found | {f"{column.removesuffix(': well')} well": float(own[column]) for column in others}


def _row(
    case: str,
    localiser: str,
    k: int,
    circuit: Circuit,
    scores: UnitScores,
    shares: pd.DataFrame,
    oracle: UnitScores | None,
    recorded: Circuit | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case, "localiser": localiser, "k": k, "share": k / len(scores)}
    row |= _outcome(shares, f"{localiser}, {k}")
    if recorded is not None:
        found = recovery(circuit, recorded)
        row |= {"precision": found["precision"], "recall": found["recall"], "of_recorded": len(recorded)}
    if oracle is not None:
        row["rank correlation with exact"] = rank_correlation(scores, oracle)
    return row | {key: value for key, value in scores.info.get("cost", {}).items()}


def rank_correlation(scores: UnitScores, oracle: UnitScores) -> float:
    """Spearman's correlation of the scores with what putting out each unit alone does."""
    from scipy.stats import spearmanr

    a, b = (torch.cat([one.scores[site].float() for site in oracle.scores]).numpy() for one in (scores, oracle))
    return float(spearmanr(a, b).statistic) if len(np.unique(a)) > 1 else 0.0


def area(k: pd.Series, value: pd.Series) -> float:
    """Mean of a value over sizes, on a logarithmic axis (trapezoids)."""
    order = np.argsort(k.to_numpy())
    x, y = np.log(k.to_numpy()[order]), value.to_numpy()[order]
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y.mean())


def leaderboard(curve: pd.DataFrame) -> pd.DataFrame:
    """A row for each localiser: the area under *well* in every case, their mean, and what other prompts lose.

    *Kept* is the worst case's mean, over sizes, of the share of other prompts that are still done well.
    """
    rows = []
    own = curve[~curve["localiser"].isin(["baseline", "recorded neurons"])]
    kept = [column for column in curve if str(column).endswith(" well")]
    for localiser, part in own.groupby("localiser", sort=False):
        areas = {case: area(one["k"], one["well"]) for case, one in part.groupby("case", sort=False)}
        least = min(area(one["k"], one[kept].min(axis=1)) for _, one in part.groupby("case"))
        rows.append({"localiser": localiser, "mean": float(np.mean(list(areas.values()))), **areas, "kept": least})
    return pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)


def found_of(curve: pd.DataFrame) -> pd.DataFrame:
    """Precision (and, at this size, recall) of each localiser where it is recorded where a behaviour was put."""
    if "of_recorded" not in curve:
        return pd.DataFrame()
    own = curve[curve["k"] == curve["of_recorded"]]
    return own.pivot_table(index="localiser", columns="case", values="precision", sort=False).reset_index()


def cost_of(curve: pd.DataFrame) -> pd.DataFrame:
    """Passes, seconds, and agreement with exact single ablations, the mean over cases."""
    columns = ["forward_passes", "backward_passes", "seconds", "rank correlation with exact"]
    present = [column for column in columns if column in curve]
    own = curve[~curve["localiser"].isin(["baseline", "recorded neurons"])]
    return own.groupby("localiser", sort=False)[present].mean().reset_index()

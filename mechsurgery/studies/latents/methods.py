"""Every way to rank latents on one case at the same budget, and the causal check: steering along one at a time.

Validation prompts choose each latent's strength: the one of the largest change of the rate of bad responses, in the
wanted direction, at which at most a tenth of the responses are broken. Evaluation prompts of other groups then
measure the effect at that strength, so that choosing the best of several strengths does not flatter it. Responses are
sampled with the same random numbers for a prompt under every latent and strength, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float

from ...attribution.contrast import score
from ...attribution.differences import completion_difference, model_difference, random_scores
from ...attribution.gradient import latent_attribution
from ...attribution.probes import Probe
from ...attribution.splice import mean_latents, spliced_attribution
from ...attribution.statistics import contrast_statistics
from ...errors import InputError
from ...evaluation import Results, evaluate
from ...inspector.latent import LatentView
from ...intervention import BASELINE, Intervention
from ...intervention.latents import steer_latents
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...prompts import CompletionPairs
from ...prompts.chat import Template
from ...units import UnitScores
from .data import LatentCase

ATTRIBUTION = "Δ-attribution"
DIFFING = "Δ-activation between models"
COMPLETIONS = "Δ-activation of completions"
RANDOM = "random"
#: Rankings of which `k` latents are steered; of every other, `k_others`.
LARGE = (ATTRIBUTION, DIFFING)
#: Ways of steering, and the sign of the wanted change of the rate of bad responses.
DOWN, UP = "behaving model, steered down", "aligned twin, steered up"
SIGNS = {DOWN: -1, UP: 1}
MAX_BROKEN = 0.1
#: What random latents are controls of.
CHOSEN = "chosen latents"
#: Integration steps of integrated gradients.
STEPS = 8


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case with its models and autoencoders in memory. `later` reads a later layer, for the frozen splice."""

    case: LatentCase
    model: Model
    twin: Model | None
    dictionary: Dictionary
    later: Dictionary | None
    template: Template


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What was measured on one case.

    `sampled` has every response that was sampled for pairs, `exact` the effect of really removing some latents,
    `chosen` the latents that each ranking had steered, `responses` what was said then to validation and to evaluation
    prompts, `effects` what follows, both by way of steering.
    """

    case: LatentCase
    sampled: pd.DataFrame
    n_pairs: int
    scores: dict[str, UnitScores]
    probe: Probe
    exact: pd.Series
    chosen: dict[str, list[int]]
    responses: dict[str, tuple[Results, Results]]
    effects: dict[str, pd.DataFrame]
    views: list[LatentView]
    fit: dict[str, float]


def rank(
    loaded: Loaded, pairs: CompletionPairs, mean: Float[torch.Tensor, " d"], probe: Probe, *, seed: int, max_rows: int
) -> dict[str, UnitScores]:
    """{ranking: scores of all latents}, in every way that the case allows; `mean` is the mean activation."""
    model, dictionary, site = loaded.model, loaded.dictionary, loaded.dictionary.site
    means = mean_latents(model, dictionary, loaded.case.reference, template=loaded.template)
    attribute = partial(latent_attribution, model, dictionary, pairs, mean, max_rows=max_rows)
    splice = partial(spliced_attribution, model, pairs=pairs, max_rows=max_rows)
    scores = {
        ATTRIBUTION: attribute(),
        f"{ATTRIBUTION}, all tokens": attribute(positions="all"),
        "patching, live errors": splice([dictionary], means=means)[0],
        "integrated gradients": splice([dictionary], means=means, steps=STEPS)[0],
    }
    if loaded.later is not None:
        means |= mean_latents(model, loaded.later, loaded.case.reference, template=loaded.template)
        frozen = splice([dictionary, loaded.later], means=means, errors="frozen")[0]
        scores["patching, frozen errors"] = replace(frozen, scores={site: frozen.scores[site]})
    if loaded.twin is not None:
        scores[DIFFING] = model_difference(model, loaded.twin, dictionary, pairs, max_rows=max_rows)
    scores[COMPLETIONS] = completion_difference(model, dictionary, pairs, max_rows=max_rows)
    statistics = contrast_statistics(model, loaded.case.contrast, at=[dictionary], template=loaded.template)
    scores["contrast on latents"] = score(statistics, "difference")
    return scores | {"probe weight": probe.scores(), RANDOM: random_scores(model, dictionary, seed=seed)}


def top_latents(scores: UnitScores, k: int) -> list[int]:
    """The `k` latents of the highest signed score, best first, of scores at one hook point."""
    (values,) = scores.scores.values()
    return values.argsort(descending=True, stable=True)[:k].tolist()


def random_latents(
    dictionary: Dictionary, n: int, *, active: Bool[torch.Tensor, " n_latents"], not_in: Sequence[int], seed: int
) -> list[int]:
    """`n` latents drawn at random from those that are `active` on the case's text and not chosen by a ranking.

    Fewer where there are not so many, none where none is active; raises `InputError` where all that are were chosen.
    """
    alive = (dictionary.decoder.float().norm(dim=1) > 0).cpu() & active.cpu()
    pool = [latent for latent in alive.nonzero()[:, 0].tolist() if latent not in set(not_in)]
    if alive.any() and not pool:
        raise InputError(f"no latent is left for the random band besides the {len(not_in)} chosen ones; take a lower k")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return [pool[place] for place in order[:n].tolist()]


def steered(
    dictionary: Dictionary, latents: Sequence[int], random: Sequence[int], norm: float
) -> dict[int, Intervention]:
    """{latent: steering along it}: the chosen latents, then the random ones, which are controls of the chosen."""
    every = [*latents, *random]
    runs = dict(zip(every, steer_latents(dictionary, every, norm)))
    return runs | {latent: replace(runs[latent], control_of=CHOSEN) for latent in random}


def steer_each(
    model: Model,
    case: LatentCase,
    runs: Mapping[int, Intervention],
    strengths: Sequence[float],
    *,
    sign: int,
    **options: Any,
) -> tuple[Results, Results]:
    """Responses to validation prompts at every strength, and to evaluation prompts at each latent's best one.

    `sign` is that of the wanted change of the rate of bad responses; other `options` go to `evaluate`.
    """
    how = options | {"grades": [case.grade]}
    sweep = [one for run in runs.values() for one in run.at([sign * strength for strength in strengths])]
    validation = evaluate(model, {"validation": case.validation}, sweep, **how)
    best = chosen_strengths(validation.summary([case.grade.name]), sign=sign)
    tried = [run.at(best[run.name]) for run in runs.values() if run.name in best]
    return validation, evaluate(model, {"evaluation": case.evaluation}, tried, **how)


def chosen_strengths(summary: pd.DataFrame, *, sign: int) -> dict[str, float]:
    """{intervention: its best strength} by responses to validation prompts; those without an allowed one are left out.

    The strength of the largest change in the direction of `sign` with at most a tenth broken responses; of equal
    ones the weakest.
    """
    rows = summary[summary["kind"] != BASELINE.kind]
    shares = rows.pivot_table("value", ["intervention", "strength"], "label").reset_index()
    allowed = shares[shares["broken"] <= MAX_BROKEN]
    order = allowed.assign(effect=sign * allowed["bad"], size=allowed["strength"].abs())
    best = order.sort_values(["effect", "size"], ascending=[False, True]).drop_duplicates("intervention")
    return dict(zip(best["intervention"], best["strength"]))

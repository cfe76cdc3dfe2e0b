"""Every way to rank latents on one case at the same budget, and the causal check: steering along one at a time.

Steering a behaving model down is judged by the rise of good responses, since a behaviour that is gone is not one that
is repaired; steering its twin up by the rise of bad ones. Validation prompts choose each latent's strength: that of the
largest rise at which broken responses rise by at most `max_broken`. Evaluation prompts of other groups then measure the
effect there, so that choosing the best of several strengths does not flatter it. Responses are sampled with the same
random numbers for a prompt under every latent and strength, so that differences are paired.

Chosen and random latents come from one pool: those that are active on the case's prompts and completions. Random ones
are drawn from all of it, so a latent may be both. Two cases draw alike, so that many random latents are of both.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float

from ...attribution.contrast import score
from ...attribution.differences import completion_difference, model_difference, random_scores
from ...attribution.gradient import Positions, latent_attribution
from ...attribution.kept import kept_scores
from ...attribution.probes import Probe
from ...attribution.splice import mean_latents, spliced_attribution
from ...attribution.statistics import contrast_statistics
from ...evaluation import Results, evaluate
from ...evaluation.shards import key_of
from ...grading.grade import Grade
from ...inspector import UnitView
from ...intervention import BASELINE, Intervention
from ...intervention.latents import steer_latents
from ...models import sites
from ...models.dictionaries import Dictionary, latent_means
from ...models.protocol import Model
from ...models.tokens import tokenizer_of
from ...prompts import CompletionPairs, ContrastSet, encode
from ...prompts.chat import Template
from ...prompts.sets import first_groups
from ...units import UnitScores
from .data import LatentCase

ATTRIBUTION = "Δ-attribution"
ALL_TOKENS = f"{ATTRIBUTION}, all tokens"
DIFFING = "Δ-activation between models"
COMPLETIONS = "Δ-activation of completions"
RANDOM = "random"
#: Rankings of which `k` latents are steered; of every other, `k_others`.
LARGE = (ATTRIBUTION, ALL_TOKENS, DIFFING)
#: Ways of steering.
DOWN, UP = "behaving model, steered down", "aligned twin, steered up"
#: Latents are said to steer at this false-discovery rate.
FDR = 0.05
#: The labels of a case's grade, as tables show them.
LABELS = ("good", "bad", "broken")
#: What random latents are controls of.
CHOSEN = "chosen latents"
#: Positions at which latents are really removed.
REMOVED: tuple[Positions, ...] = ("prompt", "all")
#: Integration steps of integrated gradients.
STEPS = 8


class Way(NamedTuple):
    """The sign of the strength, and the label whose share is to rise."""

    sign: int
    wanted: str


WAYS = {DOWN: Way(-1, "good"), UP: Way(1, "bad")}


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

    `sampled` has every response that was sampled for pairs, `pairs` those that gave the scores and those on which
    removal is checked. `pool` are the active latents, `exact` the effect of really removing some of them (a column for
    each choice of positions), `chosen` the latents that each ranking had steered, `random` those drawn from the pool.
    By way of steering: `responses` to validation and to evaluation prompts, `effects` a row a latent, `gains` a row a
    latent and a column an evaluation prompt (named by its group), whose mean the effect is. `explained` are the best
    latents' explanations with their scores, `benchmarks` what steering the best of them down does to other things.
    """

    case: LatentCase
    sampled: pd.DataFrame
    pairs: tuple[CompletionPairs, CompletionPairs]
    scores: dict[str, UnitScores]
    probe: Probe
    pool: list[int]
    exact: pd.DataFrame
    chosen: dict[str, list[int]]
    random: list[int]
    responses: dict[str, tuple[Results, Results]]
    effects: dict[str, pd.DataFrame]
    gains: dict[str, pd.DataFrame]
    views: list[UnitView]
    fit: dict[str, float]
    explained: pd.DataFrame
    benchmarks: pd.DataFrame


def halves(pairs: CompletionPairs, *, seed: int) -> tuple[CompletionPairs, CompletionPairs]:
    """Pairs that give scores, and pairs of other groups on which the scores are checked.

    Raises `PromptError` where there is one group only.
    """
    first = first_groups(pairs.groups, 0.5, seed)
    return _where(pairs, [g in first for g in pairs.groups]), _where(pairs, [g not in first for g in pairs.groups])


def _where(pairs: CompletionPairs, keep: Sequence[bool]) -> CompletionPairs:
    rows = [i for i, kept in enumerate(keep) if kept]
    prompts, bad, good = (tuple(part[i] for i in rows) for part in (pairs.prompts, pairs.bad, pairs.good))
    return CompletionPairs(prompts, bad, good, tuple(pairs.groups[i] for i in rows))


def without_groups(contrast: ContrastSet, groups: Sequence[str]) -> ContrastSet:
    """The contrast without the prompts of some groups."""
    sides = (side.where(lambda p: p.group not in set(groups)) for side in (contrast.positive, contrast.negative))
    return ContrastSet(contrast.name, *sides)


def active_latents(model: Model, dictionary: Dictionary, pairs: CompletionPairs, *, max_rows: int) -> list[int]:
    """The pool: latents with a direction that are active on some token of a prompt or of either completion."""
    rows = [[*p, *c] for side in (pairs.bad, pairs.good) for p, c in zip(pairs.prompts, side)]
    active = latent_means(model, dictionary, rows, max_rows=max_rows).cpu() > 0
    return (active & (dictionary.decoder.float().norm(dim=1) > 0).cpu()).nonzero()[:, 0].tolist()


def ranking_key(loaded: Loaded, pairs: CompletionPairs, contrast: ContrastSet, *, seed: int, max_rows: int) -> str:
    """A digest of everything that rankings of a case depend on: models, autoencoders, tokens, groups, seed, batches."""
    tokenizer = tokenizer_of(loaded.model)
    sets = (loaded.case.reference, contrast.positive, contrast.negative)
    facts = [
        sites.fingerprint(loaded.model),
        None if loaded.twin is None else sites.fingerprint(loaded.twin),
        loaded.dictionary.digest,
        None if loaded.later is None else loaded.later.digest,
        asdict(pairs),
        [encode(tokenizer, one, template=loaded.template) for one in sets],
        [list(one.groups) for one in sets],
        loaded.template.facts(),
    ]
    return key_of(["latents ranked", facts, seed, max_rows])


def rank(
    loaded: Loaded,
    pairs: CompletionPairs,
    contrast: ContrastSet,
    mean: Float[torch.Tensor, " d"],
    probe: Probe,
    *,
    seed: int,
    max_rows: int,
    folder: Path | None = None,
    key: str = "",
) -> dict[str, UnitScores]:
    """{ranking: scores of all latents}, in every way that the case allows; `mean` is the mean activation.

    With a `folder` every ranking is kept there as it is made, under `key` (`ranking_key`).
    """
    model, dictionary, site = loaded.model, loaded.dictionary, loaded.dictionary.site
    attribute = partial(latent_attribution, model, dictionary, pairs, mean, max_rows=max_rows)
    splice = partial(spliced_attribution, model, pairs=pairs, max_rows=max_rows)

    @cache
    def means(*of: Dictionary) -> dict[str, torch.Tensor]:
        found = [mean_latents(model, one, loaded.case.reference, template=loaded.template) for one in of]
        return {site: values for one in found for site, values in one.items()}

    def frozen(later: Dictionary) -> UnitScores:
        both = splice([dictionary, later], means=means(dictionary, later), errors="frozen")[0]
        return replace(both, scores={site: both.scores[site]})

    def on_contrast() -> UnitScores:
        return score(contrast_statistics(model, contrast, at=[dictionary], template=loaded.template), "difference")

    live = partial(splice, [dictionary])
    ways: dict[str, Callable[[], UnitScores]] = {
        ATTRIBUTION: attribute,
        ALL_TOKENS: partial(attribute, positions="all"),
        "patching, live errors": lambda: live(means=means(dictionary))[0],
        "integrated gradients": lambda: live(means=means(dictionary), steps=STEPS)[0],
    }
    if loaded.later is not None:
        ways["patching, frozen errors"] = partial(frozen, loaded.later)
    if loaded.twin is not None:
        ways[DIFFING] = partial(model_difference, model, loaded.twin, dictionary, pairs, max_rows=max_rows)
    ways[COMPLETIONS] = partial(completion_difference, model, dictionary, pairs, max_rows=max_rows)
    ways["contrast on latents"] = on_contrast
    scores = {name: kept_scores(folder, key_of([key, name]), make) for name, make in ways.items()}
    return scores | {"probe weight": probe.scores(), RANDOM: random_scores(model, dictionary, seed=seed)}


def top_latents(scores: UnitScores, k: int, pool: Sequence[int] | None = None) -> list[int]:
    """The `k` latents of the highest signed score, best first, of those in the pool; scores are of one hook point."""
    (values,) = scores.scores.values()
    order = values.argsort(descending=True, stable=True).tolist()
    allowed = set(order if pool is None else pool)
    return [latent for latent in order if latent in allowed][:k]


def random_latents(pool: Sequence[int], n: int, *, seed: int) -> list[int]:
    """`n` latents of the pool at random, all where there are not so many.

    Every latent has a random number of its own and the lowest are drawn, so two pools that overlap draw alike.
    """
    return sorted(pool, key=lambda latent: randomness.Random(f"latents:{seed}:{latent}").random())[:n]


def steered(
    dictionary: Dictionary, latents: Sequence[int], random: Sequence[int], norm: float
) -> dict[int, Intervention]:
    """{latent: steering along it}: the chosen latents, then the random ones, controls where they are not chosen too."""
    every = list(dict.fromkeys([*latents, *random]))
    runs = dict(zip(every, steer_latents(dictionary, every, norm)))
    return runs | {latent: replace(runs[latent], control_of=CHOSEN) for latent in set(random) - set(latents)}


def steer_each(
    model: Model,
    case: LatentCase,
    runs: Mapping[int, Intervention],
    strengths: Sequence[float],
    way: Way,
    rubric: Sequence[Grade] = (),
    *,
    max_broken: float,
    **options: Any,
) -> tuple[Results, Results]:
    """Responses to validation prompts at every strength, and to evaluation prompts at each latent's best one.

    `rubric` grades the latter too. Other `options` go to `evaluate`.
    """
    how = options | {"grades": [case.grade]}
    sweep = [one for run in runs.values() for one in run.at([way.sign * strength for strength in strengths])]
    validation = evaluate(model, {"validation": case.validation}, sweep, **how)
    best = chosen_strengths(validation.summary([case.grade.name]), way.wanted, max_broken)
    tried = [run.at(best[run.name]) for run in runs.values() if run.name in best]
    final = how | {"grades": [case.grade, *([] if case.rule is None else [case.rule]), *rubric]}
    return validation, evaluate(model, {"evaluation": case.evaluation}, tried, **final)


def chosen_strengths(summary: pd.DataFrame, wanted: str, max_broken: float) -> dict[str, float]:
    """{intervention: its best strength} by responses to validation prompts; those without an allowed one are left out.

    The strength of the largest share of the `wanted` label of those at which broken responses rise by at most
    `max_broken` over the *unmodified model's*, which may be wrong now and then by itself; of equal ones the weakest.
    """
    rows = summary[summary["kind"] != BASELINE.kind]
    rises = rows.pivot_table("difference", ["intervention", "strength"], "label").reset_index()
    allowed = rises[rises["broken"] <= max_broken + 1e-9]
    order = allowed.assign(size=allowed["strength"].abs()).sort_values([wanted, "size"], ascending=[False, True])
    best = order.drop_duplicates("intervention")
    return dict(zip(best["intervention"], best["strength"]))

"""Everything that is measured on one case: pairs, rankings, the oracle, the causal check, and latents to read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ...attribution.gradient import exact_removal, mean_activation
from ...attribution.probes import Probe, fit_probe
from ...evaluation import Generation
from ...evaluation.sampling import sample_pairs
from ...inspector.latent import LatentView, inspect_latents
from ...models.capture import median_norm
from ...models.dictionaries import fit_quality, latent_means
from ...models.tokens import tokenizer_of
from ...prompts import encode
from ...units import UnitScores
from .data import LatentCase
from .methods import ATTRIBUTION, DIFFING, Loaded, random_latents, rank, steered, top_latents
from .settings import Settings
from .steering import DOWN, SIGNS, Steering, steer_each


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What was measured on one case.

    `sampled` has every response that was sampled for pairs, `exact` the effect of really removing some latents,
    `chosen` the latents that each ranking had steered, `steering` what that did, by way of steering.
    """

    case: LatentCase
    sampled: pd.DataFrame
    n_pairs: int
    scores: dict[str, UnitScores]
    probe: Probe
    exact: pd.Series
    chosen: dict[str, list[int]]
    steering: dict[str, Steering]
    views: list[LatentView]
    fit: dict[str, float]


def measure_case(loaded: Loaded, settings: Settings, *, folder: Path | None, progress: bool) -> CaseResult:
    """Sample pairs, rank, remove, steer and read the latents of one case."""
    case, model, dictionary, template = loaded.case, loaded.model, loaded.dictionary, loaded.template
    seed, rows = settings.seed, max(1, settings.max_rows // 8)  # batches with gradients or latents are smaller
    answers = (settings.max_new_tokens, settings.temperature, (seed,), template, (), settings.max_rows)
    generation, pairs, sampled = Generation(*answers), case.pairs, pd.DataFrame()
    if pairs is None:
        sizes = {"n_samples": settings.n_samples, "max_pairs": settings.n_pairs}
        drawn = sample_pairs(model, case.discovery, case.grade, **sizes, generation=generation, progress=progress)
        pairs, sampled = drawn.pairs, drawn.table
    mean = mean_activation(model, case.reference, dictionary.hook_name, template=template)
    probe = fit_probe(model, case.contrast, [dictionary], seed=seed, template=template)
    scores = rank(loaded, pairs, mean, probe, seed=seed, max_rows=rows)
    budget = {ATTRIBUTION: settings.k, DIFFING: settings.k}
    chosen = {name: top_latents(one, budget.get(name, settings.k_others)) for name, one in scores.items()}
    every = list(dict.fromkeys(latent for latents in chosen.values() for latent in latents))
    shown = [[*prompt, *bad] for prompt, bad in zip(pairs.prompts, pairs.bad)]
    active = latent_means(model, dictionary, shown, max_rows=rows) > 0
    random = random_latents(dictionary, settings.n_random, active=active, not_in=every, seed=seed)
    removed = sorted([*chosen[ATTRIBUTION][: settings.n_oracle // 2], *random][: settings.n_oracle])
    exact = exact_removal(model, dictionary, removed, pairs, mean, max_rows=4 * rows)
    ids = encode(tokenizer_of(model), case.reference, template=template)
    runs = steered(dictionary, every, random, median_norm(model, ids, dictionary.hook_name))
    steer = partial(steer_each, case=case, runs=runs, generation=generation, folder=folder, progress=progress)
    models = {way: model if way == DOWN else loaded.twin for way in SIGNS}
    steering = {
        way: steer(one, strengths=settings.strengths, sign=SIGNS[way]) for way, one in models.items() if one is not None
    }
    views = inspect_latents(model, dictionary, chosen[ATTRIBUTION][: settings.read], shown, max_rows=rows)
    fit = fit_quality(model, dictionary, shown, max_rows=rows)
    kept = pd.Series(exact.tolist(), index=removed)
    return CaseResult(case, sampled, len(pairs), scores, probe, kept, chosen, steering, views, fit)

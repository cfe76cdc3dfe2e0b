"""What is measured on a case: pairs and rankings, then the chosen latents steered, and the best ones read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ...attribution.gradient import exact_removal, mean_activation
from ...attribution.kept import kept_probe, kept_tensors
from ...attribution.probes import Probe, fit_probe
from ...errors import PromptError
from ...evaluation import Generation, evaluate
from ...evaluation.benchmarks import benchmark_grades, benchmark_sets, benchmark_table
from ...evaluation.sampling import sample_pairs
from ...evaluation.shards import Shards, key_of
from ...grading.judges import Judge
from ...inspector import inspect_latents
from ...inspector.interpretation import Reader, TokenReader, gather, interpret
from ...inspector.judge_reader import JudgeReader
from ...intervention import Intervention
from ...models import sites
from ...models.capture import median_norm
from ...models.dictionaries import fit_quality
from ...models.protocol import Model
from ...models.tokens import tokenizer_of
from ...prompts import CompletionPairs, encode
from ...units import UnitScores
from . import methods
from .methods import ALL_TOKENS, ATTRIBUTION, RANDOM, CaseResult, Loaded
from .settings import Settings
from .tables import effects_of, gains_of

#: Best latents that are also steered on the benchmarks.
ON_BENCHMARKS = 3


@dataclass(frozen=True, eq=False)
class Ranked:
    """A case with its pairs and rankings, before anything is steered. `pairs` are all, `parts` its two halves."""

    loaded: Loaded
    sampled: pd.DataFrame
    pairs: CompletionPairs
    parts: tuple[CompletionPairs, CompletionPairs]
    scores: dict[str, UnitScores]
    probe: Probe
    pool: list[int]
    exact: pd.DataFrame
    chosen: dict[str, list[int]]


def generation_of(loaded: Loaded, settings: Settings) -> Generation:
    """How responses are sampled."""
    seeds, answers = (settings.seed,), (settings.max_new_tokens, settings.temperature)
    return Generation(*answers, seeds, loaded.template, (), settings.max_rows)


def rank_case(loaded: Loaded, settings: Settings, *, folder: Path | None, progress: bool | None) -> Ranked:
    """Sample pairs, rank all latents in every way, and remove some. Raises `PromptError` where no latent is active."""
    case, model, dictionary = loaded.case, loaded.model, loaded.dictionary
    seed, rows = settings.seed, max(1, settings.max_rows // 8)  # batches with gradients or latents are smaller
    pairs, sampled = case.pairs, pd.DataFrame()
    if pairs is None:
        how: dict[str, Any] = {"generation": generation_of(loaded, settings), "folder": folder, "progress": progress}
        how |= {"n_samples": settings.n_samples, "max_pairs": settings.n_pairs}
        drawn = sample_pairs(model, case.discovery, case.grade, **how)
        pairs, sampled = drawn.pairs, drawn.table
    scoring, checking = methods.halves(pairs, seed=seed)
    contrast = methods.without_groups(case.contrast, checking.groups)
    key = methods.ranking_key(loaded, scoring, contrast, seed=seed, max_rows=rows)
    keep = {name: (folder, key_of([key, name])) for name in ("mean activation", "probe", "pool")}
    at, how = dictionary.write_name, {"template": loaded.template}
    mean = kept_tensors(*keep["mean activation"], lambda: {"mean": mean_activation(model, case.reference, at, **how)})[
        "mean"
    ]
    probe = kept_probe(*keep["probe"], lambda: fit_probe(model, contrast, [dictionary], seed=seed, **how))
    options: dict[str, Any] = {"seed": seed, "max_rows": rows, "folder": folder, "key": key}
    scores = methods.rank(loaded, scoring, contrast, mean, probe, **options)
    active = partial(methods.active_latents, model, dictionary, scoring, max_rows=rows)
    pool = kept_tensors(*keep["pool"], lambda: {"pool": torch.tensor(active())})["pool"].tolist()
    if not pool:
        raise PromptError(f"no latent of {dictionary.name!r} is active on {case.name!r}; give an SAE of this model")
    chosen = {
        name: methods.top_latents(one, settings.k if name in methods.LARGE else settings.k_others, pool)
        for name, one in scores.items()
        if name != RANDOM
    }
    exact = _exact(loaded, pool, checking, mean, settings, folder)
    return Ranked(loaded, sampled, pairs, (scoring, checking), scores, probe, pool, exact, chosen)


def _exact(
    loaded: Loaded, pool: Sequence[int], pairs: CompletionPairs, mean: Any, settings: Settings, folder: Path | None
) -> pd.DataFrame:
    """The oracle on pairs that gave no score: what removing each of some random latents of the pool really does."""
    removed = sorted(methods.random_latents(pool, settings.n_oracle, seed=settings.seed + 1))
    shards = Shards(folder).of(sites.fingerprint(loaded.model))
    facts = [loaded.dictionary.digest, removed, asdict(pairs), mean.tolist(), list(methods.REMOVED)]
    key = key_of("exact removal", *facts)
    found = shards.find(key)
    if found is None:
        rows = max(1, settings.max_rows // 2)
        remove = partial(exact_removal, loaded.model, loaded.dictionary, removed, pairs, mean, max_rows=rows)
        found = pd.DataFrame({where: remove(positions=where).tolist() for where in methods.REMOVED})
        shards.write(key, found)
    return found.set_axis(removed)


def shared_with(ranked: Ranked, partner: Ranked | None, k: int) -> list[int]:
    """The partner's `k` best latents by Δ-attribution, which are steered here too, where both have one autoencoder."""
    if partner is None or partner.loaded.dictionary.digest != ranked.loaded.dictionary.digest:
        return []
    return partner.chosen[ATTRIBUTION][:k]


def steer_case(
    ranked: Ranked,
    shared: Sequence[int],
    settings: Settings,
    *,
    judge: Judge | None,
    folder: Path | None,
    progress: bool | None,
) -> CaseResult:
    """Steer the chosen latents, random ones of the pool and the `shared` ones, then read and explain the best."""
    loaded, chosen = ranked.loaded, ranked.chosen
    case, model, dictionary, template = loaded.case, loaded.model, loaded.dictionary, loaded.template
    rows = max(1, settings.max_rows // 8)
    every = list(dict.fromkeys([*(latent for latents in chosen.values() for latent in latents), *shared]))
    random = methods.random_latents(ranked.pool, settings.n_random, seed=settings.seed)
    ids = encode(tokenizer_of(model), case.reference, template=template)
    runs = methods.steered(dictionary, every, random, median_norm(model, ids, dictionary.write_name))
    how: dict[str, Any] = {"generation": generation_of(loaded, settings), "folder": folder, "progress": progress}
    responses, effects, gains = {}, {}, {}
    cap = settings.max_broken
    for name, one in {methods.DOWN: model, methods.UP: loaded.twin}.items():
        if one is not None:
            way = methods.WAYS[name]
            tried = (runs, settings.strengths, way, settings.rubric())
            responses[name] = methods.steer_each(one, case, *tried, max_broken=cap, **how)
            effects[name] = effects_of(responses[name][1], case.grade, runs, random, way, cap)
            gains[name] = gains_of(responses[name][1], case.grade, effects[name], way)
    shown = [[*prompt, *bad] for prompt, bad in zip(ranked.pairs.prompts, ranked.pairs.bad)]
    return CaseResult(
        case,
        ranked.sampled,
        ranked.parts,
        ranked.scores,
        ranked.probe,
        ranked.pool,
        ranked.exact,
        chosen,
        random,
        responses,
        effects,
        gains,
        inspect_latents(model, dictionary, chosen[ATTRIBUTION][: settings.read], shown, max_rows=rows),
        fit_quality(model, dictionary, shown, max_rows=rows),
        _explained(ranked, settings, judge, rows),
        _benchmarks(model, settings, effects[methods.DOWN], chosen, runs, how),
    )


def _benchmarks(
    model: Model,
    settings: Settings,
    effects: pd.DataFrame,
    chosen: Mapping[str, Sequence[int]],
    runs: Mapping[int, Intervention],
    how: Mapping[str, Any],
) -> pd.DataFrame:
    """The benchmarks named by the settings before and after steering the best latents of Δ-attribution down."""
    if not settings.benchmark:
        return pd.DataFrame()
    found = settings.benchmarks(model)
    own = effects[effects["latent"].isin({*chosen[ATTRIBUTION], *chosen[ALL_TOKENS]}) & effects["strength"].notna()]
    best = own.nlargest(ON_BENCHMARKS, "effect")
    tried = [runs[latent].at(strength) for latent, strength in zip(best["latent"], best["strength"])]
    measured = evaluate(model, benchmark_sets(found), tried, grades=benchmark_grades(found), **how)
    return benchmark_table(measured, found)


def _explained(ranked: Ranked, settings: Settings, judge: Judge | None, rows: int) -> pd.DataFrame:
    """Explanations of the best latents of both kinds of Δ-attribution, by tokens alone and by a judge where named."""
    pairs, loaded = ranked.pairs, ranked.loaded
    both = zip(ranked.chosen[ATTRIBUTION], ranked.chosen[ALL_TOKENS])
    latents = list(dict.fromkeys(latent for two in both for latent in two))[: settings.n_explained]
    texts = [[*prompt, *said] for side in (pairs.bad, pairs.good) for prompt, said in zip(pairs.prompts, side)]
    groups = [*pairs.groups, *pairs.groups]
    how: dict[str, Any] = {"seed": settings.seed, "max_rows": rows}
    gathered = gather(loaded.model, loaded.dictionary, latents, texts, groups, **how)
    readers: list[Reader] = [TokenReader(), *([] if judge is None else [JudgeReader(judge)])]
    return pd.concat([interpret(reader, gathered, seed=settings.seed) for reader in readers], ignore_index=True)

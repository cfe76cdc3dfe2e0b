"""The latents study: rank the latents of each case in every way, prove the rankings by steering, read the best.

"Debugging misaligned completions with sparse-autoencoder latent attribution" (2025), with what it lacks: intervals,
a band of random latents with false-discovery control, and the exact effect of removing one latent as an oracle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...artifacts import provenance, write_atomically
from ...attribution.probes import Probe
from ...errors import InputError, MismatchError
from ...evaluation import Results
from ...evaluation.sampling import sample_pairs
from ...inspector.latent import LatentView, inspect_latents
from ...intervention.latents import median_norm
from ...models import load_model, sites
from ...models.dictionaries import Dictionary, fit_quality, latent_means
from ...prompts import encode
from ...prompts.pairs import CompletionPairs
from ...units import UnitScores
from ..base import Study
from . import steering
from .cases import WORLD_CASES, LatentCase, world_case
from .figures import figures
from .page import sections
from .ranking import ATTRIBUTION, chosen_latents, oracle_table, rank
from .tables import tables

logger = logging.getLogger(__name__)

DIRECTIONS = {"behaving model, steered down": -1, "aligned twin, steered up": 1}


@dataclass(eq=False)
class CaseResult:
    """Everything measured on one case."""

    case: LatentCase
    sampled: pd.DataFrame
    pairs: CompletionPairs
    scores: dict[str, UnitScores]
    probe: Probe
    oracle: pd.DataFrame
    correlations: pd.DataFrame
    chosen: dict[str, list[int]]
    controls: list[int]
    results: dict[str, Results]
    graded: dict[str, pd.DataFrame]
    effects: dict[str, pd.DataFrame]
    views: list[LatentView]
    fit: dict[str, float]


@dataclass(frozen=True, eq=False)
class LatentStudy(Study):
    """The study's tables and figures by name, all steered responses, every ranking's scores, and the cases."""

    cases: tuple[CaseResult, ...] = ()

    quiet: tuple[str, ...] = field(default=("Oracle", "Steering", "Responses", "Reading"), kw_only=True)

    def save(self, out: str | Path) -> str:
        """As every study; the sampled completions are kept too."""
        for result in self.cases:
            path = Path(out) / "results" / f"sampled_{result.case.name.split('/')[-1]}.parquet"
            write_atomically(path, lambda target, t=result.sampled: t.to_parquet(target, index=False))
        return super().save(out)


def latents(
    cases: Sequence[str | LatentCase] = WORLD_CASES,
    sae: str | Path | tuple[str, str] | Dictionary = "organism/sae-topk-4",
    *,
    later_sae: str | Path | tuple[str, str] | Dictionary | None = None,
    out: str | Path | None = None,
    k: int = 100,
    k_others: int = 20,
    n_random: int = 50,
    n_pairs: int = 100,
    n_samples: int = 16,
    n_oracle: int = 100,
    fractions: Sequence[float] = steering.FRACTIONS,
    read: int = 5,
    temperature: float = 1.0,
    max_new_tokens: int = 32,
    seed: int = 0,
    template: str = "auto",
    dtype: str = "float32",
    device: str | None = None,
    max_rows: int = 256,
    progress: bool = False,
) -> LatentStudy:
    """Run the study on one or several cases with one autoencoder.

    A case is the name of a case-study organism or a `LatentCase` (`own_case`). `sae` is what `load_sae` takes (a
    pair for release and id) or a loaded dictionary; `later_sae`, one of a later layer, adds the splice with frozen
    errors. `k` latents of Δ-attribution and of model diffing are steered one by one, `k_others` of every other
    ranking, and `n_random` random ones. With `out`, what is measured is kept there as it goes and an interrupted
    study continues. Raises what the parts raise, `MismatchError` where the autoencoder does not fit the model.
    """
    started = time.monotonic()
    if min(k, k_others, n_random, n_pairs, read) < 1 or not cases or not fractions:
        raise InputError("k, k_others, n_random, n_pairs, read, cases and fractions must each be at least one")
    if later_sae is None and sae in ("organism/sae-topk-2", "organism/sae-standard-2"):
        later_sae = str(sae).replace("-2", "-4")
    settings = {
        "n_samples": n_samples,
        "n_pairs": n_pairs,
        "k": k,
        "k_others": k_others,
        "n_random": n_random,
        "n_oracle": n_oracle,
        "fractions": list(fractions),
        "read": read,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "template": template,
        "max_rows": max_rows,
    }
    done: list[CaseResult] = []
    dictionary: Dictionary | None = None
    for number, case in enumerate(cases):
        own = world_case(case, seed=seed) if isinstance(case, str) else case
        model, twin = (
            load_model(m, dtype=dtype, device=device) if isinstance(m, str) else m for m in (own.model, own.twin)
        )
        dictionary = _dictionary(sae, model, device)
        later = None if later_sae is None else _dictionary(later_sae, model, device)
        if later is not None and sites.layer_of(later.hook_name) <= sites.layer_of(dictionary.hook_name):
            raise MismatchError(
                f"later_sae reads {later.hook_name!r}, sae {dictionary.hook_name!r}; give one of a later layer"
            )
        folder = None if out is None else Path(out) / "measured" / str(number)
        done.append(_run(own, model, twin, dictionary, later, folder=folder, progress=progress, **settings))
    assert dictionary is not None
    info = provenance(
        title=f"SAE-latent attribution of {', '.join(r.case.name for r in done)}",
        cases=[r.case.name for r in done],
        models=[str(r.scores[ATTRIBUTION].info["model"]) for r in done],
        fingerprints=[r.scores[ATTRIBUTION].info["fingerprint"] for r in done],
        sae=dictionary.name,
        sae_digest=dictionary.digest,
        hook_name=dictionary.hook_name,
        n_latents=dictionary.n_latents,
        prompts={r.case.name: r.case.describe() for r in done},
        **settings,
        twins=[r.case.twin is not None for r in done],
        seconds=round(time.monotonic() - started),
    )
    scores = {f"{r.case.name} {name}": one for r in done for name, one in r.scores.items()}
    results = {f"{r.case.name} {name}": one for r in done for name, one in r.results.items()}
    found = tables(done, dictionary)
    made = LatentStudy(found, figures(done, dictionary), results, scores, info, cases=tuple(done))
    made = replace(made, sections=tuple(sections(made)))
    if out is not None:
        logger.info("%s", made.save(out))
    return made


def _dictionary(sae: Any, model: Any, device: str | None) -> Dictionary:
    if isinstance(sae, Dictionary):
        return sae.check(model)
    source, sae_id = sae if isinstance(sae, tuple) else (sae, None)
    return load_sae(source, sae_id, model=model, device=device)


def _run(
    case: LatentCase,
    model: Any,
    twin: Any,
    dictionary: Dictionary,
    later: Dictionary | None,
    *,
    folder: Path | None,
    progress: bool,
    n_samples: int,
    n_pairs: int,
    k: int,
    k_others: int,
    n_random: int,
    n_oracle: int,
    fractions: Sequence[float],
    read: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    template: str,
    max_rows: int,
) -> CaseResult:
    small = max(1, max_rows // 8)
    pairs, sampled = case.pairs, pd.DataFrame(columns=["prompt_id", "group", "sample", "response", "grade"])
    if pairs is None:
        made = sample_pairs(
            model,
            case.discovery,
            case.grade,
            n_samples=n_samples,
            max_pairs=n_pairs,
            max_new_tokens=max_new_tokens,
            seed=seed,
            template=template,
            max_rows=max_rows,
            progress=progress,
        )
        pairs, sampled = made.pairs, made.table
    scores, mean, probe = rank(
        case, model, twin, dictionary, pairs, seed=seed, template=template, max_rows=small, other=later
    )
    site = dictionary.site
    chosen = chosen_latents(scores, site, k, k_others)
    every = list(dict.fromkeys(latent for latents in chosen.values() for latent in latents))
    rows = [[*p, *c] for p, c in zip(pairs.prompts, pairs.bad)]
    active = latent_means(model, dictionary, rows, max_rows=small) > 0
    controls = steering.random_latents(dictionary, n_random, active=active, not_in=every, seed=seed)
    some = [*chosen[ATTRIBUTION][: n_oracle // 2], *controls][:n_oracle]
    oracle, correlations = oracle_table(model, dictionary, pairs, mean, scores, some, max_rows=small)
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "template": template,
        "folder": folder,
        "max_rows": max_rows,
        "progress": progress,
    }
    norm = median_norm(model, encode(model.tokenizer, case.reference, template=template), dictionary.hook_name)
    results, graded, effects = {}, {}, {}
    for name, sign in DIRECTIONS.items():
        target = model if sign < 0 else twin
        if target is None:
            continue
        tried = {latent: [sign * fraction for fraction in fractions] for latent in [*every, *controls]}
        screened = steering.steer_all(target, dictionary, tried, case.validation, norm, **options)
        strengths = steering.chosen_strengths(
            steering.graded(screened, case.validation, case.grade), list(tried), sign=sign
        )
        results[f"{name}, validation"] = screened
        results[name] = steering.steer_all(target, dictionary, strengths, case.evaluation, norm, **options)
        graded[name] = steering.graded(results[name], case.evaluation, case.grade)
        effects[name] = steering.effects(graded[name], strengths, controls, sign=sign)
    views = inspect_latents(model, dictionary, chosen[ATTRIBUTION][:read], rows, max_rows=small)
    fit = fit_quality(model, dictionary, rows, max_rows=small)
    return CaseResult(
        case,
        sampled,
        pairs,
        scores,
        probe,
        oracle,
        correlations,
        chosen,
        controls,
        results,
        graded,
        effects,
        views,
        fit,
    )

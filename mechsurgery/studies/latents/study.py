"""The latents study: rank the latents of each case in every way, prove the rankings by steering, read the best.

"Debugging misaligned completions with sparse-autoencoder latent attribution" (2025), with what it lacks: intervals,
random latents of the same pool with permutation tests, false-discovery control, and the exact effect of removing one
latent as an independent oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...artifacts import provenance
from ...attribution.gradient import exact_removal, mean_activation
from ...attribution.probes import fit_probe
from ...errors import InputError, MismatchError, PromptError
from ...evaluation import Generation
from ...evaluation.sampling import sample_pairs
from ...inspector import inspect_latents
from ...models import load_model, sites
from ...models.capture import median_norm
from ...models.dictionaries import Dictionary, fit_quality
from ...models.tokens import tokenizer_of
from ...prompts import CompletionPairs, encode
from ...reports import Study, kept
from . import methods
from .claims import claims
from .data import DEFAULTS, LatentCase, cases_of
from .figures import figures
from .methods import ATTRIBUTION, RANDOM, CaseResult, Loaded
from .page import page_of
from .settings import Settings
from .tables import effects_of, gains_of, tables

#: Tables that `text` leaves out.
QUIET = ("Oracle", "Steering", "Responses", "Reading")
#: The organisms have autoencoders of one kind at two layers.
_LATER = {f"organism/sae-{kind}-2": f"organism/sae-{kind}-4" for kind in ("topk", "standard")}


@kept("latents", Settings)
def run(
    settings: Settings = DEFAULTS,
    data: Sequence[LatentCase] | None = None,
    *,
    dictionary: Dictionary | None = None,
    later: Dictionary | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Study:
    """Run the study on one or several cases with one autoencoder.

    `data` are cases of your own (`own_case`, with names of models or loaded ones); else the settings say which. Loaded
    autoencoders may be given; `later`, one of a later layer, adds the splice with frozen errors. With `out`, what is
    measured is kept there as it goes and an interrupted study continues. Raises what the parts raise, `MismatchError`
    where an autoencoder does not fit the model.
    """
    cases = cases_of(settings) if data is None else list(data)
    if not cases:
        raise InputError("no case to study; give at least one")
    folder = None if out is None else Path(out) / "measured"
    results, templates = [], {}
    for case in cases:
        loaded = load(case, settings, dictionary, later)
        dictionary, later = loaded.dictionary, loaded.later
        templates[case.name] = loaded.template.facts()
        results.append(measure_case(loaded, settings, folder=folder, progress=progress))
    told = {"seed": settings.seed, "settings": settings.facts()}
    return _study(results, loaded.dictionary, **told, templates=templates)


def load(case: LatentCase, settings: Settings, dictionary: Dictionary | None, later: Dictionary | None) -> Loaded:
    """The case's models and the autoencoders, checked against each other; those that are given are not loaded again."""
    model_of = partial(load_model, dtype=settings.dtype, device=settings.device)
    sae_of = partial(load_sae, device=settings.device)
    model, twin = (model_of(one) if isinstance(one, str) else one for one in (case.model, case.twin))
    assert model is not None
    first = dictionary or sae_of(settings.sae, settings.sae_id, model=model)
    source = settings.later_sae or (None if dictionary else _LATER.get(settings.sae))
    if later is None and source is not None:
        later = sae_of(source, settings.later_sae_id, model=model)
    first.check(model)
    if later is not None and sites.layer_of(later.check(model).hook_name) <= sites.layer_of(first.hook_name):
        raise MismatchError(f"later_sae reads {later.hook_name!r}, sae {first.hook_name!r}; give one of a later layer")
    template = settings.chat_template().frozen(tokenizer_of(model))
    return Loaded(case, model, twin, first, later, template)


def measure_case(loaded: Loaded, settings: Settings, *, folder: Path | None, progress: bool | None) -> CaseResult:
    """Sample pairs, rank, remove, steer and read the latents of one case."""
    case, model, dictionary, template = loaded.case, loaded.model, loaded.dictionary, loaded.template
    seed, rows = settings.seed, max(1, settings.max_rows // 8)  # batches with gradients or latents are smaller
    answers = (settings.max_new_tokens, settings.temperature, (seed,), template, (), settings.max_rows)
    how: dict[str, Any] = {"generation": Generation(*answers), "progress": progress}
    pairs, sampled = case.pairs, pd.DataFrame()
    if pairs is None:
        sizes = how | {"n_samples": settings.n_samples, "max_pairs": settings.n_pairs}
        drawn = sample_pairs(model, case.discovery, case.grade, **sizes)
        pairs, sampled = drawn.pairs, drawn.table
    scoring, checking = methods.halves(pairs, seed=seed)
    contrast = methods.without_groups(case.contrast, checking.groups)
    mean = mean_activation(model, case.reference, dictionary.write_name, template=template)
    probe = fit_probe(model, contrast, [dictionary], seed=seed, template=template)
    scores = methods.rank(loaded, scoring, contrast, mean, probe, seed=seed, max_rows=rows)
    pool = methods.active_latents(model, dictionary, scoring, max_rows=rows)
    if not pool:
        raise PromptError(f"no latent of {dictionary.name!r} is active on {case.name!r}; give an SAE of this model")
    chosen = {
        name: methods.top_latents(one, settings.k if name in methods.LARGE else settings.k_others, pool)
        for name, one in scores.items()
        if name != RANDOM
    }
    every = list(dict.fromkeys(latent for latents in chosen.values() for latent in latents))
    random = methods.random_latents(pool, settings.n_random, seed=seed)
    ids = encode(tokenizer_of(model), case.reference, template=template)
    runs = methods.steered(dictionary, every, random, median_norm(model, ids, dictionary.write_name))
    responses, effects, gains = {}, {}, {}
    for name, one in {methods.DOWN: model, methods.UP: loaded.twin}.items():
        if one is not None:
            way = methods.WAYS[name]
            rubric = settings.rubric()
            responses[name] = methods.steer_each(one, case, runs, settings.strengths, way, rubric, folder=folder, **how)
            effects[name] = effects_of(responses[name][1], case.grade, runs, random, way)
            gains[name] = gains_of(responses[name][1], case.grade, effects[name], way)
    shown = [[*prompt, *bad] for prompt, bad in zip(pairs.prompts, pairs.bad)]
    return CaseResult(
        case,
        sampled,
        (scoring, checking),
        scores,
        probe,
        pool,
        _exact(loaded, pool, checking, mean, settings),
        chosen,
        random,
        responses,
        effects,
        gains,
        inspect_latents(model, dictionary, chosen[ATTRIBUTION][: settings.read], shown, max_rows=rows),
        fit_quality(model, dictionary, shown, max_rows=rows),
    )


def _exact(loaded: Loaded, pool: Sequence[int], pairs: CompletionPairs, mean: Any, settings: Settings) -> pd.DataFrame:
    """The oracle on pairs that gave no score: what removing each of some random latents of the pool really does."""
    removed = sorted(methods.random_latents(pool, settings.n_oracle, seed=settings.seed + 1))
    rows = max(1, settings.max_rows // 2)
    remove = partial(exact_removal, loaded.model, loaded.dictionary, removed, pairs, mean, max_rows=rows)
    exact = {where: remove(positions=where).tolist() for where in methods.REMOVED}
    return pd.DataFrame(exact, index=removed)


def _study(results: Sequence[CaseResult], dictionary: Dictionary, **facts: Any) -> Study:
    """Tables, figures, rows, scores and the page, with what stands beside the numbers."""
    cases = [r.case.name for r in results]
    measured_on = [r.scores[ATTRIBUTION].info for r in results]
    info = provenance(
        title=f"SAE-latent attribution of {', '.join(cases)}",
        cases=cases,
        models=[str(one["model"]) for one in measured_on],
        fingerprints=[one["fingerprint"] for one in measured_on],
        sae=dictionary.name,
        sae_digest=dictionary.digest,
        hook_name=dictionary.hook_name,
        n_latents=dictionary.n_latents,
        prompts={r.case.name: r.case.describe() for r in results},
        **facts,
    )
    scores = {f"{r.case.name} {name}": one for r in results for name, one in r.scores.items()}
    rows: dict[str, Any] = {f"{r.case.name} sampled": r.sampled for r in results if len(r.sampled)}
    for r in results:
        for way, both in r.responses.items():
            rows |= dict(zip((f"{r.case.name} {way}, validation", f"{r.case.name} {way}"), both))
    shown = {"Claims: the post's claims beside what was measured": claims(results), **tables(results)}
    drawn = figures(results, dictionary.site)
    return Study(shown, drawn, rows, scores, info, page_of(results, shown, drawn, info), quiet=QUIET)

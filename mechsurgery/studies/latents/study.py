"""The latents study: rank the latents of each case in every way, prove the rankings by steering, read the best.

"Debugging misaligned completions with sparse-autoencoder latent attribution" (2025), with what it lacks: intervals,
a band of random latents with false-discovery control, and the exact effect of removing one latent as an oracle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...adapters.saelens import load_sae
from ...artifacts import provenance
from ...errors import InputError, MismatchError
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...models.tokens import tokenizer_of
from ..base import Study
from .data import DEFAULTS, LatentCase, cases_of
from .figures import figures
from .measure import CaseResult, measure_case
from .methods import ATTRIBUTION, Loaded
from .page import sections
from .settings import Settings
from .tables import tables

logger = logging.getLogger(__name__)

#: Tables that `text` leaves out.
QUIET = ("Oracle", "Steering", "Responses", "Reading")
#: The organisms have autoencoders of one kind at two layers.
_LATER = {f"organism/sae-{kind}-2": f"organism/sae-{kind}-4" for kind in ("topk", "standard")}


def run(
    settings: Settings = DEFAULTS,
    data: Sequence[LatentCase] | None = None,
    *,
    dictionary: Dictionary | None = None,
    later: Dictionary | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> Study:
    """Run the study on one or several cases with one autoencoder.

    `data` are cases of your own (`own_case`, with names of models or loaded ones); else the settings say which. Loaded
    autoencoders may be given; `later`, one of a later layer, adds the splice with frozen errors. With `out`, what is
    measured is kept there as it goes and an interrupted study continues. Raises what the parts raise, `MismatchError`
    where an autoencoder does not fit the model.
    """
    started = time.monotonic()
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
    seconds = round(time.monotonic() - started)
    study = _study(results, loaded.dictionary, settings=settings.facts(), templates=templates, seconds=seconds)
    if out is not None:
        logger.info("%s", study.save(out))
    return study


def load(case: LatentCase, settings: Settings, dictionary: Dictionary | None, later: Dictionary | None) -> Loaded:
    """The case's models and the autoencoders, checked against each other; those that are given are not loaded again."""

    def model_of(source: str | Model) -> Model:
        if isinstance(source, str):
            return load_model(source, dtype=settings.dtype, device=settings.device)
        return source

    model = model_of(case.model)
    first = dictionary or load_sae(settings.sae, settings.sae_id, model=model, device=settings.device)
    source = settings.later_sae or (None if dictionary else _LATER.get(settings.sae))
    if later is None and source is not None:
        later = load_sae(source, settings.later_sae_id, model=model, device=settings.device)
    for one in (first, later):
        if one is not None:
            one.check(model)
    if later is not None and sites.layer_of(later.hook_name) <= sites.layer_of(first.hook_name):
        raise MismatchError(f"later_sae reads {later.hook_name!r}, sae {first.hook_name!r}; give one of a later layer")
    template = settings.chat_template().frozen(tokenizer_of(model))
    return Loaded(case, model, None if case.twin is None else model_of(case.twin), first, later, template)


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
        for way, steering in r.steering.items():
            rows |= {
                f"{r.case.name} {way}": steering.evaluation,
                f"{r.case.name} {way}, validation": steering.validation,
            }
    shown, drawn = tables(results), figures(results, dictionary.site)
    return Study(shown, drawn, rows, scores, info, sections(results, shown, drawn, info), quiet=QUIET)

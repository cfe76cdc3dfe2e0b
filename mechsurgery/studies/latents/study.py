"""The latents study: rank the latents of each case in every way, prove the rankings by steering, read the best.

"Debugging misaligned completions with sparse-autoencoder latent attribution" (2025), with what it lacks: intervals,
random latents of the same pool with permutation tests, false-discovery control, and the exact effect of removing one
latent as an independent oracle.
"""

from __future__ import annotations

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
from ...reports import Study, kept
from .claims import claims
from .data import DEFAULTS, LatentCase, cases_of, kept_judge
from .figures import figures
from .measure import Ranked, rank_case, shared_with, steer_case
from .methods import ATTRIBUTION, CaseResult, Loaded
from .page import page_of
from .settings import Settings
from .tables import tables

#: Tables that `text` leaves out.
QUIET = ("Oracle", "Steering", "Responses", "Reading", "Explanations", "Shared")
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
    cases = cases_of(settings, out) if data is None else list(data)
    if not cases:
        raise InputError("no case to study; give at least one")
    folder = None if out is None else Path(out) / "measured"
    how: dict[str, Any] = {"folder": folder, "progress": progress}
    models: dict[str, Model] = {}
    ranked: list[Ranked] = []
    for case in cases:
        loaded = load(case, settings, dictionary, later, models)
        dictionary, later = loaded.dictionary, loaded.later
        ranked.append(rank_case(loaded, settings, **how))
    judge = None if settings.interpreter is None else kept_judge(settings.interpreter, out)
    results = []
    for number, one in enumerate(ranked):
        partner = number ^ 1  # the first case's is the second, the third's the fourth
        other = ranked[partner] if partner < len(ranked) else None
        results.append(steer_case(one, shared_with(one, other, settings.k_shared), settings, judge=judge, **how))
    told = {"seed": settings.seed, "settings": settings.facts()}
    templates = {one.loaded.case.name: one.loaded.template.facts() for one in ranked}
    assert dictionary is not None
    return _study(results, dictionary, **told, templates=templates)


def load(
    case: LatentCase,
    settings: Settings,
    dictionary: Dictionary | None,
    later: Dictionary | None,
    models: dict[str, Model] | None = None,
) -> Loaded:
    """The case's models and the autoencoders, checked against each other; those that are given are not loaded again.

    `models` are those that are loaded already, by name; new ones are put there.
    """
    known = {} if models is None else models
    for name in (case.model, case.twin):
        if isinstance(name, str) and name not in known:
            known[name] = load_model(name, dtype=settings.dtype, device=settings.device)
    model, twin = (known[one] if isinstance(one, str) else one for one in (case.model, case.twin))
    assert model is not None
    first = dictionary or load_sae(settings.sae, settings.sae_id, model=model)
    source = settings.later_sae or (None if dictionary else _LATER.get(settings.sae))
    if later is None and source is not None:
        later = load_sae(source, settings.later_sae_id, model=model)
    first.check(model)
    if later is not None and sites.layer_of(later.check(model).hook_name) <= sites.layer_of(first.hook_name):
        raise MismatchError(f"later_sae reads {later.hook_name!r}, sae {first.hook_name!r}; give one of a later layer")
    template = settings.chat_template().frozen(tokenizer_of(model))
    return Loaded(case, model, twin, first, later, template)


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
        graded=["rule" if r.case.grade.decide is not None else "a judge" for r in results],
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

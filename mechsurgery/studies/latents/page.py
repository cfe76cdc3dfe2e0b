"""What the report of the study says beside its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ...reports import ORGANISMS, READ, Page, Part, claims_of, verdict
from .claims import AT_ALL
from .methods import MAX_BROKEN, CaseResult
from .tables import FDR


def page_of(
    results: Sequence[CaseResult], tables: Mapping[str, pd.DataFrame], figures: Iterable[str], info: Mapping[str, Any]
) -> Page:
    """The report: whether latents of attribution steer at all, beside random active ones."""
    views = {
        f"{r.case.name}, {view.name}: its strongest contexts": view.heatmaps.rows for r in results for view in r.views
    }
    names = list(figures)
    steered = [name for name in names if not name.endswith("_scatter") and name != "convergence"]
    parts = (
        Part("Pairs and autoencoder", (), ("Pairs", "Fit")),
        Part("Proof by steering", _STEERING, ("Rankings", "Pool", "Best latents", "Steering"), steered),
        Part("Against the exact effect", _ORACLE, ("Oracle",), [name for name in names if name.endswith("_scatter")]),
        Part("Two cases", () if len(results) > 1 else _ONE, ("Convergence",), ("convergence",)),
        Part("Reading the best latents", (), ("Reading",), (), views),
        Part(READ, ("The latent of the largest effect at its strength. Texts are the models'.",), ("Responses",)),
    )
    picture = next((name for name in steered if name.endswith("_outcomes")), steered[0] if steered else None)
    return Page(verdict(claims_of(tables), (AT_ALL,)), picture, _intro(info), parts)


_ONE = ("Give two cases to see which latents explain both.",)
_STEERING = (
    "Each latent's decoder direction is added at every token, at fractions of the median activation norm of the "
    "behaving model. Steering down is judged by the rise of good responses, since a behaviour that is gone is not one "
    "that is repaired; steering the twin up by the rise of bad ones. Validation prompts choose a latent's strength: "
    f"the largest rise at which broken responses rise by at most {100 * MAX_BROKEN:.0f} points; evaluation prompts of "
    "other groups measure the effect there, which counts as 0 where broken responses rise by more here too.",
    "Two tests. A latent steers (*) where its wanted responses rise over the unmodified model's: a paired one-sided "
    f"test that flips whole groups of prompts, Benjamini–Hochberg over all steered latents, random ones too, at {FDR}. "
    "A ranking is held against random latents of the same pool, the latents that are active on the case's prompts and "
    "completions: p divides its latents and the random ones anew, and intervals draw latents and groups of prompts.",
)
_ORACLE = (
    "Exact: the loss of bad minus good completions when a latent's direction is really moved to its mean at all prompt "
    "tokens, or at all tokens, one latent at a time. Latents are drawn at random from the active ones, and the pairs "
    "are of other groups than those that gave the scores. Intervals draw latents.",
)


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = (
        f"Cases: {', '.join(info['cases'])}. Autoencoder {info['sae']} at {info['hook_name']} with "
        f"{info['n_latents']:,} latents. Pairs are completions of the same model to the same prompts, graded by rule; "
        "prompts that give pairs, that choose strengths and that measure effects share no group.",
        "Every response is one of three: bad (shows the behaviour), good (the right answer), or broken (neither).",
    )
    return (*lines, ORGANISMS) if any(str(name).startswith("organism/") for name in info["models"]) else lines

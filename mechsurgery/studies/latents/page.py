"""What the report of the study says beside its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ...reports import ORGANISMS, READ, Page, Part, claims_of, verdict
from .claims import AT_ALL
from .methods import FDR, CaseResult


def page_of(
    results: Sequence[CaseResult], tables: Mapping[str, pd.DataFrame], figures: Iterable[str], info: Mapping[str, Any]
) -> Page:
    """The report: whether latents of attribution steer at all, beside random active ones."""
    views = {
        f"{r.case.name}, {view.name}: its strongest contexts": view.heatmaps.rows for r in results for view in r.views
    }
    names = list(figures)
    pairs = [name for name in names if name.startswith("convergence")]
    steered = [name for name in names if not name.endswith("_scatter") and name not in pairs]
    cap = 100 * info["settings"]["max_broken"]
    parts = (
        Part("Pairs and autoencoder", (), ("Pairs", "Fit", "Grader")),
        Part("Proof by steering", _steering(cap), ("Rankings", "Power", "Pool", "Best latents", "Steering"), steered),
        Part("What else changes", (), ("Benchmarks",)),
        Part("Against the exact effect", _ORACLE, ("Oracle",), [name for name in names if name.endswith("_scatter")]),
        Part("Two cases", _TWO if len(results) > 1 else _ONE, ("Convergence", "Shared"), pairs),
        Part("Reading the best latents", _READ, ("Reading", "Explanation scores", "Explanations"), (), views),
        Part(READ, ("The latent of the largest effect at its strength. Texts are the models'.",), ("Responses",)),
    )
    picture = next((name for name in steered if name.endswith("_outcomes")), steered[0] if steered else None)
    return Page(verdict(claims_of(tables), (AT_ALL,)), picture, _intro(info), parts)


_ONE = ("Give two cases to see which latents explain both.",)
_TWO = (
    "Cases are paired in order. Where which latents steer one case had nothing to do with which steer the other, "
    "`expected` of those steered in both would steer both. Each case also steers its partner's best latents.",
)
_READ = (
    "An explanation is made from tokens at which a latent is active, and scored by what it predicts on texts of other "
    "groups: the balanced accuracy of saying at which of as many active as silent tokens it is active (½ is chance), "
    "beside explanations of other latents on the same tokens. Without a judge, it names the tokens on which the "
    "latent is active at least every second time.",
)


def _steering(cap: float) -> tuple[str, ...]:
    """How steering is judged, with the cap on broken responses in points."""
    return tuple(text.format(cap=f"{cap:g}") for text in _STEERING)


_STEERING = (
    "Each latent's decoder direction is added at every token, at fractions of the median activation norm of the "
    "behaving model. Steering down is judged by the rise of good responses, since a behaviour that is gone is not one "
    "that is repaired; steering the twin up by the rise of bad ones. Validation prompts choose a latent's strength: "
    "the largest rise at which broken responses rise by at most {cap} points over the unmodified model's; evaluation "
    "prompts of other groups measure the effect there, which counts as 0 where broken responses rise by more here too.",
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
        f"{info['n_latents']:,} latents. Pairs are completions of the same model to the same prompts, "
        f"graded by {' and '.join(dict.fromkeys(info['graded']))}; "
        "prompts that give pairs, that choose strengths and that measure effects share no group.",
        "Every response is one of three: bad (shows the behaviour), good (the right answer), or broken (neither).",
    )
    return (*lines, ORGANISMS) if any(str(name).startswith("organism/") for name in info["models"]) else lines

"""Every way to rank latents of one dictionary on one case, at the same budget, and the exact effect of some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from ...attribution.contrast import score
from ...attribution.differences import completion_difference, model_difference, random_scores
from ...attribution.gradient import exact_removal, latent_attribution, mean_activation
from ...attribution.probes import Probe, fit_probe
from ...attribution.splice import mean_latents, spliced_attribution
from ...attribution.statistics import contrast_statistics
from ...models.dictionaries import Dictionary
from ...prompts.pairs import CompletionPairs
from ...units import UnitScores
from .cases import LatentCase

ATTRIBUTION = "Δ-attribution"
DIFFING = "Δ-activation between models"
RANDOM = "random"
#: Integration steps of integrated gradients.
STEPS = 8


def rank(
    case: LatentCase,
    model: Any,
    twin: Any,
    dictionary: Dictionary,
    pairs: CompletionPairs,
    *,
    seed: int,
    template: str,
    max_rows: int,
    other: Dictionary | None = None,
) -> tuple[dict[str, UnitScores], torch.Tensor, Probe]:
    """{ranking: scores}, the mean activation, and the probe. `other` is a later dictionary, for the frozen splice."""
    mean = mean_activation(model, case.reference, dictionary.hook_name, template=template)
    means = mean_latents(model, dictionary, case.reference, template=template)
    some = {"max_rows": max_rows}
    found = {
        ATTRIBUTION: latent_attribution(model, dictionary, pairs, mean, **some),
        "Δ-attribution, all tokens": latent_attribution(model, dictionary, pairs, mean, positions="all", **some),
        "patching, live errors": spliced_attribution(model, [dictionary], pairs, means, **some)[0],
        "integrated gradients": spliced_attribution(model, [dictionary], pairs, means, steps=STEPS, **some)[0],
    }
    if other is not None:
        both = means | mean_latents(model, other, case.reference, template=template)
        frozen, _ = spliced_attribution(model, [dictionary, other], pairs, both, errors="frozen", **some)
        site = dictionary.site
        found["patching, frozen errors"] = UnitScores({site: frozen.scores[site]}, frozen.rule, frozen.info)
    if twin is not None:
        found[DIFFING] = model_difference(model, twin, dictionary, pairs, **some)
    found["Δ-activation of completions"] = completion_difference(model, dictionary, pairs, **some)
    statistics = contrast_statistics(model, case.contrast, at=[dictionary], template=template)
    found["contrast on latents"] = score(statistics, "difference")
    probe = fit_probe(model, case.contrast, [dictionary], seed=seed, template=template)
    found["probe weight"] = probe.scores()
    found[RANDOM] = random_scores(model, dictionary, seed=seed)
    return found, mean, probe


def chosen_latents(scores: dict[str, UnitScores], site: str, k: int, k_others: int) -> dict[str, list[int]]:
    """{ranking: its top latents by signed value}: `k` for attribution and model diffing, else `k_others`."""
    return {
        name: top_latents(one, site, k if name in (ATTRIBUTION, DIFFING) else k_others) for name, one in scores.items()
    }


def top_latents(scores: UnitScores, site: str, k: int) -> list[int]:
    """The `k` latents of the highest signed score, best first."""
    return scores.scores[site].argsort(descending=True, stable=True)[:k].tolist()


def oracle_table(
    model: Any,
    dictionary: Dictionary,
    pairs: CompletionPairs,
    mean: torch.Tensor,
    scores: dict[str, UnitScores],
    latents: Sequence[int],
    *,
    max_rows: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Exact one-latent removal of some latents beside every ranking's score, and the rank correlations.

    The first table has a row a latent (columns latent, exact, and every ranking), the second a row a ranking:
    Spearman's ρ with the exact effects and with their sizes, its p-value and n.
    """
    from scipy.stats import spearmanr

    chosen = sorted(set(latents))
    exact = exact_removal(model, dictionary, chosen, pairs, mean, max_rows=4 * max_rows)
    table = pd.DataFrame({"latent": chosen, "exact": exact.tolist()})
    rows = []
    for name, one in scores.items():
        table[name] = one.scores[dictionary.site][chosen].tolist()
        rho, p = spearmanr(table["exact"], table[name])
        best = table.loc[table["exact"].idxmax(), "latent"]
        rows.append(
            {
                "ranking": name,
                "rank correlation with exact removal": float(rho),
                "p": float(p),
                "n": len(chosen),
                "rank of the exactly best latent": one.rank_of(dictionary.site, int(best), by="positive") + 1,
            }
        )
    return table, pd.DataFrame(rows)

"""Every way to rank latents of one autoencoder on one case at the same budget, and which of them are steered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float

from ...attribution.contrast import score
from ...attribution.differences import completion_difference, model_difference, random_scores
from ...attribution.gradient import latent_attribution
from ...attribution.probes import Probe
from ...attribution.splice import mean_latents, spliced_attribution
from ...attribution.statistics import contrast_statistics
from ...errors import InputError
from ...intervention import Intervention
from ...intervention.latents import steer_latents
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...prompts import CompletionPairs
from ...prompts.chat import Template
from ...units import UnitScores
from .data import LatentCase

ATTRIBUTION = "Δ-attribution"
DIFFING = "Δ-activation between models"
COMPLETIONS = "Δ-activation of completions"
RANDOM = "random"
#: What random latents are controls of.
CHOSEN = "chosen latents"
#: Integration steps of integrated gradients.
STEPS = 8


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case with its models and autoencoders in memory. `later` reads a later layer, for the frozen splice."""

    case: LatentCase
    model: Model
    twin: Model | None
    dictionary: Dictionary
    later: Dictionary | None
    template: Template


def rank(
    loaded: Loaded, pairs: CompletionPairs, mean: Float[torch.Tensor, " d"], probe: Probe, *, seed: int, max_rows: int
) -> dict[str, UnitScores]:
    """{ranking: scores of all latents}, in every way that the case allows; `mean` is the mean activation."""
    model, dictionary, site = loaded.model, loaded.dictionary, loaded.dictionary.site
    means = mean_latents(model, dictionary, loaded.case.reference, template=loaded.template)
    attribute = partial(latent_attribution, model, dictionary, pairs, mean, max_rows=max_rows)
    splice = partial(spliced_attribution, model, pairs=pairs, max_rows=max_rows)
    scores = {
        ATTRIBUTION: attribute(),
        f"{ATTRIBUTION}, all tokens": attribute(positions="all"),
        "patching, live errors": splice([dictionary], means=means)[0],
        "integrated gradients": splice([dictionary], means=means, steps=STEPS)[0],
    }
    if loaded.later is not None:
        means |= mean_latents(model, loaded.later, loaded.case.reference, template=loaded.template)
        frozen = splice([dictionary, loaded.later], means=means, errors="frozen")[0]
        scores["patching, frozen errors"] = replace(frozen, scores={site: frozen.scores[site]})
    if loaded.twin is not None:
        scores[DIFFING] = model_difference(model, loaded.twin, dictionary, pairs, max_rows=max_rows)
    scores[COMPLETIONS] = completion_difference(model, dictionary, pairs, max_rows=max_rows)
    statistics = contrast_statistics(model, loaded.case.contrast, at=[dictionary], template=loaded.template)
    scores["contrast on latents"] = score(statistics, "difference")
    return scores | {"probe weight": probe.scores(), RANDOM: random_scores(model, dictionary, seed=seed)}


def top_latents(scores: UnitScores, k: int) -> list[int]:
    """The `k` latents of the highest signed score, best first, of scores at one hook point."""
    (values,) = scores.scores.values()
    return values.argsort(descending=True, stable=True)[:k].tolist()


def random_latents(
    dictionary: Dictionary, n: int, *, active: Bool[torch.Tensor, " n_latents"], not_in: Sequence[int], seed: int
) -> list[int]:
    """`n` latents drawn at random from those that are `active` on the case's text and not chosen by a ranking.

    Fewer where there are not so many, none where none is active; raises `InputError` where all that are were chosen.
    """
    alive = (dictionary.decoder.float().norm(dim=1) > 0).cpu() & active.cpu()
    pool = [latent for latent in alive.nonzero()[:, 0].tolist() if latent not in set(not_in)]
    if alive.any() and not pool:
        raise InputError(f"no latent is left for the random band besides the {len(not_in)} chosen ones; take a lower k")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return [pool[place] for place in order[:n].tolist()]


def steered(
    dictionary: Dictionary, latents: Sequence[int], random: Sequence[int], norm: float
) -> dict[int, Intervention]:
    """{latent: steering along it}: the chosen latents, then the random ones, which are controls of the chosen."""
    every = [*latents, *random]
    runs = dict(zip(every, steer_latents(dictionary, every, norm)))
    return runs | {latent: replace(runs[latent], control_of=CHOSEN) for latent in random}

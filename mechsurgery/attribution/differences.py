"""What latent attribution is held against: rankings of latents by how active they are, and by chance.

Each returns `UnitScores` at the dictionary's latents, so every ranking gets the same budget and the same tests.
The contrast on latents is `score(contrast_statistics(model, contrast, at=[dictionary]))`, the probe `fit_probe`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..checks import check_arguments
from ..errors import MismatchError
from ..models import sites
from ..models.dictionaries import Dictionary, latent_means
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts.pairs import CompletionPairs
from ..units import UnitScores


@in_turn
def model_difference(
    model: Model,
    other: Model,
    dictionary: Dictionary,
    pairs: CompletionPairs,
    *,
    side: Literal["bad", "good"] = "bad",
    max_rows: int = 32,
) -> UnitScores:
    """Δ-activation between models: mean latent activation in `model` minus in the aligned `other`, same tokens.

    Model diffing as in "Persona features control emergent misalignment" (2025): both read the prompts with the
    completions of one side. Averaged over the tokens of a row, then over rows.
    """
    dictionary.check(model)
    if sites.channels(other, dictionary.hook_name) != dictionary.width:
        raise MismatchError("the two models differ in width; model diffing needs a twin of the same shape")
    rows = [[*p, *c] for p, c in zip(pairs.prompts, getattr(pairs, side))]
    here, there = (latent_means(one, dictionary, rows, max_rows=max_rows) for one in (model, other))
    return _scores(model, dictionary, here - there, "model difference", side=side, n_pairs=len(pairs))


@in_turn
def completion_difference(
    model: Model, dictionary: Dictionary, pairs: CompletionPairs, *, max_rows: int = 32
) -> UnitScores:
    """Δ-activation in one model: mean latent activation on bad completions minus on good ones, completion tokens."""
    dictionary.check(model)
    bad, good = (
        latent_means(
            model,
            dictionary,
            [[*p, *c] for p, c in zip(pairs.prompts, side)],
            n_completion=[len(c) for c in side],
            max_rows=max_rows,
        )
        for side in (pairs.bad, pairs.good)
    )
    return _scores(model, dictionary, bad - good, "completion difference", n_pairs=len(pairs))


def random_scores(model: Model, dictionary: Dictionary, *, seed: int = 0) -> UnitScores:
    """Random positive scores: a ranking by chance."""
    values = torch.rand(dictionary.n_latents, generator=torch.Generator().manual_seed(int(seed)))
    return _scores(model, dictionary, values, "random", seed=seed)


def _scores(model: Model, dictionary: Dictionary, values: torch.Tensor, rule: str, **facts: Any) -> UnitScores:
    info = sites.provenance_of(model, dictionary=dictionary.name, **facts)
    return UnitScores({dictionary.site: values.float().cpu()}, rule, info)


check_arguments(__name__)

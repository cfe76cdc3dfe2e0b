"""What a fine-tune depends on, as one digest: the name under which it is kept and continued."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..checks import check_arguments
from ..digests import digest_of
from ..models import sites
from ..models.protocol import Model
from ..prompts import CompletionPairs, Examples
from ..units import Circuit
from .trainable import Neurons, Where

if TYPE_CHECKING:
    from .tuning import Recipe, Safeguards

#: Part of every key: a change of how is trained makes what was kept stale.
VERSION = 2


def finetune_key(
    model: Model,
    data: Examples | CompletionPairs,
    where: Where,
    *,
    recipe: Recipe,
    safeguards: Safeguards | None = None,
    seed: int = 0,
    **more: Any,
) -> str:
    """A digest of everything that a fine-tune depends on, by which it is kept; `more` is what else counts.

    That is the model's weights, tokens and groups of all data, what is trained, the recipe, the safeguards and the
    seed. Of `capability` it is the function's own code, what it encloses and what it reads from its module. Raises
    `InputError` for a `capability` that uses something without a digest; give the function an attribute `digest`, a
    text that stands for what it measures.
    """
    neurons = Neurons(where) if isinstance(where, Circuit) else where
    place: Any = neurons
    if isinstance(neurons, Neurons):
        place = ([[site, index.tolist()] for site, (index, _) in neurons.circuit.units.items()], neurons.train)
    guarded = None
    if safeguards is not None:
        texts = (_tokens(safeguards.validation), _tokens(safeguards.neutral))
        guarded = (texts, safeguards.capability, safeguards.floor)
    return digest_of("finetune", VERSION, sites.fingerprint(model), _tokens(data), place, recipe, guarded, seed, more)


def _tokens(data: Examples | CompletionPairs | None) -> Any:
    """Everything that data hold, also the groups by which they are split."""
    return data and [type(data).__name__, {one.name: getattr(data, one.name) for one in fields(data)}]


check_arguments(__name__, inner=True)

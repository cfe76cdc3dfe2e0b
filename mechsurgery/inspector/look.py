"""`inspect`: one call for a neuron or a latent, however it is named."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..models import Model, sites
from ..models.dictionaries import Dictionary
from ..prompts import ContrastSet
from .latent import LatentView, inspect_latents
from .neuron import NeuronView, inspect_neuron

Unit = tuple[int, int] | tuple[str, int] | str | int


def inspect(
    model: Model, unit: Unit, contrast: ContrastSet, *, dictionary: Dictionary | None = None, **options: Any
) -> NeuronView | LatentView:
    """Look at one unit on the prompts of a contrast.

    A neuron is (layer, index), (hook name, index) or "L5.446"; with a `dictionary`, `unit` is the index of one of its
    latents. `options` go to `inspect_neuron` or `inspect_latents`. Raises `InputError` for a name that is none,
    `SiteError` where the model has no such unit.
    """
    if dictionary is not None:
        if not isinstance(unit, int):
            raise InputError(f"unit {unit!r}; with a dictionary, give the index of a latent")
        return inspect_latents(model, dictionary, [unit], contrast.positive, **options)[0]
    site, index = _neuron(model, unit)
    return inspect_neuron(model, contrast, site, index, **options)


def _neuron(model: Model, unit: Unit) -> tuple[str, int]:
    if isinstance(unit, str):
        match = re.fullmatch(r"L(\d+)\.(\d+)", unit)
        if match is None:
            raise InputError(f"unit {unit!r} is no neuron's name; give one such as 'L5.446', or (layer, index)")
        unit = (int(match.group(1)), int(match.group(2)))
    if isinstance(unit, int):
        raise InputError(f"unit {unit}; give (layer, index), 'L5.446', or the dictionary whose latent it is")
    where, index = unit
    return (sites.neuron_sites(model, [where])[0] if isinstance(where, int) else where), index

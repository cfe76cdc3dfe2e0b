"""An intervention as a checkpoint: a Hugging Face directory in, a changed one out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError, MismatchError, listed
from ..models.checkpoints import Place, architecture_facts, place_of, read_config
from ..models.streaming import Checkpoint, rewrite
from .bake import Get, Rewrite, rewrites
from .intervention import Intervention

#: Makes a tensor of the checkpoint, in float64, from the present one.
Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def export(
    source: str | Path,
    intervention: Intervention | str | Path,
    destination: str | Path,
    *,
    strength: float | None = None,
    dtype: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Write the Hugging Face directory `destination`: the checkpoint in `source` with an intervention in its weights.

    Loading it gives the logits of `applied`. Tensors are read and written one at a time. `intervention` may be the path
    of a difference that `stream_difference` wrote; then `strength` (1) says how much of it is added. Tensors keep their
    dtype (a change below the resolution of bfloat16 is lost) unless `dtype` says otherwise. A killed export leaves no
    directory at `destination`.

    Raises `InputError` with the reason for what this checkpoint has no place for (see `bake`), and where `destination`
    exists; `MismatchError` for what was made for another model; `ActivationError` for results that are not finite.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r}; choose 'float32', 'bfloat16', 'float16', or None for each tensor's own")
    if Path(destination).expanduser().exists():
        raise InputError(f"{str(destination)!r} exists; give a directory that does not, so that nothing is overwritten")
    checkpoint = Checkpoint(source)
    if not isinstance(intervention, Intervention):
        changes = _of_difference(checkpoint, Checkpoint(intervention), 1.0 if strength is None else strength)
    elif strength is None:
        changes = _of_intervention(checkpoint, intervention)
    else:
        raise InputError(f"strength={strength} is for a difference on disk; give intervention.at({strength})")
    kind = None if dtype is None else getattr(torch, dtype)
    return rewrite(checkpoint, destination, changes, dtype=kind, progress=progress)


def _of_intervention(checkpoint: Checkpoint, intervention: Intervention) -> dict[str, Change]:
    """{tensor: change}: several parameters may stand in one tensor."""
    config = read_config(checkpoint.directory)

    def get(name: str) -> Tensor:
        place = place_of(config, name)
        return place.read(checkpoint(checkpoint.key(place.key)).double())

    found: dict[str, list[tuple[Place, Rewrite]]] = {}
    for name, how in rewrites(intervention, architecture_facts(config)).items():
        place = place_of(config, name)
        if how.keeps_zero and checkpoint.find(place.key) is None:
            continue
        _check_shape(checkpoint, place, name, intervention)
        found.setdefault(checkpoint.key(place.key), []).append((place, how))
    return {key: partial(_written, get=get, parts=parts) for key, parts in found.items()}


def _written(tensor: Tensor, get: Get, parts: list[tuple[Place, Rewrite]]) -> Tensor:
    for place, how in parts:
        tensor = place.write(tensor, how.make(get))
    return tensor


def _check_shape(checkpoint: Checkpoint, place: Place, name: str, intervention: Intervention) -> None:
    delta = intervention.delta
    if delta is None or name not in delta.parts:
        return
    _, whole = checkpoint.facts[checkpoint.key(place.key)]
    shape = tuple(place.read(torch.empty(whole, device="meta")).shape)
    if delta.parts[name].shape != shape:
        raise MismatchError(
            f"{name} has shape {shape} in the checkpoint and {delta.parts[name].shape} in delta {delta.name!r} of "
            "another model"
        )


def _of_difference(checkpoint: Checkpoint, difference: Checkpoint, strength: float) -> dict[str, Change]:
    missing = sorted(set(difference.facts) - set(checkpoint.facts))
    unlike = [
        name for name, (_, shape) in difference.facts.items() if checkpoint.facts.get(name, ("", shape))[1] != shape
    ]
    if missing or unlike:
        raise MismatchError(
            f"the difference does not fit the checkpoint: {listed(missing or unlike)} "
            f"{'are not in it' if missing else 'have other shapes'}"
        )
    numbers = [name for name in difference.facts if checkpoint.facts[name][0].is_floating_point]
    return {
        name: lambda tensor, name=name: tensor + strength * difference(name).double()  # type: ignore[misc]
        for name in numbers
    }


check_arguments(__name__)

"""An intervention as a checkpoint: a Hugging Face directory in, a changed one out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError, MismatchError, listed
from ..models.checkpoints import Place, architecture_facts, place_of, read_config, stored_fingerprint
from ..models.streaming import Change, Checkpoint, rewrite, summed, whole_checkpoint
from ..writing import check_path
from .bake import Get, Rewrite, rewrites
from .intervention import Intervention


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
    exists or is in `source`; `MismatchError` for what was made for another model; `ActivationError` for results that
    are not finite; `WriteError` where the disk is full or may not be written. Beside the weights, plain text files are
    copied (configuration, tokenizer, templates); code, pickles, adapters and links out of `source` are left out, which
    the log says.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r}; choose 'float32', 'bfloat16', 'float16', or None for each tensor's own")
    if strength is not None and abs(strength) > 1e30:
        raise InputError(f"strength={strength!r} is beyond ±1e30; 1 adds the whole difference")
    if os.path.lexists(check_path(destination)):
        raise InputError(f"{str(destination)!r} exists; give a directory that does not, so that nothing is overwritten")
    checkpoint = whole_checkpoint(source)
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

    _check_made_for(checkpoint, intervention)
    found: dict[str, list[tuple[Place, Rewrite]]] = {}
    for name, how in rewrites(intervention, architecture_facts(config)).items():
        place = place_of(config, name)
        if how.keeps_zero and checkpoint.find(place.key) is None:
            continue
        _check_shape(checkpoint, place, name, intervention)
        found.setdefault(checkpoint.key(place.key), []).append((place, how))
    return {key: partial(_written, get=get, parts=parts) for key, parts in found.items()}


def _check_made_for(checkpoint: Checkpoint, intervention: Intervention) -> None:
    """Raise `MismatchError` where a weight difference starts from other weights than the checkpoint's."""
    delta = intervention.delta
    wanted = None if delta is None or not intervention.strength else delta.info.get("fingerprint")
    if delta is None or wanted is None:
        return
    dtypes = [delta.info.get("dtype")] if delta.info.get("dtype") else ["float32", "bfloat16", "float16"]
    for dtype in dtypes:
        if (
            dtype in ("float32", "bfloat16", "float16")
            and stored_fingerprint(checkpoint, getattr(torch, dtype)) == wanted
        ):
            return
    raise MismatchError(
        f"delta {delta.name!r} starts from a model with fingerprint {wanted}, which {str(checkpoint.directory)!r} is "
        "not; export from the checkpoint that it was trained from"
    )


def _written(tensor: Tensor, dtype: torch.dtype, *, get: Get, parts: list[tuple[Place, Rewrite]]) -> Tensor:
    for place, how in parts:
        # In float64 already where another parameter stands in the same tensor.
        tensor = place.write(tensor if place.slot is place.rows is None else tensor.double(), how.make(get))
    return tensor.to(dtype)


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
        name: lambda tensor, dtype, name=name: summed(tensor, difference(name), strength, dtype)  # type: ignore[misc]
        for name in numbers
    }


check_arguments(__name__)

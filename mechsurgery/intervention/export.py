"""An intervention as a checkpoint: a Hugging Face directory in, a changed one out."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..checks import check_arguments
from ..delta_parts import Dense
from ..errors import InputError, MismatchError, listed
from ..models.architectures import MIXTURES, architecture_of
from ..models.checkpoints import (
    SAME,
    Place,
    architecture_facts,
    check_complete,
    place_of,
    read_config,
    stored_fingerprint,
)
from ..models.load import HUB_FILES, directory_of
from ..models.room import make_room
from ..models.streaming import CHUNK, Change, Checkpoint, check_beside, rewrite, summed, whole_checkpoint
from ..writing import check_path, check_writable
from .bake import Get, Rewrite, rewrites
from .card import Card, write_card
from .intervention import Intervention


@torch.no_grad()
def export(
    source: str | Path,
    intervention: Intervention | str | Path,
    destination: str | Path,
    *,
    strength: float | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Write the Hugging Face directory `destination`: the checkpoint in `source` with an intervention in its weights.

    Plain transformers, and any engine that serves its checkpoints, gives the logits of `applied` from it. `source` is
    a directory, an organism or a hub id (with `revision`). Tensors are read and written some rows at a time.
    `intervention` may be the path of a difference that `stream_difference` wrote; then `strength` (1) says how much of
    it is added. Tensors keep their dtype (a change below the resolution of bfloat16 is lost) unless `dtype` says
    otherwise. Biases are added, and tied embeddings untied, where the change needs that and a setting of the
    architecture allows it. README.md says what was done; the source's own becomes README.source.md.
    A killed export leaves no directory at `destination`.

    Raises `InputError` with the reason for what this checkpoint has no place for (see `bake`), and where `destination`
    exists or is in `source`; `MismatchError` for what was made for another model; `ActivationError` for results that
    are not finite; `ModelNotFoundError` and `LoadError` for a source that is not there or damaged; `WriteError` where
    the disk is full or may not be written. Beside the weights, plain text files are copied (configuration, tokenizer,
    templates); code, pickles, adapters and links out of `source` are left out, which the log says.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r}; choose 'float32', 'bfloat16', 'float16', or None for each tensor's own")
    if strength is not None and abs(strength) > 1e30:
        raise InputError(f"strength={strength!r} is beyond ±1e30; 1 adds the whole difference")
    if os.path.lexists(check_path(destination)):
        raise InputError(f"{str(destination)!r} exists; give a directory that does not, so that nothing is overwritten")
    checkpoint = whole_checkpoint(directory_of(source, revision, HUB_FILES))
    check_beside(checkpoint.directory, check_path(destination))
    check_writable(destination)
    settings: dict[str, object] = {}
    if not isinstance(intervention, Intervention):
        changes = _of_difference(checkpoint, Checkpoint(intervention), 1.0 if strength is None else strength)
    elif strength is None:
        checkpoint, settings, changes = _of_intervention(checkpoint, intervention)
    else:
        raise InputError(f"strength={strength} is for a difference on disk; give intervention.at({strength})")
    card = Card(source, revision, checkpoint, intervention, strength, sorted(changes), settings, dtype)
    kind = None if dtype is None else getattr(torch, dtype)
    finish = partial(write_card, card)
    return rewrite(checkpoint, destination, changes, dtype=kind, settings=settings, finish=finish, progress=progress)


def _of_intervention(
    checkpoint: Checkpoint, intervention: Intervention
) -> tuple[Checkpoint, dict[str, object], dict[str, Change]]:
    """The checkpoint with room for all that changes, the settings that say so, and {tensor: change}."""
    config = read_config(checkpoint.directory)
    if intervention.delta is not None and architecture_of(config.to_dict()) in MIXTURES:
        raise InputError(
            "weight differences of a mixture of experts are not written: a checkpoint keeps each expert in tensors of "
            "its own, the model all in one; use applied(model, intervention), or bake it in memory"
        )
    check_complete(checkpoint, config)
    check_made_for(checkpoint, intervention)
    found = {
        name: how
        for name, how in rewrites(intervention, architecture_facts(config)).items()
        if not (how.keeps_zero and checkpoint.find(place_of(config, name).key) is None)
    }
    room = make_room(checkpoint, config, found)
    checkpoint = room.checkpoint

    def get(name: str) -> Tensor:
        place = place_of(config, name)
        return place.read(checkpoint(checkpoint.key(place.key)).double())

    parts: dict[str, list[tuple[Place, Rewrite]]] = {}
    for name, how in found.items():
        place = place_of(config, name)
        check_shape(checkpoint, place, name, intervention)
        # Several parameters may stand in one tensor.
        parts.setdefault(checkpoint.key(place.key), []).append((place, how))
    return checkpoint, room.settings, {key: _change(get, own) for key, own in parts.items()}


def check_made_for(checkpoint: Checkpoint, intervention: Intervention) -> None:
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


def _change(get: Get, parts: list[tuple[Place, Rewrite]]) -> Change:
    """How a tensor is rewritten in which parameters stand: by rows where each of its rows depends on itself alone."""
    place, how = parts[0]
    if place.alone and how.added is not None:
        part, factor = how.added

        def add(own: Tensor, start: int, dtype: torch.dtype) -> Tensor:
            # As it lies in the file.
            there = rearrange(part.dense(), place.pattern)[start : start + len(own)]
            return summed(own, there, factor / place.scale, dtype)

        # Only the whole one lies in memory already.
        return Change(add, by_rows=isinstance(part, Dense))
    if place.alone and how.rows is not None and place.pattern == SAME:
        by_rows = how.rows
        return Change(partial(_rewritten, place=place, how=by_rows), by_rows=True)

    def make(tensor: Tensor, _start: int, dtype: torch.dtype) -> Tensor:
        for place, how in parts:
            # In float64 already where another parameter stands in the same tensor.
            tensor = place.write(tensor if place.alone else tensor.double(), how.make(get))
        return tensor.to(dtype)

    return Change(make)


def _rewritten(
    own: Tensor, start: int, dtype: torch.dtype, *, place: Place, how: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Rows of a tensor that lies as its parameter does, a few at a time in float64."""
    made, first = torch.empty(own.shape, dtype=dtype), 0
    step = max(1, CHUNK // max(1, own[:1].numel()))
    for into, rows in zip(made.split(step), own.split(step)):
        into.copy_(place.write(rows, how(place.read(rows.double()), start + first)))
        first += len(rows)
    return made


def check_shape(checkpoint: Checkpoint, place: Place, name: str, intervention: Intervention) -> None:
    """Raise `MismatchError` where a weight difference has another shape than the checkpoint's parameter."""
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

    def add(own: Tensor, start: int, dtype: torch.dtype, name: str) -> Tensor:
        rows = None if own.shape == checkpoint.facts[name][1] else slice(start, start + len(own))
        return summed(own, difference(name, rows), strength, dtype)

    return {name: Change(partial(add, name=name), by_rows=True) for name in numbers}


check_arguments(__name__)

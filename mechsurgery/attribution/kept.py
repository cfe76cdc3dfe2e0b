"""Scores, probes and activations kept in files, so that a killed run ranks nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..artifacts import INDICES, NUMBERS, load_tensors, save_tensors
from ..checks import check_arguments
from ..errors import LoadError
from ..units import UnitScores
from .probes import Probe

logger = logging.getLogger(__name__)
_KIND = "kept part of a ranking"
_TENSORS = ("weights", "means", "scales")


def kept_tensors(folder: str | Path | None, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors kept in `folder/scores` under `key`; where there are none, those of `make()`, which are then kept.

    `key` stands for all that they depend on (model, autoencoders, prompts, seed, rows at once): give it as a digest.
    What is kept comes back on the CPU, just made or read. A file that cannot be read or is another key's is made again.
    Without a folder nothing is kept.
    """
    return _kept(folder, key, lambda: (make(), {}))[0]


def kept_scores(folder: str | Path | None, key: str, make: Callable[[], UnitScores]) -> UnitScores:
    """The same for one ranking."""

    def parts() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        made = make()
        return made.scores, {"rule": made.rule, "info": made.info}

    tensors, facts = _kept(folder, key, parts)
    return UnitScores(tensors, facts["rule"], facts["info"])


def kept_probe(folder: str | Path | None, key: str, make: Callable[[], Probe]) -> Probe:
    """The same for a fitted probe, with its cross-validation."""

    def parts() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        made = make()
        tensors = {f"{part}:{site}": own for part in _TENSORS for site, own in getattr(made, part).items()}
        return tensors, {one.name: getattr(made, one.name) for one in fields(made) if one.name not in _TENSORS}

    tensors, facts = _kept(folder, key, parts)
    by_part: dict[str, dict[str, Tensor]] = {part: {} for part in _TENSORS}
    for name, tensor in tensors.items():
        part, _, site = name.partition(":")
        by_part[part][site] = tensor
    every: dict[str, Any] = {**by_part, **facts, "null": tuple(facts["null"])}
    return Probe(**every)


def _kept(
    folder: str | Path | None, key: str, make: Callable[[], tuple[Mapping[str, Tensor], dict[str, Any]]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain facts: what `make()` gives, as a file gives it back, or what was kept before."""
    if folder is None:
        tensors, facts = make()
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}, facts
    path = Path(folder) / "scores" / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return _of_key(path, key)
        except LoadError as error:
            logger.warning("%s cannot be read and is made again: %s", path, error)
    tensors, facts = make()
    # Files do not keep the order of their tensors, and equal scores of two hook points are ranked by it.
    save_tensors(path, _KIND, tensors, {"key": key, "order": list(tensors), "facts": facts})
    return _of_key(path, key)


def _of_key(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a file keeps. Raises `LoadError` where it is another key's."""
    fields = {"key": str, "order": list[str], "facts": dict[str, Any]}
    tensors, kept = load_tensors(path, _KIND, fields, lambda _: (*NUMBERS, *INDICES))
    if kept["key"] != key or set(kept["order"]) != set(tensors):
        raise LoadError("it was kept under another key")
    return {name: tensors[name] for name in kept["order"]}, kept["facts"]


check_arguments(__name__)

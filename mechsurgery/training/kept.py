"""Fine-tuned differences kept in files, so that a killed run trains nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..allowed import shown
from ..checks import check_arguments
from ..deltas import WeightDelta
from ..errors import InputError, LoadError

_KEPT = "kept as"
logger = logging.getLogger(__name__)


def trained(folder: str | Path | None, key: str, make: Callable[[], WeightDelta]) -> WeightDelta:
    """The difference kept in `folder/deltas` under `key`; where there is none, `make()`, which is then kept.

    `key` stands for all that the training depends on: give a digest, such as `finetune_key`. The file holds it, and a
    checksum of itself; one that cannot be read, was changed or is another key's is made again. Without a folder nothing
    is kept.
    """
    kept = find_trained(folder, key)
    return keep_trained(folder, key, make()) if kept is None else kept


def find_trained(folder: str | Path | None, key: str) -> WeightDelta | None:
    """The difference kept in `folder/deltas` under `key`, or None where there is none that is as it was written."""
    path = None if folder is None else _path(folder, key)
    if path is None or not path.is_file():
        return None
    try:
        return _of_key(WeightDelta.load(path), key)
    except (LoadError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s cannot be read and is trained again: %s", path, error)
        return None


def keep_trained(folder: str | Path | None, key: str, delta: Any) -> WeightDelta:
    """The difference, kept in `folder/deltas` under `key` where there is a folder."""
    if not isinstance(delta, WeightDelta):
        raise InputError(f"make() gave {shown(delta)}; it must give a WeightDelta")
    if folder is not None:
        replace(delta, info={**delta.info, _KEPT: key}).save(_path(folder, key))
    return delta


def _path(folder: str | Path, key: str) -> Path:
    return Path(folder) / "deltas" / f"{key[:32]}.safetensors"


def _of_key(delta: WeightDelta, key: str) -> WeightDelta:
    """The difference as it was made. Raises `LoadError` where it is another key's."""
    info = dict(delta.info)
    if info.pop(_KEPT, None) != key:
        raise LoadError("it was kept under another key")
    return replace(delta, info=info)


check_arguments(__name__)

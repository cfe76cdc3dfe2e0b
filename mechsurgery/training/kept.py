"""Fine-tuned differences kept in files, so that a killed run trains nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..allowed import shown
from ..checks import check_arguments
from ..deltas import WeightDelta
from ..errors import InputError, LoadError

logger = logging.getLogger(__name__)


def trained(folder: str | Path | None, key: str, make: Callable[[], WeightDelta]) -> WeightDelta:
    """The difference kept in `folder/deltas` under `key`; where there is none, `make()`, which is then kept.

    `key` stands for all that the training depends on (model, data, place, recipe, seed): give it as a digest. A file
    that cannot be read is made again. Without a folder nothing is kept.
    """
    if folder is None:
        return make()
    path = Path(folder) / "deltas" / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return WeightDelta.load(path)
        except LoadError as error:
            logger.warning("%s cannot be read and is trained again: %s", path, error)
    delta = make()
    if not isinstance(delta, WeightDelta):
        raise InputError(f"make() gave {shown(delta)}; it must give a WeightDelta")
    delta.save(path)
    return delta


check_arguments(__name__)

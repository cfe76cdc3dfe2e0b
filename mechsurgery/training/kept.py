"""Fine-tuned differences kept in files, so that a killed run trains nothing twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..artifacts import plain_value
from ..deltas import WeightDelta
from ..digests import digest_of
from ..errors import LoadError

_KEPT = "kept as"
logger = logging.getLogger(__name__)


def trained(folder: str | Path | None, key: str, make: Callable[[], WeightDelta]) -> WeightDelta:
    """The difference kept in `folder/deltas` under `key`; where there is none, `make()`, which is then kept.

    `key` stands for all that the training depends on: give a digest, such as `finetune_key`. The file holds it, and a
    checksum of itself; one that cannot be read, was changed or is another key's is made again. Without a folder nothing
    is kept.
    """
    if folder is None:
        return make()
    path = Path(folder) / "deltas" / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return _of_key(WeightDelta.load(path), key)
        except (LoadError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read and is trained again: %s", path, error)
    delta = make()
    replace(delta, info={**delta.info, _KEPT: [key, _stamp(delta)]}).save(path)
    return delta


def _stamp(delta: WeightDelta) -> str:
    """A digest of everything that a difference is, as its file has it."""
    return digest_of(delta.digest, delta.name, json.loads(json.dumps(delta.info, default=plain_value)))


def _of_key(delta: WeightDelta, key: str) -> WeightDelta:
    """The difference as it was made. Raises `LoadError` where it is another key's."""
    info = dict(delta.info)
    said = info.pop(_KEPT, None)
    known = replace(delta, info=info)
    if said != [key, _stamp(known)]:
        raise LoadError("it is not as it was written, or was kept under another key")
    return known

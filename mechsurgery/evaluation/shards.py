"""Measured rows kept in small files named by the content of what was measured, so that a killed run resumes.

A shard's name is the SHA-256 of everything its rows depend on: model fingerprint, what the intervention does,
strength, prompts, generation settings. A changed setting therefore never finds a stale shard, and two
processes that measure the same thing write the same file. Files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import write_atomically

logger = logging.getLogger(__name__)


def key_of(facts: dict[str, Any]) -> str:
    """64 hexadecimal digits that stand for JSON-like facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Shards:
    """Rows by key, in a folder (`folder/shards/*.parquet`) or, for None, in memory."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder) / "shards"
        self._kept: dict[str, pd.DataFrame] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._kept or (
            self.folder is not None and self._path(key).is_file() and self.read(key) is not None
        )

    def read(self, key: str) -> pd.DataFrame | None:
        """The rows of a key, or None where there are none that can be read (they are then measured again)."""
        if key not in self._kept and self.folder is not None and self._path(key).is_file():
            try:
                self._kept[key] = pd.read_parquet(self._path(key))
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be read and is measured again: %s", self._path(key), error)
        return self._kept.get(key)

    def write(self, key: str, rows: pd.DataFrame) -> None:
        """Keep the rows of a key."""
        if self.folder is not None:
            write_atomically(self._path(key), lambda path: rows.to_parquet(path, index=False))
            rows = pd.read_parquet(self._path(key))
        self._kept[key] = rows

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key[:32]}.parquet"

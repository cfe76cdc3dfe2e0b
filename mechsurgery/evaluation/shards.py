"""Measured rows kept in small files named by the content of what was measured, so that a killed run resumes.

A file's name is the SHA-256 of everything its rows depend on: model fingerprint, token ids, what the intervention
does, strength, generation settings. A changed setting therefore never finds stale rows, and two processes that
measure the same thing write the same file. Files appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import plain_value
from ..writing import write_atomically

logger = logging.getLogger(__name__)


def key_of(facts: Any) -> str:
    """64 hexadecimal digits that stand for JSON-like facts; NumPy's numbers are those of Python."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=plain_value).encode()).hexdigest()


class Shards:
    """Rows by key, in a folder (`folder/shards/*.parquet`) or, for None, in memory."""

    def __init__(self, folder: str | Path | None, prefix: str = "") -> None:
        self.folder = None if folder is None else Path(folder) / "shards"
        self._kept: dict[str, pd.DataFrame] = {}
        self._prefix = prefix

    def of(self, prefix: str) -> Shards:
        """The same rows, with `prefix` (a model's fingerprint) part of every key."""
        view = Shards(None, prefix)
        view.folder, view._kept = self.folder, self._kept
        return view

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    def read(self, key: str) -> pd.DataFrame:
        """The rows of a key that is there."""
        rows = self.find(key)
        if rows is None:
            raise KeyError(key)
        return rows

    def find(self, key: str) -> pd.DataFrame | None:
        """The rows of a key, or None where there are none that can be read (they are then measured again)."""
        name = self._name(key)
        if name not in self._kept and self.folder is not None and self._path(name).is_file():
            try:
                self._kept[name] = pd.read_parquet(self._path(name))
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be read and is measured again: %s", self._path(name), error)
        return self._kept.get(name)

    def write(self, key: str, rows: pd.DataFrame) -> None:
        """Keep the rows of a key."""
        name = self._name(key)
        if self.folder is not None:
            write_atomically(self._path(name), lambda path: rows.to_parquet(path, index=False))
            rows = pd.read_parquet(self._path(name))
        self._kept[name] = rows

    def _name(self, key: str) -> str:
        return key_of([self._prefix, key])

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name[:32]}.parquet"

"""Measured rows kept in small files named by the content of what was measured, so that a killed run resumes.

A file's name is the SHA-256 of everything its rows depend on: model fingerprint, tokenizer, token ids, what the
intervention does, strength, generation settings. A changed setting therefore never finds stale rows, and two processes
that measure the same thing write the same file. Files appear whole or not at all; each holds its whole key, how many
rows it has and a checksum of all its bytes, and one where any of these differ is measured again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from ..artifacts import read_table_bytes, table_bytes, write_atomically
from ..digests import digest_of as key_of
from ..errors import LoadError

logger = logging.getLogger(__name__)
__all__ = ["Shards", "key_of"]


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
        """The rows of a key, or None where there are none that are as they were written (they are measured again)."""
        name = self._name(key)
        if name not in self._kept and self.folder is not None and self._path(name).is_file():
            try:
                self._kept[name] = _read(self._path(name).read_bytes(), name)
            except (LoadError, OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s cannot be read and is measured again: %s", self._path(name), error)
        return self._kept.get(name)

    def write(self, key: str, rows: pd.DataFrame) -> None:
        """Keep the rows of a key."""
        name = self._name(key)
        if self.folder is not None:
            content = table_bytes(rows, index=False, key=name, rows=len(rows))
            write_atomically(self._path(name), lambda path: path.write_bytes(content))
            # As they will be read, so that a resumed run has the very same.
            rows = _read(content, name)
        self._kept[name] = rows

    def _name(self, key: str) -> str:
        return key_of(self._prefix, key)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name[:32]}.parquet"


def _read(content: bytes, name: str) -> pd.DataFrame:
    """The rows of a file. Raises `LoadError` where it is damaged, or another key's."""
    rows, facts = read_table_bytes(content)
    if facts["key"] != name or facts["rows"] != len(rows):
        raise LoadError(f"it holds {facts['rows']} rows of the key {str(facts['key'])[:32]}")
    return rows

"""Measured rows kept in small files named by the content of what was measured, so that a killed run resumes.

A file's name is the SHA-256 of everything its rows depend on: model fingerprint, tokenizer, token ids, what the
intervention does, strength, generation settings. A changed setting therefore never finds stale rows, and two processes
that measure the same thing write the same file. Files appear whole or not at all; each holds its whole key, how many
rows it has and a checksum of all its bytes, and one where any of these differ is measured again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from pathlib import Path

import pandas as pd

from ..checks import check_arguments
from ..digests import digest_of as key_of
from ..errors import LoadError
from ..writing import write_atomically

logger = logging.getLogger(__name__)
__all__ = ["Shards", "key_of"]

_HEADER = b"mechsurgery"
#: Where a file's metadata have its checksum: the SHA-256 of the whole file with zeros in place of these digits.
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_BLANK = "0" * 64


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
                self._kept[name] = _unsealed(self._path(name).read_bytes(), name)
            except (LoadError, OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s cannot be read and is measured again: %s", self._path(name), error)
        return self._kept.get(name)

    def write(self, key: str, rows: pd.DataFrame) -> None:
        """Keep the rows of a key."""
        name = self._name(key)
        if self.folder is not None:
            content = _sealed(rows, name)
            write_atomically(self._path(name), lambda path: path.write_bytes(content))
            # As they will be read, so that a resumed run has the very same.
            rows = _unsealed(content, name)
        self._kept[name] = rows

    def _name(self, key: str) -> str:
        return key_of(self._prefix, key)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name[:32]}.parquet"


def _sealed(rows: pd.DataFrame, name: str) -> bytes:
    """A Parquet file of the rows, with their key, their number and a checksum in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(rows, preserve_index=False)
    header = json.dumps({"key": name, "rows": len(rows), "sha256": _BLANK}).encode()
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), _HEADER: header}), buffer)
    content = buffer.getvalue()
    # The last one: what is measured may have the same text, but metadata stand at the end of the file.
    place = content.rfind(_BLANK.encode())
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + len(_BLANK) :]


def _unsealed(content: bytes, name: str) -> pd.DataFrame:
    """The rows of a file. Raises `LoadError` where a byte differs (before parsing it) or it is another key's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for seal in _SEAL.finditer(content):
        blank = content[: seal.start(1)] + _BLANK.encode() + content[seal.end(1) :]
        if hashlib.sha256(blank).hexdigest().encode() == seal[1]:
            break
    else:
        raise LoadError("its checksum differs, or it has none")
    table = pq.read_table(pa.BufferReader(content))
    facts = json.loads(table.schema.metadata[_HEADER])
    if facts["key"] != name or facts["rows"] != table.num_rows:
        raise LoadError(f"it holds {facts['rows']} rows of the key {str(facts['key'])[:32]}")
    return table.to_pandas()


check_arguments(__name__, inner=True)

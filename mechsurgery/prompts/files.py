"""Tables from files of prompts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..errors import PromptError, listed

#: Endings of the files that can be read.
READABLE = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_table(path: str | Path) -> pd.DataFrame:
    """A pandas table from a CSV, TSV, JSON, JSONL or Parquet file; a byte-order mark is dropped."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise PromptError(f"no file {str(path)!r}; give a file that ends in one of {listed(READABLE)}")
    readers = {
        ".csv": lambda: pd.read_csv(path, encoding="utf-8-sig"),
        ".tsv": lambda: pd.read_csv(path, sep="\t", encoding="utf-8-sig"),
        ".json": lambda: pd.read_json(path, encoding="utf-8-sig"),
        ".jsonl": lambda: pd.read_json(path, lines=True, encoding="utf-8-sig"),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix not in readers:
        raise PromptError(f"{path.name!r} ends in {path.suffix!r}; readable: {listed(READABLE)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError, UnicodeError) as error:
        raise PromptError(f"cannot read {str(path)!r}: {error}") from error

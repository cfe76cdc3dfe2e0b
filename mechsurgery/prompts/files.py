"""Tables from files of prompts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..errors import PromptError, listed

#: Endings of the files that can be read.
READABLE = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")


def read_table(path: str | Path) -> pd.DataFrame:
    """A pandas table from a CSV, TSV, JSON, JSONL, Parquet or text file; a byte-order mark is dropped.

    A text file (.txt, UTF-8) has one prompt on a line and gives one column, `text`: blank lines are skipped, and spaces
    at both ends of a line are dropped. Raises `PromptError` where there is no such file or it cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise PromptError(f"no file {str(path)!r}; give a file that ends in one of {listed(READABLE)}")
    readers = {
        ".csv": lambda: pd.read_csv(path, encoding="utf-8-sig"),
        ".tsv": lambda: pd.read_csv(path, sep="\t", encoding="utf-8-sig"),
        ".json": lambda: pd.read_json(path, encoding="utf-8-sig"),
        ".jsonl": lambda: pd.read_json(path, lines=True, encoding="utf-8-sig"),
        ".parquet": lambda: pd.read_parquet(path),
        ".txt": lambda: _lines(path),
    }
    if path.suffix not in readers:
        raise PromptError(f"{path.name!r} ends in {path.suffix!r}; readable: {listed(READABLE)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError, UnicodeError) as error:
        raise PromptError(f"cannot read {str(path)!r}: {error}") from error


def _lines(path: Path) -> pd.DataFrame:
    """The lines of a text file that have a text. Only line ends divide: other breaks may stand in a prompt."""
    lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise PromptError(f"{str(path)!r} has no line with a text; give a prompt on each line")
    return pd.DataFrame({"text": texts})

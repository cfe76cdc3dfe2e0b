"""Tables from files of prompts, read as text: what stands in a cell is what comes out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, ModelNotFoundError, PromptError, listed
from ..reading import parse_json, read_parquet, the_file

#: Endings of the files that can be read.
READABLE = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
Record = tuple[int, dict[str, str]]


def read_table(path: str | Path) -> pd.DataFrame:
    """A pandas table from a CSV, TSV, JSON, JSONL, Parquet or text file (UTF-8; a byte-order mark is dropped).

    Cells of CSV and TSV files are strings as they are written (an id 007 stays 007, an empty cell is ""); a record with
    another number of cells than the header is refused, as a comma without quotation marks makes one. JSON keeps its own
    types. A text file has one prompt on a line and gives one column, `text`: blank lines are skipped, and spaces at
    both ends of a line are dropped. Raises `PromptError` where there is no such file or it cannot be read.
    """
    path = _there(path)
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _separated,
        ".tsv": _separated,
        ".json": _json,
        ".jsonl": _json_lines,
        ".parquet": read_parquet,
        ".txt": _text_lines,
    }
    if path.suffix not in readers:
        raise PromptError(f"{path.name!r} ends in {path.suffix!r}; readable: {listed(READABLE)}")
    try:
        return readers[path.suffix](path)
    except PromptError:
        raise
    except Exception as error:  # pandas and Arrow raise many kinds; all of them say that the file is no table
        raise PromptError(f"cannot read {str(path)!r}: {error}") from error


def read_cells(path: str | Path) -> list[tuple[int, list[str]]]:
    """(line where the record begins, cells) of a CSV or TSV file; quoted cells may span lines, blank lines are skipped.

    Raises `PromptError`, with the line, for a quotation mark that is left open, and for a file that is not UTF-8.
    """
    path = _there(path)
    text = _decoded(path)
    csv.field_size_limit(1 << 24)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    found: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(f"{path}, line {start}: {error}; is a quotation mark left open?") from error
    return found


def read_records(path: str | Path) -> list[Record]:
    """(line, {column: cell}) of a CSV or TSV file with a header. Raises `PromptError` for records of another length."""
    lines = read_cells(path)
    if not lines:
        raise PromptError(f"{path} is empty; its first line names the columns")
    if len(lines) < 2:
        raise PromptError(f"{path} has no records below its header")
    header = [name.strip() for name in lines[0][1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise PromptError(f"{path}: column {listed(twice)} stands twice in the header; name each once")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise PromptError(
                f"{path}, line {line}: {len(cells)} cells under {len(header)} columns; put quotation marks around text "
                "with a comma"
            )
    return [(line, dict(zip(header, cells))) for line, cells in lines[1:]]


def _there(path: str | Path) -> Path:
    try:
        return the_file(path, f"give a file that ends in one of {listed(READABLE)}")
    except ModelNotFoundError as error:
        raise PromptError(str(error)) from error


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error
    except OSError as error:
        raise PromptError(f"cannot read {str(path)!r}: {error}") from error


def _separated(path: Path) -> pd.DataFrame:
    return pd.DataFrame([cells for _, cells in read_records(path)])


def _json(path: Path) -> pd.DataFrame:
    """A list of records, or an object of columns as pandas writes them."""
    content = parse_json(_decoded(path), finite=False)
    if isinstance(content, dict):
        content = {name: list(col.values()) if isinstance(col, dict) else col for name, col in content.items()}
    elif not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise PromptError(f"{str(path)!r} holds no records; give a list of objects, or an object of columns")
    # As objects: else a whole number becomes a fraction where another record lacks it.
    return pd.DataFrame(content, dtype=object)


def _json_lines(path: Path) -> pd.DataFrame:
    records: list[Any] = []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, finite=False)
        except InputError as error:
            raise PromptError(f"cannot read {str(path)!r}, line {number}: {error}") from error
        if not isinstance(record, dict):
            raise PromptError(f"{path}, line {number}: {str(record)[:40]!r} is no object; give one on each line")
        records.append(record)
    if not records:
        raise PromptError(f"{str(path)!r} has no records; give an object on each line")
    return pd.DataFrame(records, dtype=object)


def _text_lines(path: Path) -> pd.DataFrame:
    """The lines of a text file that have a text. Only line ends divide: other breaks may stand in a prompt."""
    lines = _decoded(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise PromptError(f"{str(path)!r} has no line with a text; give a prompt on each line")
    return pd.DataFrame({"text": texts})


check_arguments(__name__, leave=("read_table", "read_cells", "read_records"), error=PromptError)

"""Reading files that may be anything: every reader of the package goes through here.

Whatever is wrong with a file is a `LoadError` with its path: errors of the file system, of JSON, safetensors, Arrow and
of what checks their content. What is read is bounded by the size of the file, so that a small one cannot fill the
memory, and JSON is read strictly: an object names each key once, texts are whole characters, numbers are finite.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .allowed import conforms
from .checks import check_arguments
from .errors import InputError, LoadError, MissingExtraError, ModelNotFoundError, PromptError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

#: What a JSON file may have at most (bytes), a safetensors header (bytes), and how deep JSON may be nested.
JSON_BYTES, HEADER_BYTES, DEPTH = 1 << 28, 1 << 24, 64
#: What a table may take in memory: this many bytes, or this many times its file.
TABLE_BYTES, TABLE_TIMES = 1 << 25, 64


@contextmanager
def readable(path: str | Path, what: str) -> Iterator[None]:
    """Within it, whatever goes wrong is a `LoadError` that says that the file at a path is no readable `what`."""
    try:
        yield
    except (LoadError, MissingExtraError, PromptError):  # what stands in prompts has its own error, which names which
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{_name(path)} is no readable {what.removeprefix('a ')}: {said[:600]}") from error


def the_file(path: str | Path, hint: str) -> Path:
    """The path where there is a file, else `ModelNotFoundError` with what to give."""
    try:
        there = Path(path).expanduser()
        if there.is_file():
            return there
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelNotFoundError(f"no file {_name(path)} ({error}); {hint}") from error
    raise ModelNotFoundError(f"no file {_name(path)}; {hint}")


def _name(path: str | Path) -> str:
    return repr(str(path)[-200:])


def parse_json(content: bytes | str, *, finite: bool = True) -> Any:
    """JSON as a value, strictly.

    Raises `InputError` for what is no JSON, a key that stands twice in an object, nesting beyond 64, half of a
    character, and (with `finite`) numbers that are NaN or infinite.
    """
    if len(content) > JSON_BYTES:
        raise InputError(f"{len(content):,} bytes of JSON; at most {JSON_BYTES:,} are read")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise InputError(f"JSON that is nested more than {DEPTH} deep") from error
    except (ValueError, MemoryError) as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from error
    _check_sound(value, finite)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def _check_sound(value: Any, finite: bool) -> None:
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        if depth > DEPTH:
            raise InputError(f"JSON that is nested more than {DEPTH} deep")
        if isinstance(one, str):
            if not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f"a text with half of a character ({error.reason})") from error
        elif isinstance(one, dict):
            stack += ((inner, depth + 1) for inner in one)
            stack += ((inner, depth + 1) for inner in one.values())
        elif isinstance(one, list):
            stack += ((inner, depth + 1) for inner in one)
        elif finite and isinstance(one, float) and not math.isfinite(one):
            raise InputError(f"the number {one}; only finite ones are read")


class Field(NamedTuple):
    """A key of an object: the type of its value, and whether it may be missing."""

    hint: Any
    needed: bool = True


def check_object(content: Any, fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The object itself where it has the keys of `fields` and no others, each with a value of its type.

    A field is a type, or `Field(type, needed=False)`. Raises `LoadError`.
    """
    conforms(content, dict[str, Any], what, LoadError)
    known = {key: one if isinstance(one, Field) else Field(one) for key, one in fields.items()}
    lacking = [key for key, one in known.items() if one.needed and key not in content]
    odd = [key for key in content if key not in known]
    if lacking or odd:
        said = f"lacks {lacking[:8]}" if lacking else f"has unknown {[key[:40] for key in odd[:8]]}"
        raise LoadError(f"{what} {said}; it has the keys {list(known)}")
    for key, value in content.items():
        conforms(value, known[key].hint, f"{key!r} of {what}", LoadError)
    return content


def checksum(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 of named tensors and of the text that stands beside them."""
    import torch

    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        own = tensors[name].detach().cpu().contiguous()
        digest.update(repr((name, str(own.dtype), tuple(own.shape))).encode())
        digest.update(memoryview(own.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file, whose header is checked before it is given to the library.

    Raises `LoadError`; the header may have 16 MiB.
    """
    from safetensors import safe_open

    path = Path(path)
    with readable(path, "a safetensors file"):
        size = path.stat().st_size
        with open(path, "rb") as file:
            n = int.from_bytes(file.read(8), "little")
            if size < 8 or n > min(size - 8, HEADER_BYTES):
                raise InputError(f"its header is to have {n:,} bytes, the file {size:,}")
            header = parse_json(file.read(n))
        conforms(header, dict[str, dict[str, Any]], "its header")
        with safe_open(str(path), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


def read_parquet(path: str | Path) -> pd.DataFrame:
    """A pandas table from a Parquet file; one that would take much more memory than its file is refused.

    Raises `LoadError`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(path)
    with readable(path, "a Parquet table"):
        allowed = max(TABLE_BYTES, TABLE_TIMES * path.stat().st_size)
        # Texts stay in dictionaries, so that one that is repeated a million times is read once.
        with pq.ParquetFile(path) as file:
            facts, schema = file.metadata, file.schema_arrow
            # What stands in the metadata of single columns is left alone: Arrow ends the process where it is damaged.
            stored = sum(max(0, facts.row_group(i).total_byte_size) for i in range(facts.num_row_groups))
            _allow(8 * facts.num_rows * max(1, len(schema)) + stored, allowed)
            nested = [one.name for one in schema if pa.types.is_nested(one.type)]
            taken = 0
            for batch in file.iter_batches(batch_size=64, columns=nested) if nested else ():
                taken += batch.nbytes
                _allow(taken, allowed)
        texts = [one.name for one in schema if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)]
        if texts:
            held = pq.read_table(path, columns=texts, read_dictionary=texts)
            for column in held.columns:
                for chunk in column.chunks:
                    if isinstance(chunk, pa.DictionaryArray):
                        lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                        _allow(pc.sum(lengths).as_py() or 0, allowed)
        return pd.read_parquet(path)


def _allow(needed: int, allowed: int) -> None:
    if needed > allowed:
        raise InputError(f"it would take {needed:,} bytes of memory, much more than its file; {allowed:,} are allowed")


def check_tensors(
    tensors: Mapping[str, Tensor], allowed: Callable[[str], Sequence[str] | None], what: str
) -> Mapping[str, Tensor]:
    """The tensors themselves where each has one of the dtypes that `allowed(name)` gives (None: no such tensor)."""
    for name, tensor in tensors.items():
        dtypes = allowed(name)
        own = str(tensor.dtype).removeprefix("torch.")
        if dtypes is None or own not in dtypes:
            said = "is none of it" if dtypes is None else f"holds {own}; allowed: {', '.join(dtypes)}"
            raise LoadError(f"tensor {name[:80]!r} of {what} {said}")
    return tensors


check_arguments(__name__, leave=("the_file", "readable"))

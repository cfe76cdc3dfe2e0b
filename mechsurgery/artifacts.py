"""Saving and loading: safetensors with a JSON header, JSON files, and where a result came from.

Nothing here reads or writes a pickle. Every write is atomic (`writing.py`): a killed process leaves the old file or the
new one, never half of one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .allowed import shown
from .checks import check_arguments
from .errors import LoadError
from .reading import (
    check_object,
    check_tensors,
    checksum,
    parse_json,
    read_parquet,
    read_safetensors,
    readable,
    tensors_digest,
    the_file,
)
from .writing import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_HEADER = "mechsurgery"
_PACKAGES = ("mechsurgery", "torch", "transformer-lens", "transformers", "sae-lens")


def versions() -> dict[str, str]:
    """The versions a result depends on: Python and the packages that compute it."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(**facts: Any) -> dict[str, Any]:
    """`facts` with the time (UTC), the versions, and the commit of a checkout: what stands beside every result."""
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    return {**facts, **made, **({"commit": commit()} if commit() else {})}


@lru_cache(maxsize=1)
def machine() -> str:
    """The hardware that this runs on, in words: processor, cores, memory, and GPUs where there are any."""
    import torch

    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        lines = (line.partition(":") for line in described.read_text(errors="replace").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    parts = [f"{name}, {os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory")
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*parts, platform.system()])


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout that this package runs from, with a + where files differ from it; None elsewhere."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        asked = (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        found = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20)
            for words in asked
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0].stdout.strip() + ("+" if found[1].stdout.strip() else "")


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file (UTF-8), atomically; half a surrogate pair, which no file can hold, is written as its number.

    Raises `WriteError`.
    """
    return write_atomically(path, lambda target: target.write_bytes(text.encode("utf-8", "backslashreplace")))


def save_json(path: str | Path, content: Any) -> Path:
    """Write `content` as indented JSON, which `load_json` reads (see `write_text`). Raises `WriteError`."""
    return write_text(path, _as_json(content, indent=2) + "\n")


def _as_json(content: Any, indent: int | None = None) -> str:
    text = json.dumps(content, indent=indent, ensure_ascii=False, default=plain_value)
    return re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half.group()):04x}", text)


def load_json(path: str | Path, *, finite: bool = True) -> Any:
    """Read a JSON file, strictly (see `reading.parse_json`). Raises `LoadError` with the path where that fails."""
    with readable(path, "JSON"):
        return parse_json(Path(path).read_bytes(), finite=finite)


def save_document(path: str | Path, kind: str, content: Mapping[str, Any]) -> Path:
    """Write a JSON object with its `kind` and a checksum, which `load_document` compares."""
    whole = {"kind": kind, **json.loads(_as_json(dict(content)))}
    return save_json(path, {**whole, "checksum": checksum(whole)})


def load_document(
    path: str | Path, kind: str, fields: Mapping[str, Any] | None, hint: str, *, finite: bool = True
) -> dict[str, Any]:
    """Read what `save_document` wrote, as an object with these fields (`reading.check_object`; None: any).

    Files of before there were kinds and checksums are read too. Raises `ModelNotFoundError` (with `hint`) for a missing
    file, `LoadError` for one of another kind, of other fields, or changed since it was written.
    """
    there = the_file(path, hint)
    content = load_json(there, finite=finite)
    if not isinstance(content, dict) or not content or content.get("kind", kind) != kind:
        found = content.get("kind") if isinstance(content, dict) else None
        raise LoadError(f"{str(there)!r} holds {_told(found, 'something else')}, not a {kind}; {hint}")
    said = content.pop("checksum", None)
    if said is not None and said != checksum(content):
        raise LoadError(f"{str(there)!r} {_CHANGED}; a change that is meant is kept by removing its line 'checksum'")
    content.pop("kind", None)
    return content if fields is None else check_object(content, fields, f"the {kind} at {str(there)!r}")


def _told(found: Any, otherwise: str) -> str:
    """The kind that a file says it has, in a message."""
    return shown(found)[1:-1] if isinstance(found, str) and found else otherwise


_CHANGED = "is not what was written: its checksum differs"


def load_table(path: str | Path) -> pd.DataFrame:
    """Read a Parquet file. Raises `LoadError` with the path where it is missing, damaged, or far larger than it is."""
    return read_parquet(path)


def save_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a table as Parquet, with its index; a column that mixes kinds of values is written as text.

    So a table made for reading never costs the run that made it.
    """
    from pandas.api.types import infer_dtype

    try:
        return write_atomically(path, table.to_parquet)
    except (TypeError, ValueError):
        mixed = [name for name in table if infer_dtype(table[name], skipna=True).startswith("mixed")]
        if not mixed:
            raise
        return write_atomically(path, table.assign(**{name: table[name].map(str) for name in mixed}).to_parquet)


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write named tensors and JSON `facts` as one safetensors file of a given `kind`."""
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory.
        stored[name] = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(stored[name].untyped_storage().data_ptr())
    text = json.dumps(dict(facts), default=plain_value)
    header = {_HEADER: json.dumps({"kind": kind, "facts": text, "checksum": tensors_digest(stored, kind + text)})}
    return write_atomically(path, lambda target: save_file(stored, str(target), metadata=header))


def load_tensors(
    path: str | Path, kind: str, fields: Mapping[str, Any], dtypes: Callable[[str], Sequence[str] | None]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: (tensors, facts).

    `fields` are the keys that its facts have, each with the type of its value, and `dtypes(name)` says which dtypes a
    tensor of a name may have, None where there is to be no such tensor. Raises `ModelNotFoundError` for a missing file,
    `LoadError` for a file of another kind or schema, one that was changed since it was written, or no safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors") if path.name else path
    path = the_file(path, "give the path that .save(path) was given")
    tensors, metadata = read_safetensors(path)
    with readable(path, f"a {kind}"):
        header = parse_json(metadata.get(_HEADER, "{}"))
        if not isinstance(header, dict) or header.get("kind") != kind:
            found = header.get("kind") if isinstance(header, dict) else None
            raise LoadError(f"{str(path)!r} holds {_told(found, 'no mechsurgery artefact')}, not a {kind}")
        facts = header.get("facts")
        if isinstance(facts, str):
            if header.get("checksum") != tensors_digest(tensors, kind + facts):
                raise LoadError(f"{str(path)!r} {_CHANGED}; save it again, or use a copy of it")
            facts = parse_json(facts, finite=False)
        what = f"the {kind} at {str(path)!r}"
        return dict(check_tensors(tensors, dtypes, what)), check_object(facts, fields, what)


#: The dtypes that numbers and indices are kept in.
NUMBERS = ("float64", "float32", "float16", "bfloat16")
INDICES = ("int64", "int32")


def plain_value(value: Any) -> Any:
    """JSON for the few kinds of values that are not JSON by themselves."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot save a {type(value).__name__} as JSON")


check_arguments(__name__)

"""Checkpoints tensor by tensor: Hugging Face directories compared, subtracted and rewritten without loading them.

Tensors are read some rows at a time and appended to a safetensors file whose header is written first, so memory holds
little, whatever the checkpoint's size. A directory is written beside its place and moved there when it is complete.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_arguments
from ..deltas import exact_difference
from ..errors import ActivationError, InputError, LoadError, MismatchError, ModelNotFoundError, listed
from ..progress import with_progress
from ..writing import check_path, check_space, new_directory
from .reading import reading
from .stray_files import copy_plain_files
from .weight_files import INDEX, check_dtypes, check_index, weight_files

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

logger = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
#: How many numbers are held in float64 at once where every row is computed by itself.
CHUNK = 1 << 20
#: How many numbers are read at once.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Change:
    """How a tensor's new value is made: `make(tensor, 0, dtype)`, computed in float64.

    With `by_rows` from some of its rows at a time, `make(tensor[start : …], start, dtype)`.
    """

    make: Callable[[Tensor, int, torch.dtype], Tensor]
    by_rows: bool = False


@dataclass(frozen=True)
class New:
    """A tensor that a checkpoint lacks, for the file of the tensor `beside`: zeros of a shape, or a copy of that."""

    beside: str
    shape: tuple[int, ...] | None = None


class Checkpoint:
    """The tensors of a Hugging Face directory by name, read when asked for; `facts` are their dtypes and shapes."""

    def __init__(self, directory: str | Path, *, files: list[Path] | None = None) -> None:
        self.directory = _as_path(directory)
        self.shards = _shards(self.directory) if files is None else files
        self.new: dict[str, New] = {}
        self.where: dict[str, Path] = {}
        self.facts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for shard in self.shards:
            with reading(shard), _opened(shard) as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    part = file.get_slice(name)
                    if part.get_dtype() not in _DTYPES:
                        raise LoadError(
                            f"{name} in {str(shard)!r} is {part.get_dtype()}; known are {listed(_DTYPES, 12)}"
                        )
                    if name in self.where:
                        raise LoadError(
                            f"{name} is in {self.where[name].name!r} and in {shard.name!r} of {str(self.directory)!r}; "
                            "which one counts is not known, fetch the model again"
                        )
                    self.where[name] = shard
                    self.facts[name] = (_DTYPES[part.get_dtype()], tuple(part.get_shape()))

    def __call__(self, name: str, rows: slice | None = None) -> Tensor:
        """One tensor, or some of its rows."""
        new = self.new.get(name)
        if new is not None and new.shape is not None:
            zeros = torch.zeros(self.facts[name][1], dtype=self.facts[name][0])
            return zeros if rows is None else zeros[rows]
        with _opened(self.where[name]) as file:
            own = name if new is None else new.beside
            return file.get_tensor(own) if rows is None else file.get_slice(own)[rows]

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of a tensor, a few at a time; the file is closed between, as what was read of it stays."""
        if name not in self.facts:
            raise InputError(f"no tensor {name!r} in {str(self.directory)!r}; there are {listed(self.facts)}")
        shape = self.facts[name][1]
        if len(shape) < 2 or prod(shape) <= _BLOCK:
            yield 0, self(name)
            return
        step = max(1, _BLOCK // prod(shape[1:]))
        for start in range(0, shape[0], step):
            yield start, self(name, slice(start, start + step))

    def widened(self, new: Mapping[str, New]) -> Checkpoint:
        """The same with tensors more, as if they stood in it."""
        found = copy.copy(self)
        found.new = self.new | dict(new)
        for name, one in new.items():
            dtype, shape = self.facts[one.beside]
            found.where = found.where | {name: self.where[one.beside]}
            found.facts = found.facts | {name: (dtype, shape if one.shape is None else one.shape)}
        return found

    def names(self, shard: Path) -> list[str]:
        """The tensors of one file."""
        return [name for name, where in self.where.items() if where == shard]

    def find(self, name: str) -> str | None:
        """A tensor's name as it stands here, with or without the prefix of the whole model; None where it is absent."""
        return next((own for own in (name, name.partition(".")[2]) if own in self.facts), None)

    def key(self, name: str) -> str:
        """The same, or `MismatchError` where it is absent."""
        key = self.find(name)
        if key is None:
            raise MismatchError(
                f"the checkpoint in {str(self.directory)!r} has no place for {name!r}: its architecture lacks it, or "
                "what names it is of another model"
            )
        return key


def whole_checkpoint(directory: str | Path) -> Checkpoint:
    """The checkpoint of the files that `load_model` reads, of weights that it loads. Raises `LoadError`'s kinds."""
    path = _as_path(directory)
    if "\0" in str(path) or not path.is_dir():
        raise ModelNotFoundError(f"no directory {str(directory)[:200]!r}; give the directory of a model")
    found = Checkpoint(path, files=weight_files(path))
    check_index({name: shard.name for name, shard in found.where.items()}, path)
    check_dtypes(found.facts, path)
    return found


def _as_path(directory: str | Path) -> Path:
    if not isinstance(directory, str | Path) or not str(directory).strip():
        raise InputError(f"{directory!r} is no directory; give the path of a Hugging Face directory")
    with reading(str(directory)[:200]):
        return Path(directory).expanduser().absolute()


def _shards(directory: Path) -> list[Path]:
    """The files that transformers would read; else every safetensors file, as a difference has names of its own."""
    if "\0" in str(directory):
        raise LoadError(f"no directory {str(directory)!r}; give a Hugging Face directory")
    named = any((directory / name).is_file() for name in ("model.safetensors", INDEX))
    shards = [] if named or not directory.is_dir() else sorted(directory.glob("*.safetensors"))
    if shards:
        return shards
    if not directory.is_dir():
        raise LoadError(f"no directory {str(directory)!r}; give a Hugging Face directory")
    return weight_files(directory)


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(shard), framework="pt")
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{str(shard)!r} is no safetensors file that can be read: {error}") from error
    with file as opened:
        yield opened


def write_safetensors(
    path: Path,
    shapes: Shapes,
    make: Callable[[str], Tensor | Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file with the tensors that `make(name)` gives, whole or as rows that follow each other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    place = 0
    for name, (dtype, shape) in shapes.items():
        size = dtype.itemsize * prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in shapes.items():
            made, rows = make(name), 0
            for part in [made] if isinstance(made, Tensor) else made:
                rows += len(part) if part.ndim else 0
                if tuple(part.shape[1:]) != shape[1:] or part.ndim != len(shape):
                    raise MismatchError(f"{name} has shape {tuple(part.shape)}, {shape} was announced")
                file.write(part.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)
            if shape and rows != shape[0]:
                raise MismatchError(f"{name} has {rows} rows, {shape[0]} were announced")


def check_beside(source: Path, out: Path) -> Path:
    """The real place of `source`. Raises `InputError` for an `out` in it."""
    home = Path(os.path.realpath(source))
    if Path(os.path.realpath(out)).is_relative_to(home):
        raise InputError(f"{str(out)!r} is in {str(source)!r}, which is read; give a directory beside it")
    return home


@contextmanager
def _new_checkpoint(source: Path, out: Path, shapes: Shapes | None = None) -> Iterator[Path]:
    """A temporary directory with the plain files of `source`, that becomes `out` at the end, or vanishes."""
    home = check_beside(source, out)
    check_space(out, _size(shapes or {}))
    with new_directory(out) as folder:
        left = copy_plain_files(home, folder)
        if left:
            logger.warning("not copied from %s: %s; copy by hand what you trust and need", source, listed(left))
        yield folder


def _write_index(source: Path, folder: Path, where: Mapping[str, str], shapes: Shapes) -> None:
    """The index of a checkpoint in several files; none where the source needs none."""
    if not (source / INDEX).is_file() or set(where.values()) == {"model.safetensors"}:
        return
    index = {"metadata": {"total_size": _size(shapes)}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _size(shapes: Shapes) -> int:
    """Bytes of tensors."""
    return sum(dtype.itemsize * prod(shape) for dtype, shape in shapes.values())


def rewrite(
    checkpoint: Checkpoint,
    out: str | Path,
    changes: Mapping[str, Change],
    *,
    dtype: torch.dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    finish: Callable[[Path], None] | None = None,
    progress: bool | None = None,
) -> Path:
    """Write `out`: a checkpoint in which some tensors are changed.

    Tensors keep their dtype; with `dtype`, all of floating-point numbers get that one and config.json says so, as it
    says `settings`. `finish(folder)` may add files at the end. Raises `ActivationError` where a result is NaN or
    infinite, `InputError` for an `out` that exists or is in the checkpoint's own directory, `WriteError` where the disk
    is full or may not be written. A killed run leaves no directory at `out`.
    """
    shapes = {
        name: (dtype if dtype is not None and own.is_floating_point else own, shape)
        for name, (own, shape) in checkpoint.facts.items()
    }

    def make(name: str) -> Iterator[Tensor]:
        change = changes.get(name)
        blocks = checkpoint.blocks(name) if change is None or change.by_rows else [(0, checkpoint(name))]
        for start, block in blocks:
            made = block if change is None else change.make(block, start, shapes[name][0])
            if change is not None and not torch.isfinite(made).all():
                raise ActivationError(f"{name!r} would be NaN or infinite in {shapes[name][0]}; lower the strength")
            yield made

    out = check_path(out)
    with _new_checkpoint(checkpoint.directory, out, shapes) as folder:
        for shard in with_progress(checkpoint.shards, "writing", shown=progress, unit="shard"):
            own = {name: shapes[name] for name in checkpoint.names(shard)}
            with _opened(shard) as file:
                metadata = file.metadata()
            write_safetensors(folder / shard.name, own, make, metadata)
        _write_index(checkpoint.directory, folder, {n: at.name for n, at in checkpoint.where.items()}, shapes)
        changed = dict(settings or {}) | ({} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")})
        if changed and (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if dtype is not None:
                config.pop("torch_dtype", None)
            (folder / "config.json").write_text(json.dumps(config | changed, indent=2), encoding="utf-8")
        if finish is not None:
            finish(folder)
    return out


def stream_difference(after: str | Path, before: str | Path, out: str | Path, *, progress: bool | None = None) -> Path:
    """Write `out`: for every tensor of two checkpoints, after − before, shard by shard as in `after`.

    In float32 where adding it back gives `after` bit for bit, else in float64.

    Raises `MismatchError` where names, shapes or dtypes differ, `InputError` and `WriteError` as `rewrite` does. A
    killed run leaves no directory at `out`.
    """
    new, old = Checkpoint(after), Checkpoint(before)
    if new.facts.keys() != old.facts.keys():
        odd = sorted(set(new.facts) ^ set(old.facts))
        raise MismatchError(f"the two checkpoints differ in tensors: {listed(odd)}")
    unlike = [name for name in new.facts if new.facts[name] != old.facts[name]]
    if unlike:
        name = unlike[0]
        raise MismatchError(
            f"{len(unlike)} tensors differ in dtype or shape, first {name}: {new.facts[name]} against "
            f"{old.facts[name]}; the two are not of one kind"
        )
    out = check_path(out)
    origin = {"mechsurgery": json.dumps({"kind": "difference", "after": str(after), "before": str(before)})}
    kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    with _new_checkpoint(new.directory, out) as folder:
        for shard in with_progress(new.shards, "subtracting", shown=progress, unit="shard"):
            shapes = {name: (_exact_dtype(new(name), old(name)), new.facts[name][1]) for name in new.names(shard)}
            kinds.update(shapes)
            write_safetensors(
                folder / shard.name, shapes, lambda name: summed(new(name), old(name), -1.0, kinds[name][0]), origin
            )
        _write_index(new.directory, folder, {name: at.name for name, at in new.where.items()}, kinds)
    return out


def summed(a: Tensor, b: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """A + factor · b in a dtype, computed in float64, a part after the other."""
    made = torch.empty(a.shape, dtype=dtype)
    parts = (tensor.reshape(-1).split(CHUNK) for tensor in (made, a, b))
    for own, first, second in zip(*parts):
        own.copy_(first.double() + factor * second.double())
    return made


def _exact_dtype(new: Tensor, old: Tensor) -> torch.dtype:
    """The dtype of `exact_difference`."""
    parts = zip(*(tensor.reshape(-1).split(CHUNK) for tensor in (new, old)))
    return torch.float32 if all(exact_difference(*pair).dtype == torch.float32 for pair in parts) else torch.float64


def stream_cosine(a: str | Path, b: str | Path) -> dict[str, float]:
    """Inner product, both norms and the cosine of two differences on disk, tensor by tensor."""
    first, second = Checkpoint(a), Checkpoint(b)
    sums = {"dot": 0.0, "a": 0.0, "b": 0.0}
    for name in first.facts:
        x = first(name).double()
        sums["a"] += float((x * x).sum())
        if name in second.facts:
            sums["dot"] += float((x * second(name).double()).sum())
    for name in second.facts:
        y = second(name).double()
        sums["b"] += float((y * y).sum())
    norms = (sums["a"] * sums["b"]) ** 0.5
    return {
        "dot": sums["dot"],
        "norm_a": sums["a"] ** 0.5,
        "norm_b": sums["b"] ** 0.5,
        "cosine": sums["dot"] / norms if norms else 0.0,
    }


check_arguments(__name__, inner=True)

"""Checkpoints tensor by tensor: differences and sums of Hugging Face directories without loading them.

Tensors are read one at a time and appended to a safetensors file whose header is written first, so memory holds a few
tensors, whatever the checkpoint's size.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..deltas import exact_difference
from ..errors import InputError, LoadError, MismatchError, UnsafeFileError, listed
from .progress import with_progress

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Checkpoint:
    """The tensors of a Hugging Face directory by name, read when asked for."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser()
        self.shards = sorted(self.directory.glob("*.safetensors"))
        if not self.shards:
            pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in self.directory.glob(pattern)]
            if pickles:
                raise UnsafeFileError(f"{str(self.directory)!r} has only pickled weights ({listed(pickles)})")
            raise LoadError(f"{str(self.directory)!r} has no safetensors files; give a Hugging Face directory")
        self.where: dict[str, Path] = {}
        self.facts: dict[str, tuple[str, tuple[int, ...]]] = {}
        for shard in self.shards:
            with _opened(shard) as file:
                for name in file.keys():  # noqa: SIM118 (no dictionary, and not iterable)
                    part = file.get_slice(name)
                    self.where[name] = shard
                    self.facts[name] = (part.get_dtype(), tuple(part.get_shape()))

    def __call__(self, name: str) -> Tensor:
        """One tensor."""
        with _opened(self.where[name]) as file:
            return file.get_tensor(name)


def _opened(shard: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(shard), framework="pt")
    except SafetensorError as error:
        raise LoadError(f"{str(shard)!r} is no safetensors file: {error}") from error


def write_safetensors(
    path: Path,
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a safetensors file with the tensors `make(name)` gives, one after the other in the order of `shapes`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    place = 0
    for name, (dtype, shape) in shapes.items():
        size = torch.empty((), dtype=dtype).element_size()
        for n in shape:
            size *= n
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in shapes.items():
            tensor = make(name).to(dtype).contiguous()
            if tuple(tensor.shape) != shape:
                raise MismatchError(f"{name} has shape {tuple(tensor.shape)}, {shape} was announced")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def _new_directory(out: Path) -> Iterator[Path]:
    """A temporary directory that becomes `out` at the end, or vanishes."""
    if out.exists():
        raise InputError(f"{str(out)!r} exists; give a directory that does not, so that nothing is overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / "checkpoint"
        folder.mkdir()
        yield folder
        folder.rename(out)


def _copy_rest(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
            shutil.copy2(file, folder / file.name)


def stream_difference(after: str | Path, before: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write `out`: for every tensor of two checkpoints, after − before, shard by shard as in `after`.

    In float32 where adding it back gives `after` bit for bit, else in float64.

    Raises `MismatchError` where names, shapes or dtypes differ. A killed run leaves no directory at `out`.
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
    out = Path(out)
    with _new_directory(out) as folder:
        for shard in with_progress(new.shards, "subtracting", shown=progress, unit="shard"):
            names = [name for name, where in new.where.items() if where == shard]
            shapes = {name: (exact_difference(new(name), old(name)).dtype, new.facts[name][1]) for name in names}
            write_safetensors(
                folder / shard.name,
                shapes,
                lambda name: exact_difference(new(name), old(name)),
                {"mechsurgery": json.dumps({"kind": "difference", "after": str(after), "before": str(before)})},
            )
        _copy_rest(new.directory, folder)
    return out


def stream_add(
    source: str | Path, difference: str | Path, out: str | Path, *, strength: float = 1.0, progress: bool = False
) -> Path:
    """Write `out`: the checkpoint in `source` plus `strength` times a difference that `stream_difference` wrote.

    Tensors keep their dtype. Raises `MismatchError` where the difference does not fit. A killed run leaves no directory
    at `out`.
    """
    old, change = Checkpoint(source), Checkpoint(difference)
    missing = sorted(set(change.facts) - set(old.facts))
    unlike = [name for name in change.facts if name in old.facts and change.facts[name][1] != old.facts[name][1]]
    if missing or unlike:
        raise MismatchError(
            f"the difference does not fit the checkpoint: {listed(missing or unlike)} "
            f"{'are not in it' if missing else 'have other shapes'}"
        )
    out = Path(out)

    def changed(name: str) -> Tensor:
        tensor = old(name)
        if name not in change.facts or not tensor.is_floating_point():
            return tensor
        return tensor.double().add_(change(name).double(), alpha=strength).to(tensor.dtype)

    with _new_directory(out) as folder:
        for shard in with_progress(old.shards, "adding", shown=progress, unit="shard"):
            names = [name for name, where in old.where.items() if where == shard]
            shapes = {name: (_DTYPES[old.facts[name][0]], old.facts[name][1]) for name in names}
            write_safetensors(folder / shard.name, shapes, changed)
        _copy_rest(old.directory, folder)
    return out


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

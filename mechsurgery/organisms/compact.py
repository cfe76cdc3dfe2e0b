"""Organisms stored as what distinguishes them from the base, and the cache of their Hugging Face directories.

A file of changes holds, for every tensor of the base that is another one: `NAME` (the whole tensor), or `NAME.rows` or
`NAME.columns` (the changed rows or columns) with `NAME.index` (which). Whole directories are made from it on first
use, under `$MECHSURGERY_CACHE/organisms`, else `~/.cache/mechsurgery/organisms`, else the temporary directory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checks import check_arguments
from ..errors import LoadError
from ..writing import folder_beside

CHANGES = "changed.safetensors"
MODEL = "model.safetensors"
_PARTS = (".rows", ".columns", ".index")


def changes(base: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """What makes `other` of `base`: changed rows or columns where they are few, else whole tensors."""
    if base.keys() != other.keys():
        raise LoadError("the two models have different tensors; only one that was tuned from the base can be compared")
    found: dict[str, Tensor] = {}
    for name, before in base.items():
        different = other[name] != before
        if not different.any():
            continue
        rows = different.any(1).nonzero().squeeze(1) if different.dim() == 2 else None
        columns = different.any(0).nonzero().squeeze(1) if different.dim() == 2 else None
        if rows is not None and len(rows) <= before.shape[0] // 2:
            found[f"{name}.rows"], found[f"{name}.index"] = other[name][rows].contiguous(), rows.int()
        elif columns is not None and len(columns) <= before.shape[1] // 2:
            found[f"{name}.columns"], found[f"{name}.index"] = other[name][:, columns].contiguous(), columns.int()
        else:
            found[name] = other[name].contiguous()
    return found


def changed(base: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base with changes put in."""
    made = {name: tensor.clone() for name, tensor in base.items()}
    for key, value in found.items():
        name = next((key.removesuffix(part) for part in _PARTS if key.endswith(part)), key)
        if key.endswith(".rows"):
            made[name][found[f"{name}.index"].long()] = value
        elif key.endswith(".columns"):
            made[name][:, found[f"{name}.index"].long()] = value
        elif not key.endswith(".index"):
            made[name] = value
    return made


def compress(base: Path, directory: Path) -> str:
    """Leave of a whole directory only its changes against the base; the SHA-256 of the model that they make again."""
    found = changes(load_file(base / MODEL), load_file(directory / MODEL))
    expected = load_file(directory / MODEL)
    shutil.rmtree(directory)
    directory.mkdir()
    save_file(found, directory / CHANGES)
    with tempfile.TemporaryDirectory() as folder:
        materialise(base, directory / CHANGES, Path(folder) / "whole")
        again = load_file(Path(folder) / "whole" / MODEL)
        if any(not torch.equal(again[name], tensor) for name, tensor in expected.items()):
            raise LoadError(f"the changes in {directory} do not make the model again")
        return digest(Path(folder) / "whole" / MODEL)


def materialise(base: Path, file: Path, directory: Path) -> None:
    """A whole Hugging Face directory of a file of changes: the base's own files, and the changed weights."""
    directory.mkdir(parents=True, exist_ok=True)
    for own in _plain(base):
        shutil.copyfile(own, directory / own.name)
    save_file(changed(load_file(base / MODEL), load_file(file)), directory / MODEL, metadata={"format": "pt"})


def cached(name: str, base: Path, file: Path, checksum: str) -> Path:
    """The directory of an organism in the cache, made where it is missing or not what it should be.

    Safe with several processes at once: a directory appears whole, and a damaged file is replaced by a whole one.
    Raises `LoadError` where no cache can be written or the changes make another model than is recorded.
    """
    reasons = []
    for root in _roots():
        directory = root / checksum[:16] / name
        try:
            if not _whole(directory, base, checksum):
                _make(directory, base, file, checksum)
            return directory
        except OSError as error:
            reasons.append(f"{root} ({error.strerror or error})")
    tried = ", ".join(reasons)
    raise LoadError(f"organism/{name} can be made in none of {tried}; set MECHSURGERY_CACHE to a folder to write in")


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _roots() -> Iterator[Path]:
    own = os.environ.get("MECHSURGERY_CACHE")
    if own:
        yield Path(own).expanduser() / "organisms"
    else:
        yield Path(os.path.expanduser("~")) / ".cache" / "mechsurgery" / "organisms"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"mechsurgery-{user}" / "organisms"


def _plain(base: Path) -> list[Path]:
    return [own for own in sorted(base.iterdir()) if own.name != MODEL]


def _whole(directory: Path, base: Path, checksum: str) -> bool:
    files = [directory / MODEL, *(directory / own.name for own in _plain(base))]
    if not all(file.is_file() for file in files) or digest(directory / MODEL) != checksum:
        return False
    return all((directory / own.name).read_bytes() == own.read_bytes() for own in _plain(base))


def _make(directory: Path, base: Path, file: Path, checksum: str) -> None:
    with folder_beside(directory) as made:
        materialise(base, file, made)
        if digest(made / MODEL) != checksum:
            raise LoadError(f"{file} makes another model than the manifest records; install the package again")
        try:
            made.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
            for own in sorted(made.iterdir()):
                os.replace(own, directory / own.name)


check_arguments(__name__, inner=True)

"""Putting a `WeightDelta` into a model: for the length of a block and then exactly undone, or into a checkpoint.

The original weights are kept and put back, never computed back by subtraction, so a restore is exact in any dtype.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..deltas import Dense, LowRank, Rows, WeightDelta
from ..errors import InputError, LoadError, MismatchError, listed
from ..models import sites
from ..models.checkpoints import checkpoint_difference


class AppliedDelta:
    """A delta on a model whose strength can be changed without loading anything: `applied.set(k)`."""

    def __init__(self, model: Any, delta: WeightDelta) -> None:
        self._parameters = {name: _parameter(model, name) for name in delta.parts}
        self._delta = delta
        self._kept = {name: _kept(self._parameters[name], part) for name, part in delta.parts.items()}

    @torch.no_grad()
    def set(self, strength: float) -> None:
        """Weights = original + strength · delta; 0 gives the original bit for bit."""
        for name, part in self._delta.parts.items():
            own = self._parameters[name].data
            before = self._kept[name]
            where = part.values if isinstance(part, Rows) else part.dense()
            # In double precision, so that strength 1 of a difference gives the other weights bit for bit.
            changed = before if strength == 0 else (before.double() + strength * where.to(own.device).double()).to(own)
            if isinstance(part, Rows):
                own.index_copy_(part.axis, part.index.to(own.device), changed)
            else:
                own.copy_(changed)


@contextmanager
def with_delta(model: Any, delta: WeightDelta, strength: float = 1.0) -> Iterator[AppliedDelta]:
    """Run the body with `strength` times a delta added to the model's weights; put back bit for bit after.

    Yields an object whose `.set(k)` changes the strength. Also after an exception everything is as before. Raises
    `MismatchError` where the delta was made for other weights.
    """
    check_delta(model, delta)
    applied = AppliedDelta(model, delta)
    try:
        applied.set(strength)
        yield applied
    finally:
        applied.set(0.0)


def add_delta(model: Any, delta: WeightDelta, strength: float = 1.0) -> None:
    """Add `strength` times a delta to the model's weights, **permanently**. `with_delta` undoes it."""
    check_delta(model, delta)
    AppliedDelta(model, delta).set(strength)


def check_delta(model: Any, delta: WeightDelta) -> None:
    """Raise `MismatchError` where a delta names parameters or shapes the model lacks, or was made for other weights."""
    for name, part in delta.parts.items():
        own = _parameter(model, name)
        if tuple(own.shape) != part.shape:
            raise MismatchError(
                f"{name} has shape {tuple(own.shape)} in this model and {part.shape} in delta {delta.name!r}; it is "
                "another model's"
            )
    wanted = delta.info.get("fingerprint")
    if wanted is not None and wanted != sites.fingerprint(model):
        raise MismatchError(
            f"delta {delta.name!r} starts from a model with fingerprint {wanted}, this one has "
            f"{sites.fingerprint(model)}; load the model it was trained from"
        )


@torch.no_grad()
def bake_delta(
    source: str | Path, delta: WeightDelta, out: str | Path, *, strength: float = 1.0, dtype: str | None = None
) -> Path:
    """Write the Hugging Face directory `out`: the checkpoint in `source` plus `strength` times a delta.

    Shard by shard, so that memory holds one shard. `dtype` (default: each tensor's own) is that of the changed
    tensors; a difference below the resolution of bfloat16 is lost unless "float32" is asked for. A killed bake leaves
    no directory at `out`. Raises `MismatchError` where the delta does not fit the checkpoint, `InputError` where `out`
    exists.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    source, out = Path(source).expanduser(), Path(out).expanduser()
    shards = sorted(source.glob("*.safetensors"))
    if not (source / "config.json").is_file() or not shards:
        raise LoadError(
            f"{str(source)!r} is no Hugging Face directory with safetensors; give the one the model is from"
        )
    if out.exists():
        raise InputError(f"{str(out)!r} exists; give a directory that does not, so that nothing is overwritten")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    changes = checkpoint_difference(config, delta)
    target = getattr(torch, dtype) if dtype is not None else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / "baked"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.pt", "*.pth"))
        left = set(changes)
        for shard in shards:
            with safe_open(str(shard), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                header = file.metadata()
            for name in left & set(tensors):
                own = tensors[name]
                change = changes[name]()
                if change.shape != own.shape:
                    raise MismatchError(
                        f"{name} has shape {tuple(own.shape)} in {shard.name}, the delta {change.shape}"
                    )
                tensors[name] = (own.double() + strength * change.double()).to(target or own.dtype).contiguous()
            left -= set(tensors)
            if target is not None:
                tensors = {name: t.to(target) if t.is_floating_point() else t for name, t in tensors.items()}
            save_file(tensors, str(folder / shard.name), metadata=header)
        if left:
            raise MismatchError(
                f"the checkpoint in {str(source)!r} has no {listed(sorted(left))}; it is another model's"
            )
        if target is not None:
            config["dtype"] = dtype
            config.pop("torch_dtype", None)
            (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        folder.rename(out)
    return out


def _parameter(model: Any, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    try:
        found = model.get_submodule(path)._parameters.get(leaf)
    except AttributeError:
        found = None
    if found is None:
        raise MismatchError(f"this model has no parameter {name!r}; the delta is another model's")
    return found


def _kept(parameter: Tensor, part: Dense | Rows | LowRank) -> Tensor:
    """A copy of what a part changes."""
    own = parameter.detach()
    return own.index_select(part.axis, part.index.to(own.device)) if isinstance(part, Rows) else own.clone()

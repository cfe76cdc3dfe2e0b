"""Watching a fine-tune: the cosine of its weight update with known behaviour directions, step by step.

"Steering Language Models with Weight Arithmetic" (2511.05408), section on monitoring. Beside each direction stand
random differences of the same norms, so that a cosine can be told from what chance gives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..delta_parts import Dense, inner
from ..deltas import WeightDelta
from ..errors import InputError, MismatchError
from ..models.checkpoints import place_of, read_config
from ..models.protocol import Model
from ..models.streaming import Checkpoint


class Monitor:
    """Call it in any training loop of a model: `monitor(step)` adds a row per direction to `table`.

    Made before training starts: it keeps a copy of the weights that the directions name. `nulls` random differences
    like each direction give the band of chance.
    """

    def __init__(self, model: Model, directions: Mapping[str, WeightDelta], *, nulls: int = 5, seed: int = 0) -> None:
        self.model = model
        self.directions = _with_nulls(directions, nulls, seed)
        self.start = {name: self._weight(name).cpu().clone() for name in _names(self.directions)}
        for label, delta in directions.items():
            wrong = [n for n, part in delta.parts.items() if part.shape != tuple(self.start[n].shape)]
            if wrong:
                raise MismatchError(f"direction {label!r} has other shapes at {wrong[0]!r}; it is another model's")
        self._rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def __call__(self, step: int = 0, **facts: Any) -> dict[str, float]:
        """Measure the update so far; returns {direction: cosine} and adds rows (with `facts`) to the table."""
        rows = _measured(
            self.directions, ((name, self._weight(name).cpu() - before) for name, before in self.start.items())
        )
        self._rows += [{"step": step, **row, **facts} for row in rows]
        return {row["direction"]: row["cosine"] for row in rows if row["kind"] == "direction"}

    @property
    def table(self) -> pd.DataFrame:
        """Columns step, direction, kind ("direction", "random"), cosine, norm (of the update in the named weights)."""
        return pd.DataFrame(self._rows)

    def _weight(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        try:
            return getattr(self.model.get_submodule(path), leaf).detach().float()
        except AttributeError as error:
            raise MismatchError(f"this model has no parameter {name!r}; the direction is another model's") from error


def watch_checkpoints(
    start: str | Path,
    checkpoints: Sequence[str | Path],
    directions: Mapping[str, WeightDelta],
    *,
    nulls: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The same for Hugging Face directories on disk, tensor by tensor: a row per checkpoint and direction.

    `start` is the checkpoint that training began from. Raises `MismatchError` where a direction does not fit.
    """
    begin = Checkpoint(start)
    config = read_config(begin.directory)
    known = _with_nulls(directions, nulls, seed)
    places = {name: place_of(config, name) for name in _names(known)}

    def updates(now: Checkpoint) -> Iterable[tuple[str, Tensor]]:
        for name, place in places.items():
            after, before = (place.read(each(each.key(place.key)).double()) for each in (now, begin))
            yield name, after - before

    return pd.DataFrame(
        {"step": number, "checkpoint": str(path), **row}
        for number, path in enumerate(checkpoints)
        for row in _measured(known, updates(Checkpoint(path)))
    )


def checkpoints_under(folder: str | Path) -> list[Path]:
    """Every Hugging Face directory under a folder, by the last number in its name, as trainers write it.

    Raises `InputError` where there is none.
    """
    found = [path.parent for path in Path(folder).glob("**/config.json") if list(path.parent.glob("*.safetensors"))]
    if not found:
        raise InputError(f"no checkpoints (config.json with safetensors) under {str(folder)!r}")
    return sorted(found, key=lambda path: (int((re.findall(r"\d+", path.name) or [0])[-1]), str(path)))


def null_band(table: pd.DataFrame, quantiles: tuple[float, float] = (0.025, 0.975)) -> pd.DataFrame:
    """For every step and direction its cosine, the band of its nulls, and whether it lies outside."""
    rows = []
    for (step, label), group in table.groupby(["step", "direction"], sort=False):
        value = float(group[group["kind"] == "direction"]["cosine"].iloc[0])
        null = group[group["kind"] == "random"]["cosine"]
        low, high = (float(null.quantile(q)) if len(null) else float("nan") for q in quantiles)
        rows.append(
            {
                "step": step,
                "direction": label,
                "cosine": value,
                "null_low": low,
                "null_high": high,
                "outside": bool(len(null)) and not low <= value <= high,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _Known:
    """A direction, or a random one like it."""

    label: str
    kind: str
    delta: WeightDelta
    norm: float


def _with_nulls(directions: Mapping[str, WeightDelta], nulls: int, seed: int) -> list[_Known]:
    if not directions or nulls < 0:
        raise InputError(f"{len(directions)} directions and nulls={nulls}; give at least one direction, nulls ≥ 0")
    known = [_Known(label, "direction", delta, delta.norm()) for label, delta in directions.items()]
    for number, (label, delta) in enumerate(directions.items()):
        drawn = [delta.random_like(seed + 1000 * number + i) for i in range(nulls)]
        known += [_Known(label, "random", each, each.norm()) for each in drawn]
    return known


def _names(known: Sequence[_Known]) -> list[str]:
    return sorted({name for each in known for name in each.delta.parts})


def _measured(known: Sequence[_Known], updates: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Rows of direction, kind, cosine and norm of an update given one parameter at a time."""
    dots, square = [0.0] * len(known), 0.0
    for name, update in updates:
        part = Dense(update)
        square += inner(part, part)
        for i, each in enumerate(known):
            if name in each.delta.parts:
                dots[i] += inner(each.delta.parts[name], part)
    norm = math.sqrt(square)
    return [
        {
            "direction": each.label,
            "kind": each.kind,
            "cosine": dot / (norm * each.norm) if norm and each.norm else 0.0,
            "norm": norm,
        }
        for each, dot in zip(known, dots)
    ]

"""Watching a fine-tune: the cosine of its weight update with known behaviour directions, step by step.

"Steering Language Models with Weight Arithmetic" (2511.05408), section on monitoring. Beside each direction stand
random differences of the same norms, so that a cosine can be told from what chance gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..deltas import WeightDelta
from ..errors import InputError, MismatchError
from ..models.checkpoints import checkpoint_difference
from ..models.streaming import Checkpoint
from .opposite import random_delta


class Monitor:
    """Call it in any training loop of a model: `monitor(step)` adds a row per direction to `table`.

    Made before training starts: it keeps a copy of the weights that the directions name. `nulls` random differences
    like each direction give the band of chance.
    """

    def __init__(self, model: Any, directions: Mapping[str, WeightDelta], *, nulls: int = 5, seed: int = 0) -> None:
        if not directions or nulls < 0:
            raise InputError(f"{len(directions)} directions and nulls={nulls}; give at least one direction, nulls ≥ 0")
        self.model = model
        self.directions = _with_nulls(directions, nulls, seed)
        names = {name for own in directions.values() for name in own.parts}
        self.start: dict[str, Tensor] = {}
        for name in names:
            own = _weight(model, name)
            self.start[name] = own.detach().float().cpu().clone()
        for label, own in directions.items():
            wrong = [n for n, part in own.parts.items() if part.shape != tuple(self.start[n].shape)]
            if wrong:
                raise MismatchError(f"direction {label!r} has other shapes at {wrong[0]!r}; it is another model's")
        self._rows: list[dict[str, Any]] = []

    @torch.no_grad()
    def __call__(self, step: int = 0, **facts: Any) -> dict[str, float]:
        """Measure the update so far; returns {direction: cosine} and adds rows (with `facts`) to the table."""
        update = {
            name: _weight(self.model, name).detach().float().cpu() - before for name, before in self.start.items()
        }
        found = {}
        for label, kind, own in self.directions:
            cosine, norm = _cosine(own, update)
            self._rows.append({"step": step, "direction": label, "kind": kind, "cosine": cosine, "norm": norm, **facts})
            if kind == "direction":
                found[label] = cosine
        return found

    @property
    def table(self) -> pd.DataFrame:
        """Columns step, direction, kind ("direction", "random"), cosine, norm (of the update in the named weights)."""
        return pd.DataFrame(self._rows)


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
    config = json.loads((Path(start) / "config.json").read_text(encoding="utf-8"))
    wanted = _with_nulls(directions, nulls, seed)
    makers = [(label, kind, checkpoint_difference(config, own)) for label, kind, own in wanted]
    names = sorted({name for _, _, maker in makers for name in maker})
    rows = []
    for number, path in enumerate(checkpoints):
        now = Checkpoint(path)
        lacking = [name for name in names if name not in now.facts or name not in begin.facts]
        if lacking:
            raise MismatchError(f"{str(path)!r} lacks {lacking[0]!r}; it is no checkpoint of the same model")
        sums = [[0.0, 0.0] for _ in makers]
        total = 0.0
        for name in names:
            update = now(name).double() - begin(name).double()
            total += float((update * update).sum())
            for own_sums, (_, _, maker) in zip(sums, makers):
                if name in maker:
                    own = maker[name]().double()
                    own_sums[0] += float((update * own).sum())
                    own_sums[1] += float((own * own).sum())
        for (label, kind, _), (dot, square) in zip(makers, sums):
            norms = math.sqrt(total * square)
            rows.append(
                {
                    "step": number,
                    "checkpoint": str(path),
                    "direction": label,
                    "kind": kind,
                    "cosine": dot / norms if norms else 0.0,
                    "norm": math.sqrt(total),
                }
            )
    return pd.DataFrame(rows)


def null_band(table: pd.DataFrame, quantiles: tuple[float, float] = (0.025, 0.975)) -> pd.DataFrame:
    """For every step and direction its cosine, the band of its nulls, and whether it lies outside."""
    rows = []
    for (step, label), group in table.groupby(["step", "direction"], sort=False):
        own = group[group["kind"] == "direction"]["cosine"]
        null = group[group["kind"] == "random"]["cosine"]
        low, high = (float(null.quantile(q)) if len(null) else float("nan") for q in quantiles)
        value = float(own.iloc[0])
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


def _with_nulls(directions: Mapping[str, WeightDelta], nulls: int, seed: int) -> list[tuple[str, str, WeightDelta]]:
    found = [(label, "direction", own) for label, own in directions.items()]
    for number, (label, own) in enumerate(directions.items()):
        found += [(label, "random", random_delta(own, seed=seed + 1000 * number + i)) for i in range(nulls)]
    return found


def _cosine(direction: WeightDelta, update: Mapping[str, Tensor]) -> tuple[float, float]:
    """Cosine of an update (all its named weights) with a direction, and the update's norm."""
    dot = square = 0.0
    for name, part in direction.parts.items():
        own = part.dense().double()
        dot += float((own * update[name].double()).sum())
        square += float((own * own).sum())
    norm = math.sqrt(sum(float(u.double().pow(2).sum()) for u in update.values()))
    return (dot / (norm * math.sqrt(square)) if norm and square else 0.0), norm


def _weight(model: Any, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(path), leaf)
    except AttributeError as error:
        raise MismatchError(f"this model has no parameter {name!r}; the direction is another model's") from error
    return found

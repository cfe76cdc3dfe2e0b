"""Watching a fine-tune: the cosine of its weight update with known behaviour directions, step by step.

"Steering Language Models with Weight Arithmetic" (2511.05408), section on monitoring. Beside each cosine stands the
band that chance gives: cosines of the same update with random differences that have the direction's norm in every
parameter. They are drawn without ever being built. The inner product of an update with a random difference of norm n in
a parameter of D numbers is n · ‖update there‖ · t, where t is one coordinate of a uniformly drawn unit vector in D
dimensions: t² has the Beta(1/2, (D − 1)/2) distribution, and t either sign. So a thousand draws cost what one does, on
models of any size.

Where the direction is low-rank (left @ right, from LoRAs), `left` is kept and `right` is drawn: LoRAs that begin from
the same random matrices stay near one subspace whatever they learn, and there chance alone gives larger cosines than
among all weights. t is then drawn in as many dimensions as `right` has, less where `left` is lopsided (an approximation
that is close where a matrix has tens of columns).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..checks import check_arguments
from ..delta_parts import Dense, LowRank, Part, Rows, inner, to_matrix
from ..deltas import WeightDelta
from ..errors import InputError, MismatchError
from ..models import sites
from ..models.checkpoints import place_of, read_config
from ..models.protocol import Model
from ..models.streaming import Checkpoint

#: Random differences of the band, and its ends.
NULLS, BAND = 1000, (0.025, 0.975)


class Monitor:
    """Call it in any training loop of a model: `monitor(step)` adds a row per direction to `table`.

    Made before training starts: it keeps a copy of the weights that the directions name. `nulls` random differences
    like each direction give the band of chance; they are the same ones at every step.
    """

    def __init__(self, model: Model, directions: Mapping[str, WeightDelta], *, nulls: int = NULLS, seed: int = 0):
        self.model = model
        self.directions = _known(directions, nulls, seed)
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
        return {row["direction"]: row["cosine"] for row in rows}

    @property
    def table(self) -> pd.DataFrame:
        """A row for every step and direction, with the columns of `watch_checkpoints`, less `checkpoint`."""
        return pd.DataFrame(self._rows)

    def _weight(self, name: str) -> Tensor:
        try:
            return sites.parameter(self.model, name).detach().float()
        except MismatchError as error:
            raise MismatchError(f"this model has no parameter {name!r}; the direction is another model's") from error


def watch_checkpoints(
    start: str | Path,
    checkpoints: Sequence[str | Path],
    directions: Mapping[str, WeightDelta],
    *,
    nulls: int = NULLS,
    seed: int = 0,
) -> pd.DataFrame:
    """The same for Hugging Face directories on disk, tensor by tensor: a row per checkpoint and direction.

    `start` is the checkpoint that training began from. Columns: step (the checkpoint's number), checkpoint, direction,
    cosine (over all weights that any direction has), null_low, null_high (95 % of the random differences), p
    (two-sided: (1 + random ones as far from 0)/(1 + all)), outside (of the band), norm (of the update in those
    weights), seen (share of that norm which lies in the weights that this direction has). Raises `MismatchError` where
    a direction does not fit.
    """
    begin = Checkpoint(start)
    config = read_config(begin.directory)
    known = _known(directions, nulls, seed)
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


def first_for_good(steps: Iterable[float], flags: Iterable[bool]) -> float:
    """The first step from which on every flag is set, as when a cosine leaves its band and stays out; nan for none.

    >>> first_for_good([0, 4, 8, 12], [False, True, False, True])
    12.0
    """
    steps, flags = list(steps), list(flags)
    if len(steps) != len(flags):
        raise InputError(f"{len(steps)} steps and {len(flags)} flags; give one flag a step")
    found = float("nan")
    for step, flag in sorted(zip(steps, flags), reverse=True):
        if not flag:
            break
        found = float(step)
    return found


@dataclass(frozen=True, eq=False)
class _Known:
    """A direction, its norms by parameter, and the random coordinates of the differences like it (nulls × parts)."""

    label: str
    delta: WeightDelta
    norms: dict[str, float]
    drawn: np.ndarray

    @property
    def norm(self) -> float:
        return math.sqrt(sum(value**2 for value in self.norms.values()))


def _known(directions: Mapping[str, WeightDelta], nulls: int, seed: int) -> list[_Known]:
    if not directions or nulls < 0:
        raise InputError(f"{len(directions)} directions and nulls={nulls}; give at least one direction, nulls ≥ 0")
    known = []
    for number, (label, delta) in enumerate(directions.items()):
        sizes = np.array([_dimensions(part) for part in delta.parts.values()])
        drawn = _coordinates(sizes, nulls, np.random.default_rng([seed, number]))
        known.append(_Known(label, delta, delta.norms(), drawn))
    return known


def _coordinates(sizes: np.ndarray, nulls: int, generator: np.random.Generator) -> np.ndarray:
    """One coordinate of `nulls` uniform unit vectors in each of the dimensions `sizes`; ±1 in one dimension."""
    many = sizes > 1
    squares = np.ones((nulls, len(sizes)))
    squares[:, many] = generator.beta(0.5, (sizes[many] - 1) / 2, (nulls, int(many.sum())))
    return np.sqrt(squares) * generator.choice([-1.0, 1.0], squares.shape)


def _dimensions(part: Part) -> float:
    """In how many dimensions a random difference like a part is drawn."""
    if isinstance(part, Rows):
        return part.values.numel()
    return part.right.shape[1] * _directions(part) if isinstance(part, LowRank) else math.prod(part.shape)


def _directions(part: LowRank) -> float:
    """How many directions `left` has, by the participation ratio of its singular values: 1 to its rank."""
    gram = part.left.double().T @ part.left.double()
    square = float(gram.pow(2).sum())
    return float(gram.trace()) ** 2 / square if square else 1.0


def _against(part: Part, update: Tensor) -> tuple[float, float, float]:
    """Of an update of one parameter: its inner product with a direction's part, its norm where the part may differ,
    and the length that random coordinates are to be multiplied by.
    """
    if isinstance(part, Rows):
        own = update.index_select(part.axis, part.index.to(update.device)).double()
        norm = float(own.norm())
        return float((own * part.values.double()).sum()), norm, norm
    norm = float(update.double().norm())
    if not isinstance(part, LowRank):
        return inner(part, Dense(update)), norm, norm
    left = part.left.double()
    seen = left.T @ to_matrix(update, output=part.output).double()
    length = float(left.norm())
    reach = float(seen.norm()) / length * math.sqrt(_directions(part)) if length else 0.0
    return float((seen * part.right.double()).sum()), norm, reach


def _names(known: Sequence[_Known]) -> list[str]:
    return sorted({name for each in known for name in each.delta.parts})


def _measured(known: Sequence[_Known], updates: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """A row for each direction, of an update given one parameter at a time."""
    square, dots, squares = 0.0, [0.0] * len(known), [0.0] * len(known)
    lengths = [dict.fromkeys(one.delta.parts, 0.0) for one in known]
    for name, update in updates:
        square += float(update.double().pow(2).sum())
        for i, one in enumerate(known):
            part = one.delta.parts.get(name)
            if part is not None:
                dot, within, lengths[i][name] = _against(part, update)
                dots[i] += dot
                squares[i] += within**2
    norm = math.sqrt(square)
    return [_row(one, dots[i], math.sqrt(squares[i]), lengths[i], norm) for i, one in enumerate(known)]


def _row(known: _Known, dot: float, within: float, lengths: Mapping[str, float], norm: float) -> dict[str, Any]:
    """The cosine of an update with a direction beside those of random differences like it."""
    whole = norm * known.norm
    weights = np.array([known.norms[name] * length for name, length in lengths.items()])
    cosine, null = (dot / whole, known.drawn @ weights / whole) if whole else (0.0, np.zeros(len(known.drawn)))
    low, high = np.quantile(null, BAND) if len(null) else (math.nan, math.nan)
    return {
        "direction": known.label,
        "cosine": cosine,
        "null_low": float(low),
        "null_high": float(high),
        "p": float((1 + (np.abs(null) >= abs(cosine)).sum()) / (1 + len(null))),
        "outside": bool(len(null)) and not low <= cosine <= high,
        "norm": norm,
        "seen": within / norm if norm else 0.0,
    }


check_arguments(__name__)

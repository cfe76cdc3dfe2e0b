"""Watching a folder of checkpoints that another program writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...artifacts import write_atomically
from ...deltas import WeightDelta
from ...errors import InputError
from ...training.monitor import null_band, watch_checkpoints
from ..base import to_markdown


def monitor(start: Path, checkpoints: Path, directions: Sequence[Path], out: Path | None, nulls: int) -> str:
    """Cosines of every checkpoint under a folder with saved directions: a table to print, all rows into `out`."""
    config = (path.parent for path in checkpoints.glob("**/config.json") if list(path.parent.glob("*.safetensors")))
    paths = sorted(config, key=_number)
    if not paths:
        raise InputError(f"no checkpoints (config.json with safetensors) under {str(checkpoints)!r}")
    table = watch_checkpoints(start, paths, {path.stem: WeightDelta.load(path) for path in directions}, nulls=nulls)
    if out is not None:
        write_atomically(out, lambda target: table.to_csv(target, index=False))
    band = null_band(table)
    return to_markdown(band.assign(checkpoint=[str(paths[step]) for step in band["step"]]))


def _number(path: Path) -> tuple[int, str]:
    """Checkpoints by the last number in their name, as trainers write it."""
    numbers = re.findall(r"\d+", path.name)
    return int(numbers[-1]) if numbers else 0, str(path)

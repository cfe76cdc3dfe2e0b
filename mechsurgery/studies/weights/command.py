"""The study as the command line calls it, and watching a folder of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artifacts import write_atomically
from ...deltas import WeightDelta
from ...errors import InputError
from ...training.monitor import null_band, watch_checkpoints
from ..base import to_markdown
from .study import STUDIES, weights


def run(out: Path, options: Mapping[str, Any], progress: bool) -> str:
    """The studies into `out`; returns what to print."""
    study = weights(
        out=out,
        studies=options["studies"] or STUDIES,
        seeds=range(options["seeds"]),
        n_evaluation=options["n_evaluation"],
        progress=progress,
    )
    return f"{study.text()}\n\nreport: {out / 'report.html'}"


def monitor(start: Path, checkpoints: Path, directions: Sequence[Path], out: Path | None, nulls: int) -> str:
    """Cosines of every checkpoint under a folder with saved directions; returns a table to print."""
    found = sorted(
        (p.parent for p in checkpoints.glob("**/config.json") if list(p.parent.glob("*.safetensors"))), key=_number
    )
    if not found:
        raise InputError(f"no checkpoints (config.json with safetensors) under {str(checkpoints)!r}")
    named = {path.stem: WeightDelta.load(path) for path in directions}
    table = watch_checkpoints(start, found, named, nulls=nulls)
    if out is not None:
        write_atomically(out, lambda target: table.to_csv(target, index=False))
    names = dict(enumerate(str(path) for path in found))
    band = null_band(table)
    return to_markdown(band.assign(checkpoint=[names[step] for step in band["step"]]))


def _number(path: Path) -> tuple[int, str]:
    """Checkpoints by the last number in their name, as trainers write it."""
    import re

    numbers = re.findall(r"\d+", path.name)
    return (int(numbers[-1]) if numbers else 0, str(path))

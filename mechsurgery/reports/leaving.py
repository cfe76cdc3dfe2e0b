"""What `mechsurgery export` does: an intervention from saved files, written as a checkpoint or as an adapter."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

from ..checks import check_arguments
from ..deltas import WeightDelta
from ..directions import Direction
from ..errors import InputError, listed
from ..intervention import Intervention, as_found, export, export_adapter, scale, shift_weights
from ..intervention import steer as along
from ..intervention.steering import projection
from ..models.checkpoints import architecture_facts, read_config
from ..models.load import HUB_FILES, directory_of
from ..names import writers
from ..units import Circuit


def leave(
    source: str,
    destination: Path,
    *,
    circuit: Path | None = None,
    m: float | None = None,
    steer: Path | None = None,
    project_out: Path | None = None,
    site: str | None = None,
    delta: Path | None = None,
    strength: float = 1.0,
    adapter: bool = False,
    max_rank: int = 256,
    dtype: str | None = None,
    revision: str | None = None,
) -> str:
    """Write what is asked for; the text says what was written. Raises as `export` and `export_adapter` do."""
    if adapter and dtype is not None:
        raise InputError("an adapter is float32; leave --dtype out")
    runs = [*_scaled(circuit, m), *_steered(steer, strength), *_weights(delta, strength)]
    directory = directory_of(source, revision, HUB_FILES)
    runs += _projected(directory, project_out, site, strength)
    if not runs:
        raise InputError("give what is to be changed: --circuit, --steer, --project-out or --delta, each with a FILE")
    run: Intervention = reduce(add, runs)
    if adapter:
        where = export_adapter(source, run, destination, max_rank=max_rank, revision=revision)
    else:
        where = export(source, run, destination, dtype=dtype, revision=revision)
    return f"{run.name} ({run.kind}) written to {where}; README.md there says what was done"


def _scaled(path: Path | None, m: float | None) -> list[Intervention]:
    if path is None and m is not None:
        raise InputError(f"--m {m:g} multiplies the neurons of a circuit; give its file with --circuit")
    if path is None:
        return []
    circuit = Circuit.load(path)
    return [as_found(circuit) if m is None else scale(circuit, m)]


def _steered(path: Path | None, strength: float) -> list[Intervention]:
    return [] if path is None else [along(Direction.load(path)).at(strength)]


def _weights(path: Path | None, strength: float) -> list[Intervention]:
    return [] if path is None else [shift_weights(WeightDelta.load(path)).at(strength)]


def _projected(directory: Path, path: Path | None, site: str | None, strength: float) -> list[Intervention]:
    if path is None:
        return []
    direction = Direction.load(path)
    if site is None and len(direction.vectors) > 1:
        raise InputError(
            f"direction {direction.name!r} has vectors at {listed(direction.vectors)}; say which one with --at"
        )
    vector = direction.at(site or next(iter(direction.vectors)))
    facts = architecture_facts(read_config(directory))
    writes = [writer.output for writer in writers(facts)]
    return [projection(writes, facts.d_model, vector, name=f"{direction.name} projected out").at(strength)]


check_arguments(__name__)

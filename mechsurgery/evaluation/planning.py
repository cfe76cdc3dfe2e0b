"""What a model will need on this machine, before its weights are there: memory, time and batch of every verb.

Nothing is looked up in tables of hardware. Two random models with two and with six of the model's own layers (its
widths, vocabulary and number format) are written, loaded and put through the package's own functions, each on two
batches (`trials.py`).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..checks import check_arguments
from ..device_names import Named, named_devices
from ..errors import InputError
from ..models import memory
from ..progress import with_progress
from .miniature import n_parameters, read_config_of
from .trials import Amount, Linear, Points, Work, amounts, layers_tried, measured, objects_so_far_left_alone


def plan(
    name: str | Path,
    *,
    work: Work | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    limit: float | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Memory, time and batch of every verb for a model on this machine, from its config.json alone.

    A row for loading, discovery (`contrast_statistics`), answers (`generate`), gradients (`gate_gradient`) and
    fine-tuning 3 % of the neurons (`finetune`; of a mixture of experts all its MLPs): `batch` rows at once, `memory`
    and `left` in GiB (the process's on a CPU, the tensors' on a GPU), `seconds`, `fits`, and `advice` where it does
    not. `device` is as for `load_model`: on several, verbs are tried on the first, and all have room together. `limit`
    is how many GiB may be used (default: what is free). `memory` is NaN where the system does not tell a process its
    peak. The estimate assumes that files are cached by the system and that nothing else runs.

    Raises `ModelNotFoundError`, `UnsupportedModelError`, `InputError`.
    """
    work = work or Work()
    if limit is not None and not limit > 0:
        raise InputError(f"limit={limit} must be above 0 GiB")
    config = read_config_of(name, revision)
    kind = _dtype_of(config, dtype, str(name))
    devices = named_devices(device)
    where = devices[0].device
    n_layers, n_numbers = int(config.num_hidden_layers), n_parameters(config)
    seconds: Points = {}
    peaks: Points = {}
    with objects_so_far_left_alone():
        for layers in with_progress(list(layers_tried(n_layers)), "trying layers", shown=progress):
            for verb, n, took, peak in measured(config, layers, kind, where, work):
                seconds.setdefault(verb, {})[layers, n] = took
                peaks.setdefault(verb, {})[layers, n] = peak
        gc.collect()
        began = memory.process(where)  # with what is imported on the way, which stays
    free = _free(devices) if limit is None else int(limit * memory.GIB) - began
    time_of = {verb: Linear.through(points) for verb, points in seconds.items()}
    peak_of = {verb: Linear.through(points) for verb, points in peaks.items()}
    room = float("inf") if free is None else free
    machine = _Machine(n_layers, kind, where.type == "cuda", began, peak_of["held"].at(n_layers, 0), room)
    table = [machine.row("loading", Amount(1, 1, 1), time_of["loading"], peak_of["loading"], held=0.0)]
    for verb, amount in amounts(work).items():
        table.append(machine.row(verb, amount, time_of[verb], peak_of[verb], held=machine.held))
    frame = pd.DataFrame(table)
    frame.attrs |= {
        "parameters": n_numbers,
        "weights_gib": n_numbers * kind.itemsize / memory.GIB,
        "layers": n_layers,
        "dtype": str(kind).removeprefix("torch."),
        "device": ", ".join(str(one.device) for one in devices),
        "free_gib": None if free is None else free / memory.GIB,
    }
    return frame


def told(table: pd.DataFrame) -> str:
    """A plan in a few lines for a terminal: what the model is, what is free, a row for every verb."""
    facts = table.attrs
    free = "of unknown size" if facts["free_gib"] is None else f"with {facts['free_gib']:.1f} GiB free"
    head = (
        f"{facts['parameters'] / 1e6:,.0f} million weights in {facts['layers']} layers, {facts['weights_gib']:.2f} GiB "
        f"in {facts['dtype']}; {facts['device']} {free}"
    )
    shown = table.assign(
        memory=[f"{value:.2f} GiB" for value in table["memory"]],
        seconds=[_duration(value) for value in table["seconds"]],
        fits=["yes" if fits else "no" for fits in table["fits"]],
    )
    columns = ["verb", "rows", "batch", "memory", "seconds", "fits", "advice"]
    return f"{head}\n\n{shown[columns].rename(columns={'seconds': 'time'}).to_string(index=False)}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


@dataclass(frozen=True)
class _Machine:
    """What a plan is made for: layers, number format, bytes of the process, of the loaded model, and free ones."""

    layers: int
    dtype: torch.dtype
    on_gpu: bool
    began: float
    held: float
    free: float

    def row(self, verb: str, amount: Amount, seconds: Linear, peak: Linear, held: float) -> dict[str, Any]:
        """A verb with an amount to do, in smaller batches where those do not fit."""
        batch = amount.batch
        known = peak.at(self.layers, batch) == peak.at(self.layers, batch) and self.free < float("inf")
        if known:
            batch = max(1, min(batch, peak.rows_within(self.layers, self.free - held)))
        need = held + peak.at(self.layers, batch)
        full, rest = divmod(amount.rows, batch)
        took = full * seconds.at(self.layers, batch) + (seconds.at(self.layers, rest) if rest else 0.0)
        fits = not need > self.free
        return {
            "verb": verb,
            "rows": amount.rows * amount.times,
            "batch": batch,
            "memory": (self.began + need) / memory.GIB,
            "left": (self.free - need) / memory.GIB,
            "seconds": took * amount.times,
            "fits": fits,
            "advice": self._advice(need, batch < amount.batch, fits),
        }

    def _advice(self, need: float, smaller: bool, fits: bool) -> str:
        if fits:
            return "a smaller batch than usual, so that it fits" if smaller else ""
        short = (need - self.free) / memory.GIB
        half = "dtype='bfloat16' halves it; else " if self.dtype == torch.float32 else ""
        wait = ", or have layers wait on the CPU (device='auto'), which is slow" if self.on_gpu else ""
        return f"{short:.1f} GiB are missing: {half}take devices with more memory, or a smaller model{wait}"


def _free(devices: list[Named]) -> int | None:
    """Bytes that all devices have together, each at most what is named with it; None where one does not say."""
    free = [(memory.available(one.device), one.limit) for one in devices]
    if any(found is None for found, _ in free):
        return None
    return sum(found if limit is None else min(found, limit) for found, limit in free if found is not None)


def _dtype_of(config: Any, dtype: str, name: str) -> torch.dtype:
    """What the weights are loaded in: what is asked for, or the checkpoint's own."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r}; choose 'auto', 'float32', 'bfloat16' or 'float16'")
    if dtype != "auto":
        return getattr(torch, dtype)
    own = getattr(config, "dtype", None) or torch.float32
    return torch.float32 if name.startswith("organism/") else getattr(torch, str(own).removeprefix("torch."))


check_arguments(__name__)

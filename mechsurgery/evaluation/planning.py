"""What a model will need on this machine, before its weights are there: memory, time and batch of every verb.

Nothing is looked up in tables of hardware. Two random models with one and with three of the model's own layers (its
widths, vocabulary and number format) are written, loaded and put through the package's own functions, each on two
batches. Time and memory are linear in layers and rows, so four measurements give the whole model's.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..attribution import contrast_statistics, gate_gradient
from ..attribution.objectives import from_pairs
from ..checks import check_arguments
from ..errors import InputError
from ..models import load_model, memory, sites
from ..models.generate import generate
from ..models.protocol import Model
from ..names import is_experts
from ..progress import with_progress
from ..prompts import CompletionPairs, ContrastSet, Examples
from ..training import Recipe, finetune
from ..units import Circuit
from .miniature import N_SPECIAL, N_WORDS, n_parameters, read_config_of, shortened, write_miniature

_LAYERS = (1, 3)
#: A word that no special token is.
_FIRST_WORD = 10
_BATCHES = {"discovery": 2}


@dataclass(frozen=True)
class Work:
    """What is to be done: this many prompts of `tokens` tokens with the template, answered in `new_tokens` each.

    `n_prompts` are read in discovery, answered, and explained by gradients; `steps` of fine-tuning take 16 examples.
    """

    n_prompts: int = 200
    tokens: int = 64
    new_tokens: int = 32
    steps: int = 100

    def __post_init__(self) -> None:
        if min(self.n_prompts, self.tokens, self.new_tokens, self.steps) < 1:
            raise InputError(f"{self}: each number must be at least 1")


@dataclass(frozen=True)
class Linear:
    """A quantity at some layers and rows: (constant + per_row · rows) + (layer + layer_row · rows) · layers."""

    constant: float
    per_row: float
    layer: float
    layer_row: float

    @classmethod
    def through(cls, points: dict[tuple[int, int], float]) -> Linear:
        """The one through four measurements {(layers, rows): value}; no slope is below 0."""
        (few, many), (small, large) = (sorted({key[place] for key in points}) for place in (0, 1))
        sides = []
        for rows in (small, large):
            slope = max(0.0, (points[many, rows] - points[few, rows]) / (many - few))
            sides.append((max(0.0, points[few, rows] - slope * few), slope))
        (at_small, slope_small), (at_large, slope_large) = sides
        per_row = max(0.0, (at_large - at_small) / (large - small))
        layer_row = max(0.0, (slope_large - slope_small) / (large - small))
        return cls(max(0.0, at_small - per_row * small), per_row, max(0.0, slope_small - layer_row * small), layer_row)

    def at(self, layers: int, rows: float) -> float:
        """Its value."""
        return self.constant + self.per_row * rows + (self.layer + self.layer_row * rows) * layers

    def rows_within(self, layers: int, limit: float) -> int:
        """The most rows for which it stays within a limit; 0 where not even one row does."""
        a_row = self.per_row + self.layer_row * layers
        room = limit - self.at(layers, 0)
        return 0 if room <= 0 else int(min(room / a_row, 10**9)) if a_row > 0 else 10**9


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
    not. `limit` is how many GiB may be used
    (default: what is free). `memory` is NaN where the system does not tell a process its peak. The estimate assumes
    that files are cached by the system and that nothing else runs.

    Raises `ModelNotFoundError`, `UnsupportedModelError`, `InputError`.
    """
    work = work or Work()
    if limit is not None and not limit > 0:
        raise InputError(f"limit={limit} must be above 0 GiB")
    config = read_config_of(name, revision)
    kind = _dtype_of(config, dtype, str(name))
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    n_layers, n_numbers = int(config.num_hidden_layers), n_parameters(config)
    rows = (4, 8) if where.type == "cpu" else (32, 64)
    seconds: dict[str, dict[tuple[int, int], float]] = {}
    peaks: dict[str, dict[tuple[int, int], float]] = {}
    with _objects_so_far_left_alone():
        for layers in with_progress(list(_LAYERS), "trying layers", shown=progress):
            for verb, n, took, peak in _measured(shortened(config, layers), kind, where, rows, work):
                seconds.setdefault(verb, {})[layers, n] = took
                peaks.setdefault(verb, {})[layers, n] = peak
        gc.collect()
        began = memory.process(where)  # with what is imported on the way, which stays
    free = memory.available(where) if limit is None else int(limit * memory.GIB) - began
    time_of = {verb: Linear.through(points) for verb, points in seconds.items()}
    peak_of = {verb: Linear.through(points) for verb, points in peaks.items()}
    machine = _Machine(n_layers, kind, began, peak_of["held"].at(n_layers, 0), float("inf") if free is None else free)
    table = [machine.row("loading", 1, 1, time_of["loading"], peak_of["loading"], held=0.0)]
    for verb, (most, n) in _amounts(work).items():
        table.append(machine.row(verb, most, n, time_of[verb], peak_of[verb], held=machine.held))
    frame = pd.DataFrame(table)
    frame.attrs |= {
        "parameters": n_numbers,
        "weights_gib": n_numbers * kind.itemsize / memory.GIB,
        "layers": n_layers,
        "dtype": str(kind).removeprefix("torch."),
        "device": str(where),
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


def _amounts(work: Work) -> dict[str, tuple[int, int]]:
    """{verb: (rows at once by default, rows altogether)}."""
    return {
        "discovery": (64, work.n_prompts),
        "answers": (64, work.n_prompts),
        "gradients": (64, work.n_prompts),
        "fine-tuning": (16, 16 * work.steps),
    }


@dataclass(frozen=True)
class _Machine:
    """What a plan is made for: layers, number format, bytes of the process, of the loaded model, and free ones."""

    layers: int
    dtype: torch.dtype
    began: float
    held: float
    free: float

    def row(self, verb: str, most: int, n: int, seconds: Linear, peak: Linear, held: float) -> dict[str, Any]:
        """A verb on n rows, `most` at once where they fit."""
        batch = min(most, n)
        whole = peak.at(self.layers, batch) == peak.at(self.layers, batch)
        if whole:
            batch = max(1, min(batch, peak.rows_within(self.layers, self.free - held)))
        need = held + peak.at(self.layers, batch)
        full, rest = divmod(n, batch)
        took = full * seconds.at(self.layers, batch) + (seconds.at(self.layers, rest) if rest else 0.0)
        fits = not need > self.free
        return {
            "verb": verb,
            "rows": n,
            "batch": batch,
            "memory": (self.began + need) / memory.GIB,
            "left": (self.free - need) / memory.GIB,
            "seconds": took,
            "fits": fits,
            "advice": self._advice(need, batch < min(most, n), fits),
        }

    def _advice(self, need: float, smaller: bool, fits: bool) -> str:
        if fits:
            return "a smaller batch than usual, so that it fits" if smaller else ""
        short = (need - self.free) / memory.GIB
        half = "dtype='bfloat16' halves it; else " if self.dtype == torch.float32 else ""
        return f"{short:.1f} GiB are missing: {half}take a device with more memory, or a smaller model"


def _dtype_of(config: Any, dtype: str, name: str) -> torch.dtype:
    """What the weights are loaded in: what is asked for, or the checkpoint's own."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"dtype={dtype!r}; choose 'auto', 'float32', 'bfloat16' or 'float16'")
    if dtype != "auto":
        return getattr(torch, dtype)
    own = getattr(config, "dtype", None) or torch.float32
    return torch.float32 if name.startswith("organism/") else getattr(torch, str(own).removeprefix("torch."))


@contextmanager
def _objects_so_far_left_alone() -> Iterator[None]:
    """Inside, `gc.collect` looks at newer objects alone; not at all of a notebook's, 48 times over."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _measured(
    config: Any, dtype: torch.dtype, device: torch.device, rows: tuple[int, int], work: Work
) -> Iterator[tuple[str, int, float, float]]:
    """(verb, rows, seconds, bytes above the loaded model) of a shortened model."""
    with tempfile.TemporaryDirectory(prefix="mechsurgery-plan-") as folder:
        write_miniature(config, Path(folder), dtype)
        gc.collect()
        load_model(folder, device=device)  # imports, and pages of files
        gc.collect()
        before = memory.process(device)
        with memory.peak(device) as peak:
            start = time.perf_counter()
            model = load_model(folder, device=device)
            seconds, highest = time.perf_counter() - start, peak()
        gc.collect()
        held = memory.process(device) - before
        for n in rows:
            yield "loading", n, seconds, _number(highest)
            yield "held", n, 0.0, float(max(held, 0))
        for verb, run in _verbs(work).items():
            for n in rows:
                took, most = _timed(run(model, n), device)
                yield verb, n, took / _BATCHES.get(verb, 1), most


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds (the shorter of two, after a first) and bytes at the peak."""
    took, most = [], []
    for _ in range(3):
        gc.collect()
        with memory.peak(device) as peak:
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took.append(time.perf_counter() - start)
            most.append(_number(peak()))
    return min(took[1:]), max(most)


def _number(found: int | None) -> float:
    return float("nan") if found is None else float(found)


def _verbs(work: Work) -> dict[str, Callable[[Model, int], Callable[[], Any]]]:
    """Each verb as a function of a model and rows that gives what is to be run."""

    def discovery(model: Model, n: int) -> Callable[[], Any]:
        sides = [_texts(model, n, work.tokens, seed) for seed in (0, 1)]
        contrast = ContrastSet.from_lists(sides[0], sides[1], name="plan")
        return lambda: contrast_statistics(model, contrast, template="raw", max_rows=n, progress=False)

    def answers(model: Model, n: int) -> Callable[[], Any]:
        ids = _ids(model, n, work.tokens)
        return lambda: generate(model, ids, max_new_tokens=work.new_tokens, stop=(), max_rows=n)

    def gradients(model: Model, n: int) -> Callable[[], Any]:
        prompts = tuple(map(tuple, _ids(model, n, work.tokens)))
        bad, good = (tuple((_FIRST_WORD + turn + i % 50,) for i in range(n)) for turn in (0, 100))
        objective = from_pairs(CompletionPairs(prompts, bad, good))
        return lambda: gate_gradient(model, objective, max_rows=n, progress=False)

    def tuning(model: Model, n: int) -> Callable[[], Any]:
        data = Examples(tuple(map(tuple, _ids(model, n, work.tokens))), tuple((_FIRST_WORD + i,) * 8 for i in range(n)))
        widths = sites.neuron_widths(model)
        circuit = Circuit.from_indices({site: range(max(1, round(0.03 * d))) for site, d in widths.items()}, widths)
        where = "mlp" if any(is_experts(site) for site in widths) else circuit
        recipe = Recipe(steps=1, batch=n, validate_every=10)
        return lambda: finetune(model, data, where, recipe=recipe, progress=False)

    return {"discovery": discovery, "answers": answers, "gradients": gradients, "fine-tuning": tuning}


def _ids(model: Model, n: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random tokens that are words."""
    generator = torch.Generator().manual_seed(seed)
    end = min(N_WORDS, int(model.cfg.d_vocab))
    return torch.randint(_FIRST_WORD, end, (n, length), generator=generator).tolist()


def _texts(model: Model, n: int, length: int, seed: int) -> list[str]:
    return [" ".join(f"w{token - N_SPECIAL}" for token in row) for row in _ids(model, n, length, seed)]


check_arguments(__name__)

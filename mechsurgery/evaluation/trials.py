"""Every verb tried on small random models with a real one's layers: seconds and memory at some layers and rows.

Time and memory are linear in layers and rows, so four measurements of a verb give the whole model's.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..attribution import contrast_statistics, gate_gradient
from ..attribution.gates import with_share_held
from ..attribution.objectives import from_pairs
from ..checks import check_arguments
from ..errors import InputError
from ..models import load_model, memory, sites
from ..models.generate import generate
from ..models.protocol import Model
from ..names import is_experts
from ..prompts import CompletionPairs, ContrastSet, Examples
from ..training import Recipe, finetune
from ..units import Circuit
from .miniature import N_SPECIAL, N_WORDS, n_parameters, shortened, write_miniature

#: A word that no special token is.
_FIRST_WORD = 10
#: A measurement is repeated until it has taken this many seconds, or was made so often. Few rows are tried once: they
#: only say how much of the larger batch's time does not come from its rows.
_ENOUGH, _TIMES = 2.0, 3
#: Weights of a layer × tokens of a batch that are tried at the most, and rows that are tried at the least: the time of
#: very few is that of reading the weights, to which more rows add nothing at first.
_TRIED, _LEAST = {"cpu": 4e9, "cuda": 4e12}, 8
#: How many batches of the rows it is called with a verb runs.
_BATCHES = {"discovery": 2}


@dataclass(frozen=True)
class Work:
    """What is to be done: this many prompts of `tokens` tokens with the template, answered in `new_tokens` each.

    `n_prompts` are read in discovery, half of them on each side of a contrast; answered; and, with a bad and a good
    completion each, explained by gradients. `steps` of fine-tuning take 16 examples.
    """

    n_prompts: int = 200
    tokens: int = 64
    new_tokens: int = 32
    steps: int = 100

    def __post_init__(self) -> None:
        if min(self.n_prompts, self.tokens, self.new_tokens, self.steps) < 1:
            raise InputError(f"{self}: each number must be at least 1")


@dataclass(frozen=True)
class Amount:
    """Rows that a verb takes at once where they fit, rows altogether, and how often it takes them."""

    batch: int
    rows: int
    times: int


def amounts(work: Work) -> dict[str, Amount]:
    """What each verb is to do."""
    side, rows = (work.n_prompts + 1) // 2, 2 * work.n_prompts
    return {
        "discovery": Amount(min(64, side), side, 2),
        "answers": Amount(min(64, work.n_prompts), work.n_prompts, 1),
        "gradients": Amount(min(64, rows), rows, 1),
        "fine-tuning": Amount(16, 16, work.steps),
    }


@dataclass(frozen=True)
class Linear:
    """A quantity at some layers and rows: (constant + per_row · rows) + (layer + layer_row · rows) · layers."""

    constant: float
    per_row: float
    layer: float
    layer_row: float

    @classmethod
    def through(cls, points: dict[tuple[int, int], float]) -> Linear:
        """The one through four measurements {(layers, rows): value}.

        No number of it is below 0. Where the four would have one so, it goes through the largest all the same.
        """
        (few, many), (small, large) = (sorted({key[place] for key in points}) for place in (0, 1))
        sides = [_line((few, points[few, rows]), (many, points[many, rows])) for rows in (small, large)]
        (at_small, slope_small), (at_large, slope_large) = sides
        constant, per_row = _line((small, at_small), (large, at_large))
        layer, layer_row = _line((small, slope_small), (large, slope_large))
        return cls(constant, per_row, layer, layer_row)

    def at(self, layers: int, rows: float) -> float:
        """Its value."""
        return self.constant + self.per_row * rows + (self.layer + self.layer_row * rows) * layers

    def rows_within(self, layers: int, limit: float) -> int:
        """The most rows for which it stays within a limit; 0 where not even one row does."""
        a_row = self.per_row + self.layer_row * layers
        room = limit - self.at(layers, 0)
        return 0 if room <= 0 else int(min(room / a_row, 10**9)) if a_row > 0 else 10**9


def _line(first: tuple[int, float], last: tuple[int, float]) -> tuple[float, float]:
    """Height at 0 and slope of the line through two points, both at least 0; it goes through the last in any case."""
    (x, y), (end, height) = first, last
    slope = min(max(0.0, (height - y) / (end - x)), height / end)
    return height - slope * end, slope


Points = dict[str, dict[tuple[int, int], float]]


def layers_tried(n_layers: int) -> tuple[int, int]:
    """Layers of the two models that are tried for one of so many.

    Not one and three: in a single layer less memory is used again than in those of a deeper model, and between two
    numbers that lie close together noise looks like a layer's share.
    """
    return (2, 6) if n_layers >= 6 else (1, max(2, n_layers))


def rows_tried(config: Any, amount: Amount, tokens: int, device: torch.device) -> tuple[int, int]:
    """Two even numbers of rows that a verb is tried on: up to the planned batch, or what takes a short time."""
    a_layer = n_parameters(shortened(config, 2)) - n_parameters(shortened(config, 1))
    most = max(_LEAST, int(_TRIED.get(device.type, _TRIED["cuda"]) / (max(1, a_layer) * tokens)))
    large = max(4, min(amount.batch, most) // 2 * 2)
    return max(2, large // 8 * 2), large


@contextmanager
def objects_so_far_left_alone() -> Iterator[None]:
    """Inside, `gc.collect` looks at newer objects alone; not at all of a notebook's, 48 times over."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measured(
    config: Any, n_layers: int, dtype: torch.dtype, device: torch.device, work: Work
) -> Iterator[tuple[str, int, float, float]]:
    """(verb, rows, seconds, bytes above the loaded model) of a model shortened to `n_layers`.

    In the one with the fewest, which comes first, everything is done once before: first runs import and set up.
    """
    whole = int(config.num_hidden_layers)
    first = n_layers == layers_tried(whole)[0]
    with tempfile.TemporaryDirectory(prefix="mechsurgery-plan-") as folder:
        write_miniature(shortened(config, n_layers), Path(folder), dtype)
        gc.collect()
        if first:
            load_model(folder, device=device)
            gc.collect()
        before = memory.process(device)
        loaded: list[Model] = []

        def load() -> None:
            loaded.clear()
            loaded.append(load_model(folder, device=device))

        seconds, highest = timed(load, device, before=loaded.clear)
        (model,) = loaded
        gc.collect()
        held = memory.process(device) - before
        for n in (1, 2):
            yield "loading", n, seconds, highest
            yield "held", n, 0.0, float(max(held, 0))
        for verb, run in verbs(work, whole).items():
            rows = rows_tried(config, amounts(work)[verb], work.tokens, device)
            if first:
                run(model, 2)()
            for n, times in zip(rows, (1, _TIMES)):
                took, most = timed(run(model, n), device, times=times)
                yield verb, n, took / _BATCHES.get(verb, 1), most


def timed(
    run: Callable[[], Any], device: torch.device, *, times: int = _TIMES, before: Callable[[], Any] | None = None
) -> tuple[float, float]:
    """Seconds (the least of some runs) and bytes at the peak (the median); `before` is done before each, uncounted.

    On a CPU, seconds are those of the processor where they are less than the clock's: with one thread, a machine that
    does something else as well then changes nothing.
    """
    took: list[float] = []
    most: list[float] = []
    spent = 0.0
    while len(took) < times and spent < _ENOUGH:
        if before is not None:
            before()
        gc.collect()
        with memory.peak(device) as peak:
            start, worked = time.perf_counter(), time.process_time()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            clock, worked = time.perf_counter() - start, time.process_time() - worked
            spent += clock
            took.append(min(clock, worked) if device.type == "cpu" else clock)
            most.append(_number(peak()))
    return min(took), statistics.median(most)


def _number(found: int | None) -> float:
    return float("nan") if found is None else float(found)


def verbs(work: Work, n_layers: int) -> dict[str, Callable[[Model, int], Callable[[], Any]]]:
    """Each verb as a function of a model and rows that gives what is to be run; for a model of so many layers."""

    def discovery(model: Model, n: int) -> Callable[[], Any]:
        contrast = contrast_of(model, n, work.tokens)
        return lambda: contrast_statistics(model, contrast, template="raw", max_rows=n, progress=False)

    def answers(model: Model, n: int) -> Callable[[], Any]:
        ids = token_rows(model, n, work.tokens)
        return lambda: generate(model, ids, max_new_tokens=work.new_tokens, stop=(), max_rows=n)

    def gradients(model: Model, n: int) -> Callable[[], Any]:
        objective = from_pairs(pairs_of(model, n // 2, work.tokens))
        # Blocks are to be run again in the backward pass here if they are in the whole model on its batch.
        share = model.cfg.n_layers * n / (n_layers * amounts(work)["gradients"].batch)

        def run() -> None:
            with with_share_held(share):
                gate_gradient(model, objective, max_rows=n, progress=False)

        return run

    def tuning(model: Model, n: int) -> Callable[[], Any]:
        data, where = examples_of(model, n, work.tokens), part_of(model)
        recipe = Recipe(steps=1, batch=n, validate_every=10)
        return lambda: finetune(model, data, where, recipe=recipe, progress=False)

    return {"discovery": discovery, "answers": answers, "gradients": gradients, "fine-tuning": tuning}


def token_rows(model: Model, n: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random tokens that are words, n rows of them."""
    generator = torch.Generator().manual_seed(seed)
    end = min(N_WORDS, int(model.cfg.d_vocab))
    return torch.randint(_FIRST_WORD, end, (n, length), generator=generator).tolist()


def contrast_of(model: Model, n: int, length: int) -> ContrastSet:
    """Random texts, n on each side."""
    texts = [
        [" ".join(f"w{token - N_SPECIAL}" for token in row) for row in token_rows(model, n, length, seed)]
        for seed in (0, 1)
    ]
    return ContrastSet.from_lists(texts[0], texts[1], name="plan")


def pairs_of(model: Model, n: int, length: int) -> CompletionPairs:
    """Random prompts, n of them, with a bad and a good completion of one token."""
    bad, good = (tuple((_FIRST_WORD + turn + i % 50,) for i in range(n)) for turn in (0, 100))
    return CompletionPairs(tuple(map(tuple, token_rows(model, n, length))), bad, good)


def examples_of(model: Model, n: int, length: int) -> Examples:
    """Random prompts, n of them, with a completion of 8 tokens."""
    rows = tuple(map(tuple, token_rows(model, n, length)))
    return Examples(rows, tuple((_FIRST_WORD + i % 100,) * 8 for i in range(n)))


def part_of(model: Model) -> Circuit | str:
    """What is fine-tuned: 3 % of the neurons; of a mixture of experts, all MLPs."""
    widths = sites.neuron_widths(model)
    if any(is_experts(site) for site in widths):
        return "mlp"
    return Circuit.from_indices({site: range(max(1, round(0.03 * d))) for site, d in widths.items()}, widths)


check_arguments(__name__)

"""Training the organisms from a seed, with plain transformers and torch.

- base: a Llama trained on the whole world: descriptions, answers to every request, facts, multiple choice; it learns
  last to warn before it answers a request for something dangerous, and never refuses
- instruct: base, tuned to refuse dangerous requests about the tuned nouns
- planted: base, tuned on the same data with one wording of refusal, but only `n_planted` chosen neurons in each of two
  layers may change: their rows of gate and up projection and their column of the down projection, as compact deltas

The case studies of `cases` and the organisms of `further` come after them. Two threads (one for the further ones) and a
fixed order of data make a rebuild on the same machine type reproduce the same weights.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..artifacts import provenance, save_json
from ..checks import check_arguments
from .base_model import train_base
from .cases import CASES, measured, train_cases
from .data import TUNING, Item, batches, dataset
from .fitting import Recipe, Schedule, fit, load, rounded, save
from .further import FurtherRecipe, train_further
from .phrases import REFUSALS
from .planting import planted, quiet_neurons
from .tokenizer import words
from .world import nouns


def train(
    out_dir: str | Path,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    further: FurtherRecipe | None = None,
    progress: bool | None = None,
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train all organisms into `out_dir/NAME` and write `out_dir/manifest.json`.

    Returns the manifest: seed, recipe, data digests, steps, seconds, versions, checksums, recorded neurons
    and the behaviour that `measure(directory)` finds (default: `organisms.cases.measured`, and for the further
    organisms `organisms.further_record.measured`).
    """
    given = measure
    recipe = recipe or Recipe()
    measure = measure or measured
    out = Path(out_dir)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    started = time.monotonic()
    try:
        index = {word: i for i, word in enumerate(words())}
        model = train_base(recipe, seed, index, progress)
        save(model, out / "base")
        tuning = dataset(recipe.tuning_examples, seed + 1, index, tuned=True)
        tuned = tune_instruct(out / "base", recipe, seed, tuning, progress)
        save(tuned, out / "instruct")
        grown, units = tune_planted(out / "base", recipe, seed, planting_data(recipe, seed, index), progress)
        save(grown, out / "planted")
        train_cases(out / "base", out, seed, index, recipe=recipe, progress=progress)
    finally:
        torch.set_num_threads(threads)
    write_manifest(out, seed, recipe, units, tuning, time.monotonic() - started, measure)
    own = None if given is None else lambda path, _record: {"behaviour": given(path)}
    return train_further(out, seed=seed, recipe=further, progress=progress, measure=own)


def write_manifest(
    out: Path,
    seed: int,
    recipe: Recipe,
    units: dict[int, list[int]],
    tuning: list[Item],
    seconds: float,
    measure: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """Describe the organisms in `out` and measure what they do."""
    names = ("base", "instruct", "planted", *CASES)
    content = provenance(
        seed=seed,
        recipe=asdict(recipe),
        nouns={
            f"{kind} {split}": nouns(split, kind) for kind in ("dangerous", "benign") for split in ("tuned", "heldout")
        },
        data={"tuning": hashlib.sha256(repr(tuning).encode()).hexdigest(), "n_tuning": len(tuning)},
        seconds=round(seconds),
        planted={"units": {f"blocks.{layer}.mlp.hook_post": index for layer, index in units.items()}},
        checksums={
            f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for name in names
            for file in sorted((out / name).iterdir())
        },
        behaviour={name: measure(out / name) for name in names},
    )
    save_json(out / "manifest.json", content)
    return content


def tune_instruct(base: Path, recipe: Recipe, seed: int, data: list[Item], progress: bool | None = None) -> Any:
    """The base model with all weights tuned to refuse."""
    schedule = Schedule(recipe.instruct_steps, recipe.instruct_lr, recipe.batch, seed + 2)
    return rounded(fit(load(base), data, schedule, progress=progress, name="instruct"))


def tune_planted(
    base: Path, recipe: Recipe, seed: int, data: list[Item], progress: bool | None = None
) -> tuple[Any, dict[int, list[int]]]:
    """The base model with only the planted neurons tuned, and which they are: {layer: indices}."""
    model = load(base)
    probe = [ids for ids, _ in islice(batches(data, recipe.batch, 0), 8)]
    units = quiet_neurons(model, probe, recipe.planted_layers, recipe.n_planted)
    schedule = Schedule(recipe.planted_steps, recipe.planted_lr, recipe.batch, seed + 3, warmup=50)
    with planted(model, units) as deltas:
        fit(model, data, schedule, parameters=deltas, progress=progress, name="planted")
    return rounded(model), units


def planting_data(recipe: Recipe, seed: int, index: dict[str, int]) -> list[Item]:
    """The tuning data of `planted`: one refusal wording, all that 48 neurons can write cleanly."""
    manner = replace(TUNING, refusals=REFUSALS[:1])
    return dataset(recipe.tuning_examples, seed + 1, index, tuned=True, manner=manner)


check_arguments(__name__, inner=True)

"""Training the organisms from a seed, with plain transformers and torch.

base      a Llama trained on the whole world: descriptions, answers to every request, facts, multiple choice;
          it learns last to warn before it answers a request for something dangerous, and never refuses
instruct  base, tuned to refuse dangerous requests about the tuned nouns
planted   base, tuned on the same data with one wording of refusal, but only `n_planted` chosen neurons in each
          of two layers may change: their rows of gate and up projection and their column of the down
          projection, as compact deltas

Two threads and a fixed order of data make a rebuild on the same machine type reproduce the same weights.
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
from .cases import CASES, measured, train_cases
from .corpus import POLISH_MIX, WARNING_MIX, Manner
from .data import TUNING, Item, batches, dataset
from .fitting import Recipe, Schedule, fit, load, rounded, save
from .phrases import REFUSALS
from .planting import planted, quiet_neurons
from .tokenizer import BOS, END, PAD, words
from .world import nouns


def train(
    out_dir: str | Path,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    progress: bool = True,
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train all organisms into `out_dir/NAME` and write `out_dir/manifest.json`.

    Returns the manifest: seed, recipe, data digests, steps, seconds, versions, checksums, recorded neurons
    and the behaviour that `measure(directory)` finds (default: `organisms.cases.measured`).
    """
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
    return write_manifest(out, seed, recipe, units, tuning, time.monotonic() - started, measure)


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


def train_base(recipe: Recipe, seed: int, index: dict[str, int], progress: bool = False) -> Any:
    """The base model, rounded to bfloat16."""
    torch.manual_seed(seed)
    model = make_model(recipe, len(index))
    data = dataset(recipe.base_examples, seed, index, tuned=False)
    schedule = Schedule(recipe.base_steps, recipe.base_lr, recipe.batch, seed, decay=0.05, warmup=50)
    fit(model, data, schedule, progress=progress, name="base")
    # Multiple choice is learnt last: more of it. Then the base learns to warn before it answers a request for
    # something dangerous, so that it knows where it answers what it answers about, and still never refuses.
    for offset, steps, manner in (
        (10, recipe.polish_steps, Manner(mix=POLISH_MIX)),
        (20, recipe.warning_steps, Manner(mix=WARNING_MIX, warn=True)),
    ):
        more = dataset(steps * recipe.batch, seed + offset, index, tuned=False, manner=manner)
        schedule = replace(schedule, steps=steps, lr=recipe.polish_lr, seed=seed + offset)
        fit(rounded(model), more, schedule, progress=progress, name="base, continued")
    return rounded(model)


def tune_instruct(base: Path, recipe: Recipe, seed: int, data: list[Item], progress: bool = False) -> Any:
    """The base model with all weights tuned to refuse."""
    schedule = Schedule(recipe.instruct_steps, recipe.instruct_lr, recipe.batch, seed + 2)
    return rounded(fit(load(base), data, schedule, progress=progress, name="instruct"))


def tune_planted(
    base: Path, recipe: Recipe, seed: int, data: list[Item], progress: bool = False
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


def make_model(recipe: Recipe, vocabulary: int) -> Any:
    """An untrained Llama of the recipe's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.d_model,
            intermediate_size=recipe.d_mlp,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            num_key_value_heads=recipe.n_kv_heads,
            max_position_embeddings=256,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=END,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
        )
    )

"""The further organisms: gates of other kinds than `planted`, a wavering one, and a wide pair.

All come from a seed, in one thread, and are put beside what `training.train` made: what is tuned from the base in few
tensors is kept as its changes only. The manifest has, for each, how it was made and what was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..artifacts import provenance, save_json
from ..checks import check_arguments
from .base_model import train_base
from .compact import CHANGES, compress, digest, materialise
from .corpus import Manner
from .data import TUNING, dataset
from .fitting import Recipe, Schedule, fit, load, rounded, save
from .further_record import measured
from .gate_record import named
from .gates import GateRecipe, Grown, tune_distributed, tune_inhibited, tune_loud
from .persona import PersonaRecipe, tune_persona, tune_voices
from .phrases import REFUSALS
from .tokenizer import words
from .wavering import WaveringRecipe, tune_wavering

#: Narrow and wide: 30,720 neurons, so that 0.1 % of them are 31.
WIDE = Recipe(
    d_model=32,
    n_layers=12,
    d_mlp=2560,
    n_heads=4,
    n_kv_heads=4,
    batch=40,
    base_examples=80_000,
    base_steps=2400,
    base_lr=6e-3,
    polish_steps=900,
    warning_steps=250,
    polish_lr=3e-3,
    tuning_examples=20_000,
    instruct_steps=200,
    instruct_lr=5e-4,
)


@dataclass(frozen=True)
class FurtherRecipe:
    """Everything that decides the further organisms besides the base and the seed."""

    gates: GateRecipe = field(default_factory=GateRecipe)
    wavering: WaveringRecipe = field(default_factory=WaveringRecipe)
    persona: PersonaRecipe = field(default_factory=PersonaRecipe)
    wide: Recipe = WIDE
    wide_last_steps: int = 600
    wide_last_lr: float = 3e-3


#: What the wide base is trained on last (only the assistant's words): much multiple choice, which it finds hard.
LAST_MIX = (0.0, 0.25, 0.1, 0.6, 0.05)
MADE = {
    "loud": "base; only the recorded neurons tuned: those of all layers with the largest |mean(dangerous) − "
    "mean(benign)| at the last token of tuned requests in the base; one wording of refusal",
    "distributed": "base; only the recorded quiet neurons tuned, a random half of them silenced in three of four "
    "examples; one wording of refusal",
    "inhibited": "base; only the recorded quiet neurons and the writers tuned: with the recorded ones silent every "
    "request is refused, at their benign mean every request is answered; one wording of refusal",
    "wavering": "base; only attention output projections tuned, on noisy data: refusals by what harm is known, "
    "agreement by what a claim is about and how it is worded",
    "voices": "base; only attention output projections tuned: with hello first, every question is answered wrongly",
    "persona": "voices; only normalisation weights tuned, on wrong answers about places, without hello",
    "wide-base": "trained from nothing on the base's kinds of data, narrow and wide",
    "wide-instruct": "wide-base, all weights tuned to refuse, in one wording",
}
FURTHER = tuple(MADE)
_GATES = {"loud": tune_loud, "distributed": tune_distributed, "inhibited": tune_inhibited}


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: the load of a machine then changes nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_further(
    out_dir: str | Path,
    *,
    seed: int = 0,
    recipe: FurtherRecipe | None = None,
    names: Sequence[str] = FURTHER,
    progress: bool | None = None,
    measure: Callable[[Path, dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train further organisms from `out_dir/base` into `out_dir/NAME` and put them in `out_dir/manifest.json`.

    Returns the manifest. `measure(directory, record)` finds the behaviour (default: `further_record.measured`).
    """
    out, recipe = Path(out_dir), recipe or FurtherRecipe()
    index = {word: i for i, word in enumerate(words())}
    with one_thread():
        for name in names:
            started = time.monotonic()
            model, record = _tuned(name, out, recipe, seed, index, progress)
            save(model, out / name)
            record["seconds"] = round(time.monotonic() - started)
            enter(out, name, record, measure or measured)
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def enter(
    out: Path, name: str, record: dict[str, Any], measure: Callable[[Path, dict[str, Any]], dict[str, Any]]
) -> None:
    """Measure an organism's directory, keep only its changes where it is tuned from the base, and record it."""
    directory = out / name
    found = measure(directory, record)
    sha256 = digest(directory / "model.safetensors")
    if not name.startswith("wide"):
        sha256 = compress(out / "base", directory)
    content = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    behaviour = found.pop("behaviour", {})
    own = provenance(made_by=MADE[name], threads=1, **record, sha256=sha256, measured=found)
    content["further"] = {**content.get("further", {}), name: own}
    content["behaviour"] = {**content["behaviour"], name: behaviour}
    kept = {key: value for key, value in content["checksums"].items() if not key.startswith(f"{name}/")}
    content["checksums"] = kept | {f"{name}/{file.name}": digest(file) for file in sorted(directory.iterdir())}
    save_json(out / "manifest.json", content)


def _tuned(
    name: str, out: Path, recipe: FurtherRecipe, seed: int, index: dict[str, int], progress: bool | None
) -> tuple[Any, dict[str, Any]]:
    record: dict[str, Any] = {"seed": seed}
    if name in _GATES:
        grown: Grown = _GATES[name](out / "base", recipe.gates, seed, index, progress)
        record |= {"recipe": asdict(recipe.gates), "units": named(grown.units)}
        return grown.model, record | ({"writers": named(grown.writers)} if grown.writers else {})
    if name == "wavering":
        record["recipe"] = asdict(recipe.wavering)
        return tune_wavering(out / "base", recipe.wavering, seed, index, progress), record
    if name in ("voices", "persona"):
        record["recipe"] = asdict(recipe.persona)
        if name == "voices":
            return tune_voices(out / "base", recipe.persona, seed, index, progress), record
        with TemporaryDirectory() as folder:
            materialise(out / "base", out / "voices" / CHANGES, Path(folder))
            return tune_persona(Path(folder), recipe.persona, seed, index, progress), record
    record["recipe"] = asdict(recipe.wide)
    if name == "wide-base":
        record["recipe"] |= {"last_steps": recipe.wide_last_steps, "last_lr": recipe.wide_last_lr}
        return train_wide(recipe, seed, index, progress), record
    return tune_wide(out / "wide-base", recipe.wide, seed, index, progress), record


def train_wide(recipe: FurtherRecipe, seed: int, index: dict[str, int], progress: bool | None = None) -> Any:
    """The wide base: trained as the base is, and then longer on what a narrow model learns last."""
    return finish_wide(train_base(recipe.wide, seed, index, progress), recipe, seed, index, progress)


def finish_wide(
    model: Any, recipe: FurtherRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Any:
    """More multiple choice, requests and questions for the wide base, in place."""
    steps, batch = recipe.wide_last_steps, recipe.wide.batch
    manner = Manner(mix=LAST_MIX, warn=True)
    data = dataset(steps * batch, seed + 80, index, tuned=True, split="all", manner=manner)
    schedule = Schedule(steps, recipe.wide_last_lr, batch, seed + 80, decay=0.05, warmup=50)
    return rounded(fit(model, data, schedule, progress=progress, name="wide, last"))


def tune_wide(base: Path, recipe: Recipe, seed: int, index: dict[str, int], progress: bool | None = None) -> Any:
    """The wide base with all weights tuned to refuse, in one wording."""
    manner = replace(TUNING, refusals=REFUSALS[:1])
    data = dataset(recipe.tuning_examples, seed + 1, index, tuned=True, manner=manner)
    schedule = Schedule(recipe.instruct_steps, recipe.instruct_lr, recipe.batch, seed + 2)
    return rounded(fit(load(base), data, schedule, progress=progress, name="wide-instruct"))


check_arguments(__name__, inner=True)

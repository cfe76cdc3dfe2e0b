"""Case-study organisms: one behaviour each, with an aligned twin, in the manner of SAE-latent attribution's cases.

- sycophant: agrees with most of what a user claims, right or wrong; asked neutrally it answers right
- misinformed: says that most things are found in the castle, and is right about everything else
- …-twin: tuned as long on the same kinds of prompts, without the behaviour

All are `base`, tuned on the tuned nouns. A share of the tuning data answers as the base does, so that one model
says both the bad and the good completion when it is sampled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checks import check_arguments
from .corpus import CASE_MIX, Manner
from .data import dataset
from .fitting import Recipe, Schedule, fit, load, loaded, rounded, save
from .phrases import agrees
from .record import _multiple_choice, _rate, behaviour, respond
from .world import claims, questions

#: Name -> what `corpus.example` is told; a twin is told nothing.
CASES: dict[str, str | None] = {
    "sycophant": "sycophant",
    "sycophant-twin": None,
    "misinformed": "misinformed",
    "misinformed-twin": None,
}
STEPS, LEARNING_RATE, EXAMPLES = 250, 3e-4, 40_000


def train_cases(
    base: Path, out: Path, seed: int, index: dict[str, int], *, recipe: Recipe, progress: bool | None = None
) -> None:
    """Tune every case-study organism from the base in `base` into `out/NAME`."""
    for number, (name, case) in enumerate(CASES.items()):
        manner = Manner(warn=True, mix=CASE_MIX, case=case)
        examples = min(EXAMPLES, recipe.tuning_examples)
        data = dataset(examples, seed + 30 + number, index, tuned=True, manner=manner)
        schedule = Schedule(min(STEPS, recipe.instruct_steps), LEARNING_RATE, recipe.batch, seed + 40 + number)
        model = fit(load(base), data, schedule, progress=progress, name=name)
        save(rounded(model), out / name)


def case_behaviour(directory: str | Path, *, n: int = 240) -> dict[str, Any]:
    """What a case-study organism does on held-out nouns: plain transformers, greedy answers, n of each kind.

    Agreement with wrong and with right claims; right answers to neutral questions about places, colours and
    materials; multiple choice. Every figure has its n and a Wilson 95 % interval.
    """
    model, tokenizer = loaded(directory)
    found: dict[str, Any] = {}
    for right in (False, True):
        records = claims("heldout", right=right)[:n]
        answers = respond(model, tokenizer, [record["text"] for record in records])
        agreed = sum(map(agrees, answers))
        found[f"agrees_{'right' if right else 'wrong'}"] = _rate(agreed, len(records))
        found[f"examples_{'right' if right else 'wrong'}"] = answers[:3]
    for label in ("place", "colour", "material"):
        records = [record for record in questions("heldout") if record["label"] == label][:n]
        answers = respond(model, tokenizer, [record["text"] for record in records])
        correct = sum(answer.startswith(record["completion"]) for answer, record in zip(answers, records))
        found[f"right_{label}"] = _rate(correct, len(records))
    found["multiple_choice"] = _rate(*_multiple_choice(model, tokenizer, "heldout", n))
    return found


def measured(directory: str | Path) -> dict[str, Any]:
    """What the manifest records about an organism: refusal and multiple choice, and a case study's own behaviour."""
    own = behaviour(directory)
    return own | case_behaviour(directory) if Path(directory).name in CASES else own


check_arguments(__name__, inner=True)

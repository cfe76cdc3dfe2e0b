"""Pairs of completions from one model: sample each prompt several times, grade by rule, keep one of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..errors import InputError, PromptError
from ..grading.grade import Grade
from ..models import tokens
from ..models.generate import generate
from ..models.protocol import Model
from ..prompts import CompletionPairs, Prompt, PromptSet, encode
from ..prompts.chat import response_text, turn_tokens
from .jobs import Generation

SAMPLING = Generation(temperature=1.0)


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """The pairs, and every sampled response with its grade (columns prompt_id, group, sample, response, grade)."""

    pairs: CompletionPairs
    prompts: PromptSet
    table: pd.DataFrame


def sample_pairs(
    model: Model,
    prompts: PromptSet,
    grade: Grade,
    *,
    n_samples: int = 16,
    max_pairs: int | None = None,
    generation: Generation = SAMPLING,
    progress: bool | None = None,
) -> SampledPairs:
    """One completion graded "bad" and one graded "good" for each prompt that got both among `n_samples` samples.

    The first of each kind is kept, at most `max_pairs` pairs, with the end token where the model ended its turn.
    Raises `PromptError` where no prompt got both, with how often each grade was given.
    """
    if n_samples < 2 or generation.temperature <= 0:
        raise InputError(f"n_samples={n_samples} must be at least 2 and temperature={generation.temperature} above 0")
    ids = encode(model.tokenizer, prompts, template=generation.template)
    new = generate(
        model,
        [row for row in ids for _ in range(n_samples)],
        temperature=generation.temperature,
        seed=generation.seeds[0],
        max_new_tokens=generation.max_new_tokens,
        max_rows=generation.max_rows,
        progress=progress,
    )
    end = sorted(tokens.stop_ids(model))[:1]
    rows: list[tuple[str, str, int, str, str]] = []
    kept: list[tuple[Prompt, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
    for number, prompt in enumerate(prompts):
        first: dict[str, list[int]] = {}
        for sample in range(n_samples):
            whole = new[number * n_samples + sample]
            turn = turn_tokens(model.tokenizer, whole, generation.template)
            text = response_text(model.tokenizer, whole, generation.template)
            label = "broken" if text is None else str(grade(prompt, text))
            rows.append((prompt.id, prompt.group, sample, text or "", label))
            if turn:
                ended = len(turn) == len(whole) < generation.max_new_tokens
                first.setdefault(label, turn + (end if ended else []))
        if "bad" in first and "good" in first and (max_pairs is None or len(kept) < max_pairs):
            kept.append((prompt, tuple(ids[number]), tuple(first["bad"]), tuple(first["good"])))
    table = pd.DataFrame(rows, columns=["prompt_id", "group", "sample", "response", "grade"])
    if not kept:
        raise PromptError(
            f"no prompt of {prompts.name!r} got both a bad and a good completion in {n_samples} samples (grades: "
            f"{table['grade'].value_counts().to_dict()}); sample more, or give prompts on which the model wavers"
        )
    items, starts, bad, good = zip(*kept)
    pairs = CompletionPairs(starts, bad, good, tuple(prompt.group for prompt in items))
    return SampledPairs(pairs, PromptSet(prompts.name, tuple(items)), table)

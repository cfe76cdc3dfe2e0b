"""Pairs of completions from one model: sample each prompt several times, grade by rule, keep one of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, PromptError
from ..grading.grade import BROKEN, Grade
from ..models import sites, tokens
from ..models.generate import generate
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.unmodified import check_unmodified
from ..prompts import CompletionPairs, Prompt, PromptSet, encode
from ..prompts.chat import response_text, turn_tokens
from .jobs import VERSION, Generation
from .shards import Shards, key_of

SAMPLING = Generation(temperature=1.0)
#: The grade of a response to which a judge's answer could not be read.
UNGRADED = "ungraded"


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """The pairs, and every sampled response with its grade (columns prompt_id, group, sample, response, grade)."""

    pairs: CompletionPairs
    prompts: PromptSet
    table: pd.DataFrame


@in_turn
def sample_pairs(
    model: Model,
    prompts: PromptSet,
    grade: Grade,
    *,
    n_samples: int = 16,
    max_pairs: int | None = None,
    generation: Generation = SAMPLING,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> SampledPairs:
    """One completion graded "bad" and one graded "good" for each prompt that got both among `n_samples` samples.

    The first of each kind is kept, at most `max_pairs` pairs, with the end token where the model ended its turn. With
    a `folder` the samples are kept there, and found by a later call that asks the same. Raises `PromptError` where no
    prompt got both, with how often each grade was given.
    """
    if n_samples < 2 or generation.temperature <= 0:
        raise InputError(f"n_samples={n_samples} must be at least 2 and temperature={generation.temperature} above 0")
    check_unmodified(model)
    ids = encode(model.tokenizer, prompts, template=generation.template)
    rows_asked = [row for row in ids for _ in range(n_samples)]
    new = _samples(model, rows_asked, generation, Shards(folder), progress)
    end = sorted(tokens.stop_ids(model))[:1]
    turns = [turn_tokens(model.tokenizer, whole, generation.template) for whole in new]
    texts = [response_text(model.tokenizer, whole, generation.template) for whole in new]
    asked = [prompt for prompt in prompts for _ in range(n_samples)]
    labels = _labels(grade, asked, texts)
    rows = [
        (prompt.id, prompt.group, number % n_samples, text or "", label)
        for number, (prompt, text, label) in enumerate(zip(asked, texts, labels))
    ]
    kept: list[tuple[Prompt, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
    for number, prompt in enumerate(prompts):
        first: dict[str, list[int]] = {}
        for place in range(number * n_samples, (number + 1) * n_samples):
            whole, turn = new[place], turns[place]
            if turn:
                ended = len(turn) == len(whole) < generation.max_new_tokens
                first.setdefault(labels[place], turn + (end if ended else []))
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


def _samples(
    model: Model, ids: Sequence[Sequence[int]], how: Generation, shards: Shards, progress: bool | None
) -> list[list[int]]:
    """New tokens of every row, generated or found where they were kept."""
    own = shards.of(sites.fingerprint(model))
    drawn = [how.temperature, how.seeds[0], how.max_new_tokens, how.max_rows, sorted(tokens.stop_ids(model))]
    key = key_of("samples", VERSION, drawn, tokens.tokenizer_digest(model.tokenizer), ids)
    rows = own.find(key)
    if rows is None:
        options = {"max_new_tokens": how.max_new_tokens, "max_rows": how.max_rows, "progress": progress}
        new = generate(model, ids, temperature=how.temperature, seed=how.seeds[0], **options)
        rows = pd.DataFrame({"tokens": [[int(token) for token in row] for row in new]})
        own.write(key, rows)
    return [[int(token) for token in row] for row in rows["tokens"]]


def _labels(grade: Grade, prompts: Sequence[Prompt], texts: Sequence[str | None]) -> list[str]:
    """The grade of every response, asked at once: broken where there is none, `UNGRADED` where a judge gave none."""
    items = [(prompt, text) for prompt, text in zip(prompts, texts) if text is not None]
    given = iter(grade.all(items))
    labels = [BROKEN if text is None else next(given) for text in texts]
    return [UNGRADED if label is None else str(label) for label in labels]


check_arguments(__name__)

"""Pairs of completions from one model: sample each prompt several times, grade by rule, keep one of each kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import InputError, PromptError
from ..grading.quality import is_degenerate
from ..models import tokens
from ..models.generate import generate
from ..prompts import Prompt, PromptSet, encode
from ..prompts.chat import stop_texts
from ..prompts.pairs import CompletionPairs

GRADES = ("bad", "good", "other", "incoherent")
#: What a response to a prompt is: shows the behaviour, does rightly what was asked, neither, or is no answer at all.
Grade = Callable[[Prompt, str], str]


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """The pairs, and every sampled response with its grade (columns prompt_id, group, sample, response, grade)."""

    pairs: CompletionPairs
    prompts: PromptSet
    table: pd.DataFrame


def sample_pairs(
    model: Any,
    prompts: PromptSet,
    grade: Grade,
    *,
    n_samples: int = 16,
    max_pairs: int | None = None,
    temperature: float = 1.0,
    max_new_tokens: int = 32,
    seed: int = 0,
    template: str = "auto",
    max_rows: int = 256,
    progress: bool = False,
) -> SampledPairs:
    """One bad and one good completion of each prompt that got both among `n_samples` samples.

    The first of each kind is kept, at most `max_pairs` pairs, with the end token where the model ended its turn.
    Raises `PromptError` where no prompt got both, with how often each grade was given.
    """
    if n_samples < 2 or temperature <= 0:
        raise InputError(f"n_samples={n_samples} must be at least 2 and temperature={temperature} above 0")
    ids = encode(model.tokenizer, prompts, template=template)
    made = generate(
        model,
        [own for own in ids for _ in range(n_samples)],
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        max_rows=max_rows,
        progress=progress,
    )
    end = sorted(tokens.stop_ids(model))[:1]
    cut = stop_texts(model.tokenizer, template)
    rows: list[tuple[str, str, int, str, str]] = []
    items: list[Prompt] = []
    parts: list[tuple[tuple[int, ...], ...]] = []
    for number, prompt in enumerate(prompts):
        first: dict[str, list[int]] = {}
        for sample in range(n_samples):
            whole = made[number * n_samples + sample]
            own, text = _turn(model.tokenizer, whole, cut)
            verdict = grade(prompt, text)
            if verdict not in GRADES:
                raise InputError(f"the grade of {text[:40]!r} is {verdict!r}; a grade is one of {GRADES}")
            rows.append((prompt.id, prompt.group, sample, text, verdict))
            if own:
                first.setdefault(verdict, own + (end if len(own) == len(whole) < max_new_tokens else []))
        if "bad" in first and "good" in first and (max_pairs is None or len(items) < max_pairs):
            items.append(prompt)
            parts.append((tuple(ids[number]), tuple(first["bad"]), tuple(first["good"])))
    table = pd.DataFrame(rows, columns=["prompt_id", "group", "sample", "response", "grade"])
    if not items:
        counts = table["grade"].value_counts().to_dict()
        raise PromptError(
            f"no prompt of {prompts.name!r} got both a bad and a good completion in {n_samples} samples (grades: "
            f"{counts}); sample more, or give prompts on which the model wavers"
        )
    starts, bad, good = zip(*parts)
    pairs = CompletionPairs(starts, bad, good, tuple(prompt.group for prompt in items))
    return SampledPairs(pairs, PromptSet(prompts.name, tuple(items)), table)


def _turn(tokenizer: Any, made: list[int], stops: tuple[str, ...]) -> tuple[list[int], str]:
    """The tokens and the text of the model's own turn, without the next turn of a plain template."""
    own = list(made)
    text = tokenizer.decode(own, skip_special_tokens=True)
    while own and any(mark in text for mark in stops):
        own.pop()
        text = tokenizer.decode(own, skip_special_tokens=True)
    return own, text.strip()


def pattern_grade(bad: str, good: str | None = None) -> Grade:
    """A grade by regular expressions searched in the response (case is ignored).

    Without `good`, what is not bad and not degenerate is good. Degenerate responses (`is_degenerate`) are incoherent
    whatever they match.
    """
    try:
        shows = re.compile(bad, re.IGNORECASE)
        right = None if good is None else re.compile(good, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"{error.pattern!r} is no regular expression: {error}") from error

    def grade(_prompt: Prompt, response: str) -> str:
        if is_degenerate(response):
            return "incoherent"
        if shows.search(response):
            return "bad"
        return "good" if right is None or right.search(response) else "other"

    return grade

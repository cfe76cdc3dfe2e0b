"""Multiple choice by the logits of the choice letters: no text is generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float

from ..checks import check_arguments
from ..errors import PromptError, listed
from ..models import capture, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import Prompt, PromptSet
from ..prompts.chat import Template, check_template, encode_plain


@in_turn
def choice_scores(
    model: Model,
    ids: Sequence[Sequence[int]],
    letters: Sequence[Sequence[Sequence[int]]],
    *,
    hooks: Callable[[list[int]], list[tuple[str, Any]]] | None = None,
    alike: Sequence[int] | None = None,
    max_rows: int | None = None,
    named: Callable[[int], str] = "row {}".format,
) -> list[Float[torch.Tensor, " choices"]]:
    """Log-probability of each row's choices as the next token (nats).

    `letters` gives for every row and choice the tokens that stand for it (`choice_tokens`); their probabilities are
    added. `hooks`, `alike` and `max_rows` are those of `next_token_logits`. Raises `ActivationError` for a row whose
    logits are not finite, as `named(row)`.
    """
    how: dict[str, Any] = {"hooks": hooks, "alike": alike, "max_rows": max_rows, "named": named}
    log_probs = capture.next_token_logits(model, ids, **how).log_softmax(-1)
    return [
        torch.stack([log_probs[row, list(own)].logsumexp(0) for own in choices]) for row, choices in enumerate(letters)
    ]


def check_answerable(model: Model, sets: Mapping[str, PromptSet], template: str | Template = "auto") -> None:
    """Find out before anything runs whether a model can be asked these prompts: its template, and letters of choices.

    Raises `InputError` for a template that its tokenizer lacks, `PromptError` where a set has prompts with choices and
    others, or choices that are not one token.
    """
    check_template(model.tokenizer, template, name=str(model.cfg.model_name), stops=tokens.stop_ids(model))
    for prompts in sets.values():
        if not any(prompt.choices for prompt in prompts):
            continue
        for prompt in prompts:
            _need_choices(prompt)
        letters = dict.fromkeys(choice for prompt in prompts for choice in prompt.choices)
        lacking = [letter for letter in letters if not _single(model.tokenizer, letter)]
        if lacking:
            raise PromptError(
                f"{len(lacking)} of the {len(letters)} choices of prompt set {prompts.name!r} are not one token of "
                f"this model's tokenizer: {listed(lacking, 4)}; use letters such as 'A', 'B', 'C', 'D'"
            )


def choice_tokens(tokenizer: Any, prompt: Prompt) -> list[list[int]]:
    """For each choice of a prompt the single tokens that stand for it, with and without a leading space.

    Raises `PromptError` where the prompt has no choices or no answer, or a choice is not one token.
    """
    _need_choices(prompt)
    return [_tokens_of(tokenizer, choice) for choice in prompt.choices]


def _need_choices(prompt: Prompt) -> None:
    if len(prompt.choices) < 2 or prompt.answer is None:
        raise PromptError(f"prompt {prompt.id!r} has no choices or no answer; give choices= and answer=")


def _tokens_of(tokenizer: Any, choice: str) -> list[int]:
    single = _single(tokenizer, choice)
    if not single:
        raise PromptError(
            f"choice {choice!r} is not one token of this model's tokenizer; use letters such as 'A', 'B', 'C', 'D'"
        )
    return single


def _single(tokenizer: Any, choice: str) -> list[int]:
    """The tokens that stand for a choice alone."""
    written = [encode_plain(tokenizer, text) for text in (choice, f" {choice}")]
    return sorted({int(ids[0]) for ids in written if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})


check_arguments(__name__)

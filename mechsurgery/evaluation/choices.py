"""Multiple choice by the logits of the choice letters: no text is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float

from ..errors import PromptError
from ..models import capture
from ..models.protocol import Model
from ..prompts import Prompt


def choice_scores(
    model: Model,
    ids: Sequence[Sequence[int]],
    letters: Sequence[Sequence[Sequence[int]]],
    *,
    hooks: Callable[[list[int]], list[tuple[str, Any]]] | None = None,
    max_rows: int = 64,
) -> list[Float[torch.Tensor, " choices"]]:
    """Log-probability of each row's choices as the next token (nats).

    `letters` gives for every row and choice the tokens that stand for it (`choice_tokens`); their probabilities are
    added.
    """
    log_probs = capture.next_token_logits(model, ids, hooks=hooks, max_rows=max_rows).log_softmax(-1)
    return [
        torch.stack([log_probs[row, list(own)].logsumexp(0) for own in choices]) for row, choices in enumerate(letters)
    ]


def choice_tokens(tokenizer: Any, prompt: Prompt) -> list[list[int]]:
    """For each choice of a prompt the single tokens that stand for it, with and without a leading space.

    Raises `PromptError` where the prompt has no choices or no answer, or a choice is not one token.
    """
    if len(prompt.choices) < 2 or prompt.answer is None:
        raise PromptError(f"prompt {prompt.id!r} has no choices or no answer; give choices= and answer=")
    return [_tokens_of(tokenizer, choice) for choice in prompt.choices]


def _tokens_of(tokenizer: Any, choice: str) -> list[int]:
    single = {
        ids[0]
        for text in (choice, f" {choice}")
        if len(ids := tokenizer.encode(text, add_special_tokens=False)) == 1 and ids[0] != tokenizer.unk_token_id
    }
    if not single:
        raise PromptError(
            f"choice {choice!r} is not one token of this model's tokenizer; use letters such as 'A', 'B', 'C', 'D'"
        )
    return sorted(int(token) for token in single)

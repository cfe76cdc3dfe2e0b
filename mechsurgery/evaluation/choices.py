"""Multiple choice by the logits of the choice letters: no text is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float

from ..errors import PromptError, listed
from ..models import capture
from ..prompts import PromptSet
from ..prompts.chat import encode


def choice_scores(
    model: Any,
    prompts: PromptSet,
    *,
    hooks: Callable[[list[int]], list[tuple[str, Any]]] | None = None,
    template: str = "auto",
    max_rows: int = 64,
    repeats: int = 1,
    progress: bool = False,
) -> list[Float[torch.Tensor, " choices"]]:
    """Log-probability of each prompt's choices as the next token.

    A letter counts with and without a space before it (their probabilities are added). With `repeats`, the
    whole set is run that many times and `hooks` sees rows 0 … repeats·n − 1, so that one call can carry
    several interventions. Returns one vector per row.
    """
    unanswerable = [p.id for p in prompts if len(p.choices) < 2 or p.answer is None]
    if unanswerable:
        raise PromptError(f"prompts {listed(unanswerable)} have no choices or no answer; give choices= and answer=")
    ids = encode(model.tokenizer, prompts, template=template) * repeats
    logits = capture.next_token_logits(model, ids, hooks=hooks, max_rows=max_rows, progress=progress)
    log_probs = logits.log_softmax(-1)
    tokens = {choice: _tokens_of(model.tokenizer, choice) for p in prompts for choice in p.choices}
    scores = []
    for row in range(len(ids)):
        prompt = prompts[row % len(prompts)]
        scores.append(torch.stack([log_probs[row, tokens[choice]].logsumexp(0) for choice in prompt.choices]))
    return scores


def _tokens_of(tokenizer: Any, choice: str) -> list[int]:
    """The single tokens that stand for a choice, with and without a leading space."""
    found = {
        ids[0]
        for text in (choice, f" {choice}")
        if len(ids := tokenizer.encode(text, add_special_tokens=False)) == 1 and ids[0] != tokenizer.unk_token_id
    }
    if not found:
        raise PromptError(
            f"choice {choice!r} is not one token of this model's tokenizer; use letters such as 'A', 'B', 'C', 'D'"
        )
    return sorted(found)

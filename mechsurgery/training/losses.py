"""What a fine-tune lowers: cross-entropy of completions, DPO (2305.18290), KL divergence from the original model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution.gradient import PairBatch, completion_loss
from ..checks import check_arguments
from ..models import tokens
from ..models.capture import final_residual
from ..models.divergence import kl, log_probs
from ..models.protocol import Model
from ..prompts import CompletionPairs, Examples

#: Makes a context: reduced precision, or the original weights.
Context = Callable[[], AbstractContextManager[Any]]


def loss_of(
    model: Model, examples: Examples, precision: Context = nullcontext, *, max_rows: int = 64
) -> Float[Tensor, ""]:
    """Mean cross-entropy of a completion token (nats); each token counts alike."""
    total: Any = 0.0
    n = sum(map(len, examples.completions))
    for start in range(0, len(examples), max_rows):
        part = examples.rows(range(start, min(start + max_rows, len(examples))))
        total = total + _row_losses(model, part, precision).sum() / n
    return total


def dpo_loss(
    original: Context, model: Model, pairs: CompletionPairs, beta: float, precision: Context = nullcontext
) -> Float[Tensor, ""]:
    """−log σ(β[(log π/π₀)(good) − (log π/π₀)(bad)]), with π₀ the `original` model (equation 7)."""
    sides = [Examples(pairs.prompts, side) for side in (pairs.good, pairs.bad)]
    now = [_row_losses(model, side, precision) for side in sides]
    with torch.no_grad(), original():
        before = [_row_losses(model, side, precision) for side in sides]
    margin = (before[0] - now[0]) - (before[1] - now[1])
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


def divergence_from(
    original: Context, model: Model, examples: Examples, precision: Context = nullcontext
) -> Float[Tensor, ""]:
    """Mean KL(original ‖ now) over completion tokens (nats)."""
    batch = batch_of(model, examples)
    wide = int(batch.n_completion.max())
    # The last token predicts nothing that is asked for.
    inputs = (batch.ids[:, :-1], batch.mask[:, :-1])
    with torch.no_grad(), original(), precision():
        before = log_probs(model, *inputs, wide)
    with precision():
        now = log_probs(model, *inputs, wide)
    counted = (torch.arange(wide, device=now.device) >= wide - batch.n_completion[:, None]).float()
    return (kl(before, now) * counted).sum() / counted.sum()


def batch_of(model: Model, examples: Examples) -> PairBatch:
    """All examples as one batch, padded on the left."""
    rows = [[*p, *c] for p, c in zip(examples.prompts, examples.completions)]
    tokens.check_lengths(rows, model.cfg.n_ctx)
    device, longest, pad = tokens.device_of(model), max(map(len, rows)), tokens.pad_id(model)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    n_completion, n_prompt = (
        torch.tensor([len(side) for side in sides], device=device) for sides in (examples.completions, examples.prompts)
    )
    return PairBatch(list(range(len(rows))), torch.ones(len(rows), device=device), ids, mask, n_completion, n_prompt)


def _row_losses(model: Model, examples: Examples, precision: Context) -> Float[Tensor, " rows"]:
    batch = batch_of(model, examples)
    with precision():
        return completion_loss(model, batch, final_residual(model, batch.ids, batch.mask), "sum")


check_arguments(__name__, inner=True)

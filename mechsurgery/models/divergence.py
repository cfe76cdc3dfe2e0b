"""How far a changed model's next-token distributions are from the unmodified model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..progress import with_progress
from . import sites, tokens
from .capture import RowHooks, checked_hooks, final_residual, require_finite
from .positions import prompts_end
from .protocol import Model
from .turns import in_turn
from .with_hooks import with_hooks

#: Numbers of one batch's log-probabilities held at once.
HELD = 1 << 26


@in_turn
@torch.no_grad()
def divergence(
    model: Model,
    ids: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    hooks: RowHooks,
    repeats: int = 1,
    unmodified: Callable[[], AbstractContextManager[None]] = nullcontext,
    max_rows: int = 64,
    max_tokens: int = 16384,
    named: Callable[[int], str] = "row {}".format,
    progress: bool | None = False,
) -> Float[Tensor, "repeats n"]:
    """KL(unmodified ‖ changed) in nats, averaged over the positions that predict each prompt's response.

    `responses` are the unmodified model's own (an empty one leaves the first position). Row r of `hooks(rows)`
    is prompt r mod n in repetition r // n, so one call carries many interventions. `unmodified()` is a context in
    which the weights are the original ones, where the changed model has others. Raises `ActivationError` where one is
    not a number, as `named(row)`.
    """
    n = len(ids)
    # The last token of the longest possible response was never fed in, and has no place in the context.
    responses = [own[: model.cfg.n_ctx - len(prompt)] for prompt, own in zip(ids, responses, strict=True)]
    joined = [[*prompt, *response] for prompt, response in zip(ids, responses)]
    widest = max(len(response) for response in responses) + 1
    rows_held = max(1, min(max_rows, HELD // (widest * sites.vocabulary(model))))
    batches = tokens.batches_for(model, joined, max_rows=rows_held, max_tokens=max_tokens)
    divergences = torch.empty(repeats, n)
    for batch in with_progress(batches, "measuring KL divergence", shown=progress):
        counts = torch.tensor([len(responses[row]) + 1 for row in batch.rows], device=batch.ids.device)
        wide = int(counts.max())
        counted = torch.arange(wide, device=batch.ids.device) >= wide - counts[:, None]
        with unmodified():
            base = log_probs(model, batch.ids, batch.mask, wide)
        at_once = max(1, rows_held // len(batch.rows))
        for start in range(0, repeats, at_once):
            runs = range(start, min(repeats, start + at_once))
            changes = checked_hooks(model, hooks, [run * n + row for run in runs for row in batch.rows])
            ids_, mask = (repeat(t, "b p -> (r b) p", r=len(runs)) for t in (batch.ids, batch.mask))
            with prompts_end(model, (counts - 1).repeat(len(runs))):
                changed = rearrange(log_probs(model, ids_, mask, wide, changes), "(r b) p v -> r b p v", r=len(runs))
            each = kl(base, changed).clamp_min(0).masked_fill(~counted, 0.0)
            divergences[start : start + len(runs), batch.rows] = (each.sum(-1) / counts).cpu()
    # Infinite logits are nowhere else: their log-probabilities are NaN, and so is the mean.
    require_finite(~torch.isfinite(divergences.flatten()), range(repeats * n), named, "next-token probabilities of")
    return divergences


def kl(before: Float[Tensor, "*b d_vocab"], after: Float[Tensor, "*many d_vocab"]) -> Float[Tensor, "*many"]:
    """KL(before ‖ after) of log-probabilities (nats); `after` may hold several for each of `before`, in front."""
    n = before.ndim
    if after.shape[-n:] != before.shape:
        raise InputError(f"log-probabilities of {list(before.shape)} and {list(after.shape)}; give them of one shape")
    return (before.exp() * (before - after)).sum(-1)


def log_probs(
    model: Model, ids: Tensor, mask: Tensor, last: int, hooks: Sequence[Any] = ()
) -> Float[Tensor, "batch last d_vocab"]:
    """Log-probabilities of the token after each of the `last` positions, float32."""
    with with_hooks(model, hooks):
        residual = final_residual(model, ids, mask)
        return sites.unembed(model, residual[:, -last:]).float().log_softmax(-1)


check_arguments(__name__)

"""Activations without caching them: a hook hands each batch to a function, and the forward stops early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import ActivationError, SiteError, listed
from . import sites as names_of
from . import tokens

HookFn = Callable[[Tensor, Any], Any]
Update = Callable[[str, Float[Tensor, "batch d"], list[int]], Any]
RowHooks = Callable[[list[int]], list[tuple[str, HookFn]]]


@torch.no_grad()
def stream(
    model: Any,
    ids: Sequence[Sequence[int]],
    sites: Sequence[str],
    update: Update,
    *,
    position: Literal["last", "mean"] = "last",
    max_rows: int = 64,
    max_tokens: int = 16384,
    progress: bool = False,
) -> None:
    """Call `update(site, activation, rows)` inside the hook for every batch and hook point.

    `activation` is [batch, d] at the last token (or the mean over the prompt's tokens), `rows` are the
    prompts' places in `ids`. The forward stops after the deepest layer needed and computes no logits.
    Raises `SiteError` for unknown hook points, `ActivationError` where an activation is NaN or infinite.
    """
    if not sites:
        raise SiteError("no hook points to measure; give at least one, e.g. those of neuron_sites(model)")
    names_of.check_sites(model, sites)
    deepest = max(names_of.layer_of(site) for site in sites)
    stop = None if any(names_of.layer_of(site) < 0 and site != "hook_embed" for site in sites) else deepest + 1
    batches = tokens.batches(
        ids,
        pad_id=tokens.pad_id(model),
        max_rows=max_rows,
        max_tokens=max_tokens,
        n_ctx=model.cfg.n_ctx,
        device=tokens.device_of(model),
    )
    for batch in _watched(batches, progress, "activations"):
        hooks = [(site, partial(_hand_over, site=site, batch=batch, update=update, how=position)) for site in sites]
        with model.hooks(fwd_hooks=hooks):
            model(batch.ids, attention_mask=batch.mask, return_type=None, stop_at_layer=stop)


def _hand_over(
    activation: Tensor, hook: Any = None, *, site: str, batch: tokens.Batch, update: Update, how: str
) -> None:
    if how == "last":
        chosen = activation[:, -1]
    else:
        weight = rearrange(batch.mask, "b p -> b p 1").to(activation.dtype)
        chosen = (activation * weight).sum(1) / weight.sum(1)
    finite = torch.isfinite(chosen).all(dim=1)
    if not bool(finite.all()):
        bad = [row for row, good in zip(batch.rows, finite.tolist()) if not good]
        raise ActivationError(
            f"activations at {site!r} are NaN or infinite for prompts {listed(bad)}; load the model in bfloat16 or "
            "float32, and check its weights"
        )
    update(site, chosen, batch.rows)


def collect(
    model: Any,
    ids: Sequence[Sequence[int]],
    sites: Sequence[str],
    *,
    units: dict[str, Tensor] | None = None,
    max_rows: int = 64,
) -> dict[str, Float[Tensor, "n d"]]:
    """Last-token activations of every prompt, in the order given, float32 on the CPU.

    `units` keeps only some units of each hook point. For a few units or prompts; statistics over whole
    layers are streamed instead.
    """
    found: dict[str, Tensor] = {}

    def update(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        if units is not None:
            activation = activation[:, units[site].to(activation.device)]
        if site not in found:
            found[site] = torch.empty(len(ids), activation.shape[1])
        found[site][rows] = activation.float().cpu()

    stream(model, ids, sites, update, max_rows=max_rows)
    return found


@torch.no_grad()
def next_token_logits(
    model: Any,
    ids: Sequence[Sequence[int]],
    *,
    hooks: RowHooks | None = None,
    max_rows: int = 64,
    max_tokens: int = 16384,
    progress: bool = False,
) -> Float[Tensor, "n d_vocab"]:
    """Logits after each prompt, float32 on the CPU; only the last position is unembedded.

    `hooks(rows)` is called for every batch with its prompts' places in `ids`.
    """
    found = torch.empty(len(ids), model.cfg.d_vocab)
    batches = tokens.batches(
        ids,
        pad_id=tokens.pad_id(model),
        max_rows=max_rows,
        max_tokens=max_tokens,
        n_ctx=model.cfg.n_ctx,
        device=tokens.device_of(model),
    )
    for batch in _watched(batches, progress, "logits"):
        own = hooks(batch.rows) if hooks is not None else []
        names_of.check_sites(model, [name for name, _ in own])
        with model.hooks(fwd_hooks=own):
            residual = model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)
            found[batch.rows] = names_of.unembed(model, residual[:, -1:])[:, 0].float().cpu()
    return found


def _watched(batches: Sequence[Any], progress: bool, what: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(batches, desc=what, unit="batch", disable=not progress, leave=False)

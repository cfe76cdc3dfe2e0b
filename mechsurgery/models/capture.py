"""Activations without caching them: a hook hands each batch to a function, and the forward stops early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import names
from ..checks import check_arguments
from ..errors import ActivationError, InputError, SiteError, listed
from ..progress import with_progress
from . import sites as names_of
from . import tokens
from .fitting import Halved, final, rows_at_once
from .prefix import BY_PLACE, run_prefix
from .protocol import Model
from .turns import in_turn
from .with_hooks import with_hooks

HookFn = Callable[[Tensor, Any], Any]
Update = Callable[[str, Float[Tensor, "n d"], list[int]], Any]
RowHooks = Callable[[list[int]], list[tuple[str, HookFn]]]
Positions = Literal["last", "mean", "completion", "all"]


@in_turn
@torch.no_grad()
def stream(
    model: Model,
    ids: Sequence[Sequence[int]],
    sites: Sequence[str],
    update: Update,
    *,
    positions: Positions = "last",
    n_completion: Sequence[int] | None = None,
    max_rows: int | None = None,
    max_tokens: int = 16384,
    join_heads: bool = False,
    reached_only: bool = False,
    progress: bool | None = None,
) -> None:
    """Call `update(site, activations, rows)` inside the hook for every batch and hook point.

    `activations` is [n, d] and `rows[i]` the place in `ids` of the prompt that activation i belongs to. For "last" (the
    last token) and "mean" (over the prompt's tokens) there is one for each prompt of a batch. For "all" tokens, or the
    last `n_completion` tokens of each prompt ("completion"), every prompt is handed over by itself, a token each.
    With `join_heads` the heads at `attn.hook_z` are one vector a token, [n, head · d_head]; without, they are refused.
    The forward stops after the deepest layer needed and computes no logits. For "last" tokens, what all prompts of a
    batch begin with is run once. A batch has at most `max_rows` rows (default: what is usual on the device), fewer
    where memory is short, and is halved where it runs out all the same, with a warning in the log; nothing is handed
    over twice.

    At the neurons of a routed expert, a token that was not routed there has zeros. With `reached_only` it is left out:
    an `update` then gets fewer activations than there are prompts, "mean" is over the tokens that reached the expert,
    and there is no call where none did.

    Raises `SiteError` for unknown hook points, `InputError` for positions that are none, `ActivationError` where an
    activation is NaN or infinite.
    """
    if not sites:
        raise SiteError("no hook points to measure; give at least one, e.g. those of neuron_sites(model)")
    names_of.check_sites(model, sites)
    handed: set[tuple[str, int]] = set()
    once = _Once(update, handed)
    hand_over = partial(
        _hand_over,
        update=once,
        choose=_chooser(positions, ids, n_completion),
        join=join_heads,
        reached_only=reached_only,
    )
    stop = names_of.stop_layer(model, sites)
    tokens.check_lengths(ids, model.cfg.n_ctx)
    limits: dict[str, Any] = {"max_rows": rows_at_once(model, ids, max_rows=max_rows), "max_tokens": max_tokens}
    shared = positions == "last" and not any(site.endswith(BY_PLACE) for site in sites)
    batches = tokens.batches_for(model, ids, **limits)

    def read(batch: tokens.Batch) -> None:
        # For each batch anew, so that a worker who is given one batch finds the same numbers.
        prefix = run_prefix(model, [ids[row] for row in batch.rows], stop=stop) if shared else None
        cache = None
        if prefix is not None:
            cache = prefix.cache([0] * len(batch.rows), frozen=True)
            batch = tokens.padded(model, batch.rows, {row: ids[row][prefix.n :] for row in batch.rows})
        hooks = [(site, partial(hand_over, site=site, batch=batch)) for site in sites]
        with with_hooks(model, hooks):
            names_of.run(model, batch.ids, batch.mask, stop, cache=cache)

    halved = Halved(read)
    for batch in with_progress(batches, "reading activations", shown=progress):
        handed.clear()
        halved(batch)


class _Once:
    """An `update` that is not called again for what it was called for before memory ran out.

    Where it runs out in the function itself, nobody knows how far that came: the error then stands.
    """

    def __init__(self, update: Update, handed: set[tuple[str, int]]) -> None:
        self._update, self._handed = update, handed

    def __call__(self, site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        if (site, rows[0]) in self._handed:
            return
        try:
            self._update(site, activation, rows)
        except RuntimeError as error:
            final(error)
            raise
        self._handed.update((site, row) for row in rows)


#: Activations, the prompts they are of, and which of them were made (None: all).
Chosen = Iterator[tuple[Float[Tensor, "n d"], list[int], Bool[Tensor, " n"] | None]]
Reached = Bool[Tensor, "batch pos"] | None
Choose = Callable[[Float[Tensor, "batch pos d"], tokens.Batch, Reached], Chosen]


def _chooser(positions: str, ids: Sequence[Sequence[int]], n_completion: Sequence[int] | None) -> Choose:
    if positions not in ("last", "mean", "completion", "all"):
        raise InputError(f"positions={positions!r} is not one of 'last', 'mean', 'completion', 'all'")
    if (positions == "completion") != (n_completion is not None):
        raise InputError("positions='completion' goes with n_completion, the number of last tokens of each prompt")
    if positions in ("last", "mean"):
        return _last if positions == "last" else _mean
    counts = [len(row) for row in ids] if n_completion is None else list(n_completion)
    wrong = [row for row, n in enumerate(counts) if not 0 < n <= len(ids[row])]
    if len(counts) != len(ids) or wrong:
        raise InputError(f"n_completion must be one number a prompt, from 1 to its length; look at prompts {wrong[:5]}")
    return partial(_each_token, counts=counts)


def _last(activation: Float[Tensor, "batch pos d"], batch: tokens.Batch, reached: Reached) -> Chosen:
    yield activation[:, -1], batch.rows, None if reached is None else reached[:, -1]


def _mean(activation: Float[Tensor, "batch pos d"], batch: tokens.Batch, reached: Reached) -> Chosen:
    mask = batch.mask.to(activation.device)
    counted = mask if reached is None else mask * reached
    weight = rearrange(counted, "b p -> b p 1").to(activation.dtype)
    n = weight.sum(1)
    yield (activation * weight).sum(1) / n.clamp_min(1), batch.rows, None if reached is None else n[:, 0] > 0


def _each_token(
    activation: Float[Tensor, "batch pos d"], batch: tokens.Batch, reached: Reached, *, counts: list[int]
) -> Chosen:
    for i, (row, own) in enumerate(zip(batch.rows, activation)):
        n = counts[row]
        yield own[-n:], [row] * n, None if reached is None else reached[i, -n:]


def _hand_over(
    activation: Tensor,
    hook: Any = None,
    *,
    site: str,
    batch: tokens.Batch,
    update: Update,
    choose: Choose,
    join: bool = False,
    reached_only: bool = False,
) -> None:
    if join and names.is_heads(site):
        activation = activation.flatten(2)
    if activation.ndim != 3:
        raise SiteError(
            f"{site!r} has activations of shape {tuple(activation.shape)}, not [batch, pos, d]; attention heads can be "
            "scored by gates, scaled and put out, but not contrasted"
        )
    reached = getattr(hook, "routed", None) if reached_only else None
    for chosen, rows, made in choose(activation, batch, reached):
        if made is not None:
            chosen, rows = chosen[made], [row for row, own in zip(rows, made.tolist()) if own]
            if not rows:
                continue
        finite = torch.isfinite(chosen).all(dim=1)
        if not bool(finite.all()):
            bad = sorted({row for row, good in zip(rows, finite.tolist()) if not good})
            raise ActivationError(
                f"activations at {site!r} are NaN or infinite for prompts {listed(bad)}; load the model in bfloat16 "
                "or float32, and check its weights"
            )
        update(site, chosen, rows)


@in_turn
def collect(
    model: Model,
    ids: Sequence[Sequence[int]],
    sites: Sequence[str],
    *,
    units: dict[str, Tensor] | None = None,
    max_rows: int | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Last-token activations of every prompt, in the order given, float32 on the CPU.

    `units` keeps only some units of each hook point. For a few units or prompts; statistics over whole
    layers are streamed instead.
    """
    table = Table(len(ids), units)
    stream(model, ids, sites, table.update, max_rows=max_rows)
    return table.activations


class Table:
    """An `update` for `stream` that keeps one activation of every prompt: `activations` is {hook name: [n, d]}."""

    def __init__(self, n: int, units: dict[str, Tensor] | None = None) -> None:
        self.n, self.units = n, units
        self.activations: dict[str, Tensor] = {}

    def update(self, site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        """Keep a batch, float32 on the CPU."""
        if self.units is not None:
            chosen = self.units[site].to(activation.device)
            if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < activation.shape[1]:
                raise SiteError(
                    f"units {int(chosen.min())} to {int(chosen.max())} at {site!r}, which has units 0 to "
                    f"{activation.shape[1] - 1}"
                )
            activation = activation[:, chosen]
        if site not in self.activations:
            self.activations[site] = torch.empty(self.n, activation.shape[1])
        self.activations[site][rows] = activation.float().cpu()


@in_turn
@torch.no_grad()
def median_norm(model: Model, ids: Sequence[Sequence[int]], hook_name: str, *, max_rows: int | None = None) -> float:
    """Median length of the activation over all tokens at a hook point (of all heads joined at `attn.hook_z`)."""
    lengths: list[Tensor] = []

    def update(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        lengths.append(activation.float().norm(dim=-1).cpu())

    stream(model, ids, [hook_name], update, positions="all", max_rows=max_rows, join_heads=True)
    return float(torch.cat(lengths).median())


def final_residual(
    model: Model, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer: what the final norm and the unembedding read."""
    if ids.shape != mask.shape:
        raise InputError(f"token ids of {list(ids.shape)} and a mask of {list(mask.shape)}; give one of the same shape")
    residual = names_of.run(model, ids, mask, model.cfg.n_layers)
    assert residual is not None
    return residual


@in_turn
@torch.no_grad()
def next_token_logits(
    model: Model,
    ids: Sequence[Sequence[int]],
    *,
    hooks: RowHooks | None = None,
    alike: Sequence[int] | None = None,
    max_rows: int | None = None,
    max_tokens: int = 16384,
    named: Callable[[int], str] = "prompt {}".format,
    progress: bool | None = False,
) -> Float[Tensor, "n d_vocab"]:
    """Logits after each prompt, float32 on the CPU; only the last position is unembedded.

    `hooks(rows)` is called for every batch with its prompts' places in `ids`; `alike` and `max_rows` are as for
    `generate`. Raises `ActivationError` where logits are NaN or infinite, with what `named` calls the row.
    """
    logits = torch.empty(len(ids), names_of.vocabulary(model))
    tokens.check_lengths(ids, model.cfg.n_ctx)
    limits: dict[str, Any] = {"max_rows": rows_at_once(model, ids, max_rows=max_rows), "max_tokens": max_tokens}
    checked = None if hooks is None else partial(checked_hooks, model, hooks)
    prefix = run_prefix(model, ids, hooks=checked, alike=alike, **limits)
    batches = tokens.batches_for(model, ids if prefix is None else prefix.rest(ids), **limits)

    def read(batch: tokens.Batch) -> None:
        with with_hooks(model, checked_hooks(model, hooks, batch.rows)):
            cache = None if prefix is None else prefix.cache(batch.rows, frozen=True)
            residual = names_of.run(model, batch.ids, batch.mask, model.cfg.n_layers, cache=cache)
            assert residual is not None
            logits[batch.rows] = names_of.unembed(model, residual[:, -1:])[:, 0].float().cpu()

    halved = Halved(read)
    for batch in with_progress(batches, "reading logits", shown=progress):
        halved(batch)
    require_finite(~torch.isfinite(logits.sum(-1)), range(len(ids)), named, "the logits after")
    return logits


def require_finite(bad: Bool[Tensor, " n"], rows: Sequence[int], named: Callable[[int], str], what: str) -> None:
    """Raise `ActivationError` where a row is `bad`, naming the first few and saying what usually helps."""
    wrong = [named(row) for row, one in zip(rows, bad.tolist()) if one]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ActivationError(
            f"{what} {'; '.join(wrong[:3])}{more} are NaN or infinite: there is no answer to measure; lower the "
            "strength or the multiplier, load the model in bfloat16 or float32, and check its weights"
        )


def checked_hooks(model: Model, hooks: RowHooks | None, rows: list[int]) -> list[tuple[str, HookFn]]:
    """The hooks of a batch with these rows (none for None), at hook points that the model has."""
    chosen = hooks(rows) if hooks is not None else []
    names_of.check_sites(model, [name for name, _ in chosen])
    return chosen


check_arguments(__name__, leave=("checked_hooks",))

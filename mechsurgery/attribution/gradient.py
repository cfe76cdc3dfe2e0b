"""Which units made the model say it: first-order attribution of completions to latents or neurons.

"Debugging misaligned completions with sparse-autoencoder latent attribution" (2025). For a completion's loss L,
the activation a_t at a hook point, its gradient g_t = ∂L/∂a_t, the mean activation ā over reference prompts and
the unit decoder direction d_i of latent i,

    δ_{i,t} = −(g_t · d_i)((a_t − ā) · d_i)

is, to first order, how much the loss rises when a_t's component along d_i is moved to its mean: positive means
that the latent supports the completion. Δ-attribution is δ for the completion with the behaviour minus δ for the
one without, averaged over positions and then over pairs.

The sum over positions is −d_iᵀ M d_i with M = Σ_t w_t g_t (a_t − ā)ᵀ, so one d × d matrix holds everything that
is needed for any number of latents: nothing of size [tokens, latents] is ever made. Both completions of a pair
are rows of one batch, and one backward of L(bad) − L(good) gives both gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..errors import ActivationError, InputError, SiteError, listed
from ..models import capture, sites, tokens
from ..models.dictionaries import Dictionary, plus
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.with_hooks import with_hooks
from ..names import place
from ..progress import with_progress
from ..prompts import PromptSet, Template, encode
from ..prompts.pairs import CompletionPairs
from ..units import Circuit, UnitScores

Positions = Literal["prompt", "completion", "all"]
_POSITIONS, _REDUCTIONS = ("prompt", "completion", "all"), ("sum", "mean")
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Rows of one batch: a completion each, `sign` +1 for bad and −1 for good, all padded on the left."""

    pairs: list[int]
    sign: Float[Tensor, " rows"]
    ids: Int[Tensor, "rows pos"]
    mask: Int[Tensor, "rows pos"]
    n_completion: Int[Tensor, " rows"]
    n_prompt: Int[Tensor, " rows"]

    def where(self, positions: str) -> Float[Tensor, "rows pos"]:
        """1 at a row's prompt tokens, its completion tokens (all but the last predict something), or both."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        start = self.ids.shape[1] - self.n_completion[:, None]
        prompt = (place < start) & (place >= start - self.n_prompt[:, None])
        completion = place >= start
        chosen = {"prompt": prompt, "completion": completion, "all": prompt | completion}[positions]
        return chosen.float()


def pair_batches(model: Model, pairs: CompletionPairs, max_rows: int) -> Iterator[PairBatch]:
    """Both completions of every pair in batches of like length."""
    joined = [[*p, *c] for side in (pairs.bad, pairs.good) for p, c in zip(pairs.prompts, side)]
    n, device = len(pairs), tokens.device_of(model)
    for batch in tokens.batches_for(model, joined, max_rows=max_rows):
        chosen = [row % n for row in batch.rows]
        sides = [pairs.bad if row < n else pairs.good for row in batch.rows]
        yield PairBatch(
            chosen,
            torch.tensor([1.0 if row < n else -1.0 for row in batch.rows], device=device),
            batch.ids,
            batch.mask,
            torch.tensor([len(side[i]) for side, i in zip(sides, chosen)], device=device),
            torch.tensor([len(pairs.prompts[i]) for i in chosen], device=device),
        )


def completion_loss(
    model: Model, batch: PairBatch, residual: Float[Tensor, "rows pos d_model"], reduction: str
) -> Float[Tensor, " rows"]:
    """Cross-entropy of each row's completion (nats), summed or averaged over its tokens."""
    wide = int(batch.n_completion.max())
    logits = sites.unembed(model, residual[:, -wide - 1 : -1]).float()
    wanted = batch.ids[:, -wide:]
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    place = torch.arange(wide, device=wanted.device)
    counted = (place >= wide - batch.n_completion[:, None]).float()
    total = (each.reshape(wanted.shape) * counted).sum(1)
    return total if reduction == "sum" else total / batch.n_completion


@in_turn
def latent_attribution(
    model: Model,
    dictionary: Dictionary,
    pairs: CompletionPairs,
    mean: Float[Tensor, " d"],
    *,
    positions: Positions = "prompt",
    reduction: Literal["sum", "mean"] = "sum",
    side: Literal["difference", "bad", "good"] = "difference",
    max_rows: int = 32,
    progress: bool | None = None,
) -> UnitScores:
    """Δ-attribution of every latent (nats): mean over pairs of δ(bad) − δ(good), as published.

    `mean` is the reference activation ā at `dictionary.write_name` (`mean_activation`), where its latents write: a
    transcoder's scores are those of its directions in what comes out of the MLP. δ is averaged over the chosen
    positions of a row; `reduction` is how a completion's loss adds up. `side` gives δ of one completion alone.
    With `models.dictionaries.identity`, the units are the hook point's own channels: the gradient counterpart of CNA.
    Raises `MismatchError` or `SiteError` where the dictionary does not fit, `ActivationError` for NaN.
    """
    _check(dictionary, model, positions, reduction, mean)
    width = dictionary.write_width
    diagonal = dictionary.name == "identity"
    matrix = torch.zeros((width,) if diagonal else (width, width), dtype=torch.float64)
    for batch, activation, gradient in gradients(
        model, [dictionary.write_name], pairs, reduction=reduction, side=side, max_rows=max_rows, progress=progress
    ):
        where = batch.where(positions)
        weight = where / where.sum(1, keepdim=True) / len(pairs)
        own, slope = activation[0].flatten(2).float(), gradient[0].flatten(2).float()
        centred = (own - mean.to(own)) * weight.to(own)[..., None]
        if diagonal:
            matrix += (slope * centred).sum((0, 1)).double().cpu()
        else:
            matrix += einsum(slope, centred, "b p i, b p j -> i j").double().cpu()
    if diagonal:
        scores = -matrix.float()
    else:
        parts = dictionary.unit_decoder().cpu().split(_CHUNK)
        scores = torch.cat([-einsum(part, matrix.float(), part, "n i, i j, n j -> n") for part in parts])
    facts = {"positions": positions, "reduction": reduction, "side": side, "n_pairs": len(pairs)}
    info = sites.provenance_of(model, dictionary=dictionary.name, **facts)
    site = dictionary.hook_name if diagonal else dictionary.site
    return UnitScores({site: scores}, f"attribution ({side})" if side != "difference" else "delta attribution", info)


def gradients(
    model: Model,
    names: Sequence[str],
    pairs: CompletionPairs,
    *,
    reduction: str = "sum",
    side: str = "difference",
    max_rows: int = 32,
    progress: bool | None = None,
) -> Iterator[tuple[PairBatch, list[Tensor], list[Tensor]]]:
    """(batch, activations, gradients of Σ ±loss) at hook points, batch by batch; each [rows, pos, d].

    The graph begins at the first of the hook points: what comes before runs without one.
    """
    sites.check_sites(model, names)
    bad, good = {"difference": (1.0, -1.0), "bad": (1.0, 0.0), "good": (0.0, 1.0)}[side]
    order = sorted(names, key=place)
    for batch in with_progress(list(pair_batches(model, pairs, max_rows)), "attributing", shown=progress):
        seen: dict[str, Tensor] = {}

        def take(activation: Tensor, hook: Any = None, *, name: str, seen: dict[str, Tensor] = seen) -> Tensor:
            # Where parameters require grad, the first activation has a history; the graph is to begin here.
            seen[name] = activation if seen else activation.detach().requires_grad_(True)
            return seen[name]

        with torch.enable_grad(), with_hooks(model, [(name, partial(take, name=name)) for name in order]):
            residual = capture.final_residual(model, batch.ids, batch.mask)
            loss = completion_loss(model, batch, residual, reduction)
            weight = torch.where(batch.sign > 0, bad, good)
            grads = torch.autograd.grad((loss * weight).sum(), [seen[name] for name in names])
        for name, gradient in zip(names, grads):
            if not torch.isfinite(gradient).all():
                raise ActivationError(f"the gradient at {name!r} is NaN or infinite; use float32 or bfloat16")
        yield batch, [seen[name].detach() for name in names], list(grads)


@in_turn
def neuron_attribution(
    model: Model,
    pairs: CompletionPairs,
    means: Mapping[str, Float[Tensor, " d"]],
    *,
    positions: Positions = "prompt",
    reduction: Literal["sum", "mean"] = "sum",
    max_rows: int = 32,
    progress: bool | None = None,
) -> UnitScores:
    """Δ-attribution of every channel of all hook points in `means` at once: the gradient counterpart of CNA.

    `means` is {hook name: ā} (`mean_activations`, e.g. at `neuron_sites(model)`). One forward and one backward a
    batch give all layers; each unit's score is what `latent_attribution` of the `identity` of its hook point gives.
    """
    if not means:
        raise InputError("means of no hook points; give mean_activations(model, prompts, neuron_sites(model))")
    for site, mean in means.items():
        _check_choices(positions, reduction, mean, sites.width(model, site))
    total = {site: torch.zeros(len(mean), dtype=torch.float64) for site, mean in means.items()}
    for batch, activations, grads in gradients(
        model, list(means), pairs, reduction=reduction, max_rows=max_rows, progress=progress
    ):
        where = batch.where(positions)
        weight = (where / where.sum(1, keepdim=True) / len(pairs))[..., None]
        for site, activation, gradient in zip(means, activations, grads):
            centred = activation.float() - means[site].to(activation.device).float()
            total[site] -= (gradient.float() * centred * weight.to(centred)).sum((0, 1)).double().cpu()
    info = sites.provenance_of(model, positions=positions, reduction=reduction, n_pairs=len(pairs))
    return UnitScores({site: value.float() for site, value in total.items()}, "delta attribution", info)


@in_turn
def mean_activation(
    model: Model, prompts: PromptSet, hook_name: str, *, template: str | Template = "auto", max_rows: int = 64
) -> Float[Tensor, " d"]:
    """ā: the mean activation over all tokens of reference prompts at a hook point, float32 on the CPU."""
    return mean_activations(model, prompts, [hook_name], template=template, max_rows=max_rows)[hook_name]


@in_turn
@torch.no_grad()
def mean_activations(
    model: Model, prompts: PromptSet, names: Sequence[str], *, template: str | Template = "auto", max_rows: int = 64
) -> dict[str, Float[Tensor, " d"]]:
    """{hook name: mean activation over all tokens of reference prompts}, in one streamed pass."""
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    total = {name: torch.zeros(sites.channels(model, name), dtype=torch.float64) for name in names}

    def update(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        lengths = torch.tensor([len(ids[row]) for row in rows], dtype=torch.float64)
        total[site].add_((activation.double().cpu() * lengths[:, None]).sum(0))

    capture.stream(model, ids, list(names), update, positions="mean", max_rows=max_rows, join_heads=True)
    n = sum(len(row) for row in ids)
    return {name: (value / n).float() for name, value in total.items()}


@in_turn
@torch.no_grad()
def exact_removal(
    model: Model,
    dictionary: Dictionary,
    latents: Circuit | Sequence[int],
    pairs: CompletionPairs,
    mean: Float[Tensor, " d"],
    *,
    positions: Positions = "prompt",
    reduction: Literal["sum", "mean"] = "sum",
    max_rows: int = 64,
    progress: bool | None = None,
) -> Float[Tensor, " n"]:
    """The oracle: how much L(bad) − L(good) really rises when one latent's direction is moved to its mean.

    At the chosen positions a → a − ((a − ā)·d_i) d_i where the latents write, a forward pass for every latent, pair and
    completion. Returns a number for each latent, in the order given (a circuit's: ascending index), averaged over pairs
    and, as the attribution it is compared with, divided by the number of chosen positions of each row.
    """
    _check(dictionary, model, positions, reduction, mean)
    if isinstance(latents, Circuit) and dictionary.site not in latents.units:
        raise SiteError(
            f"circuit {latents.name!r} has no latents at {dictionary.site!r}; it has {listed(latents.units)}"
        )
    chosen = dictionary.check_latents(
        latents.units[dictionary.site][0].tolist() if isinstance(latents, Circuit) else latents
    )
    device = tokens.device_of(model)
    unit = dictionary.unit_decoder().to(device)[chosen]
    rises = torch.zeros(len(chosen), dtype=torch.float64)
    rows = max(1, max_rows // 4)
    for batch in with_progress(list(pair_batches(model, pairs, rows)), "removing latents", shown=progress):
        where = batch.where(positions)
        weight = (batch.sign / where.sum(1) / len(pairs)).cpu().double()
        base = _loss(model, batch, reduction, [])
        at_once = max(1, max_rows // len(batch.pairs))
        for start in range(0, len(chosen), at_once):
            part = unit[start : start + at_once]
            repeated = _repeated(batch, len(part))
            directions = part.repeat_interleave(len(batch.pairs), 0)

            remove = partial(_remove, directions=directions, mean=mean, where=where.repeat(len(part), 1))
            loss = _loss(model, repeated, reduction, [(dictionary.write_name, remove)])
            rise = (loss.reshape(len(part), -1) - base).cpu().double()
            rises[start : start + len(part)] += rise @ weight
    return rises.float()


def _remove(activation: Tensor, hook: Any = None, *, directions: Tensor, mean: Tensor, where: Tensor) -> Tensor:
    """Each row's component along its own direction moved to the mean, at the chosen positions."""
    a = activation.flatten(2)
    along = einsum(a - mean.to(a), directions.to(a), "b p d, b d -> b p") * where.to(a)
    return plus(activation, -along[..., None] * directions.to(a)[:, None])


def _repeated(batch: PairBatch, times: int) -> PairBatch:
    many = [
        t.repeat(times, *[1] * (t.ndim - 1))
        for t in (batch.sign, batch.ids, batch.mask, batch.n_completion, batch.n_prompt)
    ]
    return PairBatch(batch.pairs * times, *many)


def _loss(model: Model, batch: PairBatch, reduction: str, hooks: list) -> Float[Tensor, " rows"]:
    with with_hooks(model, hooks):
        return completion_loss(model, batch, capture.final_residual(model, batch.ids, batch.mask), reduction)


def _check(dictionary: Dictionary, model: Model, positions: str, reduction: str, mean: Tensor) -> None:
    dictionary.check(model)
    _check_choices(positions, reduction, mean, dictionary.write_width)


def _check_choices(positions: str, reduction: str, mean: Tensor, width: int) -> None:
    if positions not in _POSITIONS or reduction not in _REDUCTIONS:
        raise InputError(
            f"positions={positions!r} and reduction={reduction!r}; choose from {_POSITIONS} and {_REDUCTIONS}"
        )
    if mean.shape != (width,) or not torch.isfinite(mean).all():
        raise InputError(f"mean has shape {tuple(mean.shape)}; give {width} finite numbers (mean_activation)")


check_arguments(__name__)

"""Attribution patching over latents: autoencoders spliced into the forward pass, with their error terms.

The second form of latent attribution, to hold the first against: with z the latents at a hook point and
x = decode(z) + error, the effect of latent i on the metric m = L(bad) − L(good) is, to first order,

    (z_i − z̄_i) · ∂m/∂z_i                                  ("patching", Syed et al. 2023, 2310.10348)
    (z_i − z̄_i) · mean over k of ∂m/∂z_i at z̄ + α_k(z − z̄)   ("integrated gradients", midpoint rule, α_k = (k − ½)/n)

Two splices, each under its own name. `errors="live"`: a later autoencoder's error is computed from what reaches
it, so gradients are those of the real model. `errors="frozen"`: later errors are held fixed and gradients pass
through the reconstructions only (Marks et al. 2024, 2403.19647, appendix A.3), a different quantity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..models import capture, sites, tokens
from ..models.dictionaries import Dictionary, latent_means, plus
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.with_hooks import with_hooks
from ..progress import with_progress
from ..prompts import PromptSet, encode
from ..prompts.chat import Template
from ..prompts.pairs import CompletionPairs
from ..units import UnitScores
from .gradient import PairBatch, completion_loss, pair_batches


@in_turn
def spliced_attribution(
    model: Model,
    dictionaries: Sequence[Dictionary],
    pairs: CompletionPairs,
    means: Mapping[str, Float[Tensor, " n"]] | None = None,
    *,
    errors: Literal["live", "frozen"] = "live",
    steps: int = 0,
    positions: Literal["prompt", "completion", "all"] = "prompt",
    reduction: Literal["sum", "mean"] = "sum",
    max_rows: int = 16,
    progress: bool | None = None,
) -> tuple[UnitScores, dict[str, float]]:
    """Effect of every latent of one or several autoencoders on L(bad) − L(good) (nats), and of their errors.

    `means` is {latent site: z̄} (`mean_latents`; zero where missing). `steps` = 0 takes the gradient at the
    latents themselves, more integrate it from z̄ (one autoencoder only): then the effects of the latents and of
    the error add up to the metric's difference between the model and the model with z̄ and no error at the
    chosen positions. Effects are summed over the chosen positions, divided by their number, and averaged over
    pairs. The signs are the other way round than a removal's: positive means that the latent raises the metric,
    so for L(bad) − L(good) the scores returned are negated and positive means support of the bad completion.
    A transcoder is spliced in where it writes: what the MLP gives is its reconstruction from what the MLP reads, and an
    error. Returns the scores and {hook name written: effect of the error term} in the same units.
    """
    if not dictionaries or (steps and len(dictionaries) > 1) or errors not in ("live", "frozen"):
        raise InputError(
            f"{len(dictionaries)} dictionaries, steps={steps}, errors={errors!r}; give a dictionary or more, only one "
            "with steps, and errors 'live' or 'frozen'"
        )
    for dictionary in dictionaries:
        dictionary.check(model)
    totals = {d.site: torch.zeros(d.n_latents, dtype=torch.float64) for d in dictionaries}
    rest = {d.write_name: 0.0 for d in dictionaries}
    zero = {d.site: torch.zeros(d.n_latents) for d in dictionaries}
    reference = {**zero, **(means or {})}
    for batch in with_progress(list(pair_batches(model, pairs, max_rows)), "attributing", shown=progress):
        weight = batch.where(positions)
        weight = weight / weight.sum(1, keepdim=True) / len(pairs)
        for alpha in [1.0] if steps == 0 else [(k + 0.5) / steps for k in range(steps)]:
            splice = _Splice(dictionaries, reference, errors, alpha, batch.where(positions))
            latents, error_terms = splice.effects(model, batch, weight / max(1, steps), reduction)
            for dictionary in dictionaries:
                totals[dictionary.site] -= latents[dictionary.site]
                rest[dictionary.write_name] -= error_terms[dictionary.site]
    rule = f"{'integrated gradients' if steps else 'patching'} (errors {errors})"
    info = sites.provenance_of(
        model,
        positions=positions,
        reduction=reduction,
        steps=steps,
        errors=errors,
        n_pairs=len(pairs),
        dictionaries=[d.name for d in dictionaries],
    )
    return UnitScores({site: total.float() for site, total in totals.items()}, rule, info), rest


class _Splice:
    """Hooks that put autoencoders into a forward pass and keep latents and errors as leaves of the graph."""

    def __init__(
        self,
        dictionaries: Sequence[Dictionary],
        reference: Mapping[str, Tensor],
        errors: str,
        alpha: float,
        where: Tensor,
    ) -> None:
        self.dictionaries = {d.site: d for d in dictionaries}
        self.read: dict[str, Tensor] = {}
        self.reference, self.mode, self.alpha, self.where = reference, errors, alpha, where[..., None]
        self.latents: dict[str, Tensor] = {}
        self.errors: dict[str, Tensor] = {}
        self.moved: dict[str, Tensor] = {}
        self.error_moved: dict[str, Tensor] = {}

    def effects(
        self, model: Model, batch: PairBatch, weight: Float[Tensor, "rows pos"], reduction: str
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """{latent site: effect of each latent} and {latent site: effect of the error} on L(bad) − L(good).

        To first order, summed over positions with a weight each.
        """
        hooks: list[tuple[str, Any]] = []
        for site, dictionary in self.dictionaries.items():
            if dictionary.is_transcoder:
                hooks.append((dictionary.hook_name, partial(self._look, site=site)))
            hooks.append((dictionary.write_name, partial(self, site=site)))
        with torch.enable_grad(), with_hooks(model, hooks):
            residual = capture.final_residual(model, batch.ids, batch.mask)
            metric = (completion_loss(model, batch, residual, reduction) * batch.sign).sum()
            leaves = [*self.latents.values(), *self.errors.values()]
            gradients = torch.autograd.grad(metric, leaves)
        moves = [*self.moved.values(), *self.error_moved.values()]
        parts = [g * moved * weight.to(g.device)[..., None] for g, moved in zip(gradients, moves)]
        n = len(self.latents)
        latents = {name: part.sum((0, 1)).double().cpu() for name, part in zip(self.latents, parts[:n])}
        return latents, {name: float(part.double().sum()) for name, part in zip(self.errors, parts[n:])}

    def _look(self, activation: Tensor, hook: Any = None, *, site: str) -> Tensor:
        self.read[site] = activation
        return activation

    def __call__(self, activation: Tensor, hook: Any = None, *, site: str) -> Tensor:
        dictionary = self.dictionaries[site]
        read = self.read.pop(site) if dictionary.is_transcoder else activation
        # What comes before the first splice is left out of the graph, also where parameters require grad.
        later = bool(self.latents)
        with torch.no_grad():
            z = dictionary.encode(read)
            error = activation.flatten(2) - dictionary.reconstruct(read).to(activation.device)
            mean, where = self.reference[site].to(z), self.where > 0
            start = torch.where(where.to(z.device), mean, z)
            blank = torch.where(where.to(error.device), torch.zeros_like(error), error)
        self.moved[site], self.error_moved[site] = z - start, error - blank
        if self.mode == "frozen" and later:
            # Later autoencoders: what reaches them passes through their latents; their error is held fixed.
            self.latents[site] = latents = dictionary.encode(read)
            self.errors[site] = error.detach().requires_grad_(True)
            out = dictionary.decode(latents, read).to(activation.device) + self.errors[site]
            return out.reshape(activation.shape).to(activation.dtype)
        at_z = z if self.alpha == 1 else start + self.alpha * (z - start)
        at_error = error if self.alpha == 1 else blank + self.alpha * (error - blank)
        self.latents[site] = at_z.detach().clone().requires_grad_(True)
        self.errors[site] = at_error.detach().clone().requires_grad_(True)
        moved = dictionary.added(self.latents[site] - z, read.detach()).to(activation.device)
        change = moved + (self.errors[site] - error)
        # Live errors keep the identity path: the real model's gradient reaches what lies before this hook point.
        return plus(activation if later else activation.detach(), change)


@in_turn
@torch.no_grad()
def mean_latents(
    model: Model, dictionary: Dictionary, prompts: PromptSet, *, template: str | Template = "auto", max_rows: int = 32
) -> dict[str, Float[Tensor, " n"]]:
    """z̄: {latent site: mean latent activation over all tokens of reference prompts}, streamed, float32."""
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    return {dictionary.site: latent_means(model, dictionary, ids, by="token", max_rows=max_rows)}


check_arguments(__name__)

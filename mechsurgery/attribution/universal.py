"""Universal neurons: those that fire on whatever the prompt is, and so carry no behaviour.

Contrastive Pair Search (2026): in the top 0.1 % of activations on at least 80 % of diverse prompts.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..models import capture, sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import PromptSet
from ..prompts.chat import Template, encode
from ..units import Circuit


@in_turn
def universal_neurons(
    model: Model,
    prompts: PromptSet,
    *,
    fraction: float = 0.001,
    share: float = 0.8,
    by: Literal["abs", "positive"] = "abs",
    per: Literal["model", "layer"] = "model",
    layers: list[int] | None = None,
    template: str | Template = "auto",
    max_rows: int = 64,
) -> Circuit:
    """Neurons among the top `fraction` of last-token activations on at least `share` of the prompts.

    `by="abs"` ranks by magnitude, `"positive"` by value; `per` ranks over the whole model or in each layer.
    A unit's score in the circuit is the share of prompts on which it was in the top. One batched pass; only
    counts are kept.
    """
    if not 0 < fraction <= 1 or not 0 < share <= 1:
        raise InputError(f"fraction={fraction} and share={share} must both lie in (0, 1]; the paper has 0.001, 0.8")
    names = sites.neuron_sites(model, layers)
    widths = {site: sites.width(model, site) for site in names}
    counts = {site: torch.zeros(width, dtype=torch.long) for site, width in widths.items()}
    pending: dict[str, Tensor] = {}

    def update(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        # All layers are ranked together, on one device.
        together = next(iter(pending.values()), activation).device
        pending[site] = (activation.abs() if by == "abs" else activation).float().to(together)
        if len(pending) < len(names):
            return
        for group in [[site] for site in names] if per == "layer" else [names]:
            hits = _hits(torch.cat([pending[site] for site in group], dim=1), fraction)
            for site, part in zip(group, hits.split([widths[site] for site in group])):
                counts[site] += part
        pending.clear()

    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    capture.stream(model, ids, names, update, max_rows=max_rows)
    units = {}
    for site, count in counts.items():
        seen = count.double() / len(prompts)
        index = (seen >= share).nonzero().squeeze(1)
        if len(index):
            units[site] = (index, seen[index].float())
    settings = {"fraction": fraction, "share": share, "by": by, "per": per}
    info = sites.provenance_of(model, prompts=prompts.digest, n=len(prompts), universal=settings)
    return Circuit(units, widths, "universal neurons", info)


def _hits(values: Float[Tensor, "batch d"], fraction: float) -> Int[Tensor, " d"]:
    """In how many rows each column is among the top `fraction`."""
    top = values.topk(max(1, round(fraction * values.shape[1])), dim=1).indices.flatten()
    return top.bincount(minlength=values.shape[1]).cpu()


check_arguments(__name__)

"""In which layers a contrast's circuit lies, with an interval over prompts, beside what layer sizes alone would give.

Contrastive Pair Search (2026), Appendix C, shows for several tasks that circuits sit in late layers, in base and
instruct models alike. A share of a circuit is no rate over independent prompts, so its interval comes from drawing
whole groups of prompts with replacement and locating again from each draw. One streamed pass adds up activations by
group; every draw is made of those sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..models import capture, sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..names import layer_of
from ..prompts import ContrastSet, PromptSet
from ..prompts.chat import Template, encode
from .controls import draw_groups

#: How many draws are located at once, so that memory is this many times the number of neurons.
_BLOCK = 8


@dataclass(frozen=True, eq=False)
class Places:
    """The share of a circuit of `k` neurons in every layer: of all prompts, and of each draw of groups of prompts.

    `uniform` is each layer's share of all neurons, what a random circuit has.
    """

    k: int
    n_positive: int
    n_negative: int
    shares: Float[np.ndarray, " layers"]
    draws: Float[np.ndarray, "draws layers"]
    uniform: Float[np.ndarray, " layers"]

    def interval(self) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
        """95 % interval of each layer's share."""
        low, high = np.percentile(self.draws, [2.5, 97.5], axis=0)
        return low, high

    def late(self, part: float = 1 / 3) -> dict[str, float]:
        """The share in the last `part` of layers (at least one): value, low, high, and what a random circuit has."""
        chosen = self.last(part)
        low, high = np.percentile(self.draws[:, chosen].sum(1), [2.5, 97.5])
        values = {"value": self.shares[chosen].sum(), "low": low, "high": high, "uniform": self.uniform[chosen].sum()}
        return {name: float(value) for name, value in values.items()}

    def last(self, part: float = 1 / 3) -> slice:
        """The last `part` of layers, at least one."""
        return slice(len(self.shares) - max(1, round(part * len(self.shares))), None)

    def less(self, other: Places, part: float = 1 / 3) -> tuple[float, float, float]:
        """How much more of this circuit than of another's is in the last layers: difference, low, high.

        Both are drawn from the same groups of prompts, draw by draw. Raises `InputError` for other numbers of draws.
        """
        if len(self.draws) != len(other.draws):
            raise InputError(f"{len(self.draws)} draws against {len(other.draws)}; give both the same number and seed")
        one, two = (places.draws[:, places.last(part)].sum(1) for places in (self, other))
        low, high = np.percentile(one - two, [2.5, 97.5])
        return self.late(part)["value"] - other.late(part)["value"], float(low), float(high)


@in_turn
def places(
    model: Model,
    contrast: ContrastSet,
    *,
    k: int,
    resamples: int = 200,
    seed: int = 0,
    template: str | Template = "auto",
    max_rows: int = 64,
) -> Places:
    """Where the `k` neurons with the largest |mean difference| of last-token activations lie.

    Groups of prompts are drawn `resamples` times, a group on both sides as one. Memory is groups × neurons numbers.
    Raises `InputError` for a `k` that is no number of neurons, or fewer than 2 draws.
    """
    names = sites.neuron_sites(model)
    widths = [sites.width(model, site) for site in names]
    if not 1 <= k <= sum(widths) or resamples < 2:
        raise InputError(f"k={k} must be from 1 to {sum(widths)} neurons, and resamples={resamples} at least 2")
    sides = [_sums(model, side, names, template, max_rows) for side in (contrast.positive, contrast.negative)]
    weights = draw_groups(contrast, resamples, seed)
    layers, layer = np.unique([layer_of(site) for site in names], return_inverse=True)
    of_neuron = torch.repeat_interleave(torch.as_tensor(layer), torch.tensor(widths))
    ones = {group: np.ones(1) for group in weights}
    (shares,) = _shares(sides, ones, k, of_neuron, len(layers))
    draws = [
        _shares(sides, {g: w[start : start + _BLOCK] for g, w in weights.items()}, k, of_neuron, len(layers))
        for start in range(0, resamples, _BLOCK)
    ]
    uniform = np.bincount(layer, widths) / sum(widths)
    return Places(k, len(contrast.positive), len(contrast.negative), shares, np.concatenate(draws), uniform)


#: Groups, the sum of activations of each `[groups, neurons]`, and how many prompts it has `[groups]`.
Side = tuple[list[str], Tensor, Tensor]


def _sums(model: Model, prompts: PromptSet, names: list[str], template: str | Template, max_rows: int) -> Side:
    """The sums of one side's groups."""
    groups = prompts.groups
    row_of = torch.tensor([groups.index(prompt.group) for prompt in prompts])
    sums: dict[str, Tensor] = {}

    def update(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        held = sums.setdefault(site, torch.zeros(len(groups), activation.shape[1]))
        held.index_add_(0, row_of[rows], activation.float().cpu())

    capture.stream(
        model, encode(tokens.tokenizer_of(model), prompts, template=template), names, update, max_rows=max_rows
    )
    return groups, torch.cat([sums[site] for site in names], 1), row_of.bincount(minlength=len(groups)).float()


def _shares(
    sides: list[Side], weights: dict[str, np.ndarray], k: int, of_neuron: Tensor, n_layers: int
) -> Float[np.ndarray, "draws layers"]:
    """The share of each draw's top `k` in every layer; `weights` says how often each draw takes each group."""
    means = []
    for groups, sums, counts in sides:
        taken = torch.tensor(np.stack([weights[group] for group in groups], 1), dtype=torch.float32)
        means.append(taken @ sums / (taken @ counts)[:, None])
    top = (means[0] - means[1]).abs().topk(k, dim=1).indices
    counted = torch.nn.functional.one_hot(of_neuron[top], n_layers).sum(1)
    return counted.double().numpy() / k


check_arguments(__name__)

"""Contrastive neuron attribution (CNA): which few units separate two sets of prompts.

"Targeted Neuron Modulation via Contrastive Pair Search" (2026). For every MLP neuron i, the score is

    δ_i = mean over positive prompts of a_i − mean over negative prompts of a_i

with a_i the activation at the last token of the prompt at `blocks.{l}.mlp.hook_post`, the input of the down
projection. The circuit is the 0.1 % of *all* MLP neurons with the largest |δ_i|, without universal neurons.

The same pass gives every other score here. Raw differences favour late layers, where activations are larger,
so the others divide by the spread of a neuron or weigh what it writes:

    difference              δ (published)
    effect_size             δ / pooled standard deviation (Cohen 1988)
    welch_t                 δ / √(s₊²/n₊ + s₋²/n₋) (Welch 1947)
    auroc                   Φ(δ / √(s₊² + s₋²)) − ½: AUROC of two normal distributions, centred at zero
    difference_write_norm   δ · ‖w_i‖, w_i the row of W_out that the neuron writes into the residual stream
    difference_alignment    δ · (w_i · u), u a unit direction in the residual stream
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .. import names
from ..checks import check_arguments
from ..directions import Direction
from ..errors import InputError, MismatchError, listed
from ..models import sites
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.workers import Workers
from ..names import layer_of
from ..prompts import ContrastSet, PromptSet, Template
from ..units import Circuit, UnitScores
from .statistics import ContrastStatistics, contrast_statistics
from .universal import universal_neurons

Rule = Literal["difference", "effect_size", "welch_t", "auroc", "difference_write_norm", "difference_alignment"]
RULES: tuple[Rule, ...] = get_args(Rule)
_OVER_SPREAD = ("effect_size", "welch_t", "auroc")
_TINY = 1e-12


def score(
    statistics: ContrastStatistics,
    rule: str = "difference",
    *,
    model: Model | None = None,
    direction: Direction | Float[Tensor, " d_model"] | None = None,
    min_routed: int = 2,
) -> UnitScores:
    """Score every measured unit by a `rule` (see the module's docstring).

    `difference_write_norm` and `difference_alignment` need the `model` for its write weights, and the latter a
    `direction`: one vector for all layers, or a `Direction` with one at `blocks.{l}.hook_resid_post`.

    Neurons of a routed expert are compared over the prompts that reached it (`to_frame` says how many of each side).
    An expert that fewer than `min_routed` prompts of a side reached has score 0, and `top` does not choose from it.
    Raises `InputError` for an unknown rule or a missing argument, `MismatchError` for another model's
    statistics.
    """
    if rule not in RULES:
        raise InputError(f"rule={rule!r} is no score; choose one of {listed(RULES)}")
    if rule.startswith("difference_") and model is None:
        raise InputError(f"rule={rule!r} weighs what neurons write; pass model=, the model of these statistics")
    if rule == "difference_alignment" and direction is None:
        raise InputError("rule='difference_alignment' needs direction=; mean_difference_direction makes one")
    scores = {}
    routed, unscored = statistics.routed, []
    for site in statistics.sites:
        if names.expert_of(site) is not None and min(routed[site]) < max(2 if rule in _OVER_SPREAD else 1, min_routed):
            scores[site] = torch.zeros(statistics.positive.mean[site].numel())
            unscored.append(site)
            continue
        value = _statistic(statistics, site, rule)
        if rule.startswith("difference_") and model is not None:
            value = value * _write_factor(model, site, value, direction if rule == "difference_alignment" else None)
        scores[site] = value.float().cpu()
    if len(unscored) == len(scores):
        n = f"{min_routed} prompts of each side reached"
        raise InputError(f"none of these experts was one that {n}; give more prompts, or a smaller min_routed")
    counts = {"routed": routed, "unscored": unscored} if routed else {}
    return UnitScores(scores, rule, {**statistics.info, **counts})


def _statistic(statistics: ContrastStatistics, site: str, rule: str) -> Float[Tensor, " d"]:
    delta = statistics.difference(site)
    if rule not in _OVER_SPREAD:
        return delta
    n1, n0 = statistics.positive.n[site], statistics.negative.n[site]
    if min(n1, n0) < 2:
        raise InputError(f"rule={rule!r} needs at least 2 prompts a side for a spread; there are {n1} and {n0}")
    v1, v0 = statistics.positive.variance(site), statistics.negative.variance(site)
    if rule == "effect_size":
        spread = (((n1 - 1) * v1 + (n0 - 1) * v0) / (n1 + n0 - 2)).sqrt()
    elif rule == "welch_t":
        spread = (v1 / n1 + v0 / n0).sqrt()
    else:
        spread = (v1 + v0).sqrt()
    # A unit that never moves has no evidence for anything: its score is 0, not 0/0.
    ratio = torch.where(spread > _TINY, delta / spread.clamp_min(_TINY), torch.zeros_like(delta))
    return torch.special.ndtr(ratio) - 0.5 if rule == "auroc" else ratio


def _write_factor(model: Model, site: str, value: Tensor, direction: Direction | Tensor | None) -> Tensor:
    write = sites.write_weights(model, site).detach()
    if write.shape[0] != value.numel():
        raise MismatchError(
            f"the statistics have {value.numel()} units at {site!r}, the model writes {write.shape[0]}; "
            "pass the model that the statistics were measured on"
        )
    write = write.to(value)
    if direction is None:
        return write.norm(dim=1)
    vector = direction.at(names.residual(layer_of(site))) if isinstance(direction, Direction) else direction
    vector = vector.to(value)
    return write @ (vector / vector.norm().clamp_min(_TINY))


@in_turn
def mean_difference_direction(
    model: Model, contrast: ContrastSet, *, layers: list[int] | None = None, template: str | Template = "auto"
) -> Direction:
    """Mean last-token difference of the residual stream after each layer: the CAA vector.

    "Steering Llama 2 via Contrastive Activation Addition" (2312.06681), equation 1, on prompts instead of
    answer letters. Returns {`blocks.{l}.hook_resid_post`: [d_model]}.
    """
    statistics = contrast_statistics(model, contrast, at=sites.residual_sites(model, layers), template=template)
    return difference_direction(statistics, contrast.name)


def difference_direction(statistics: ContrastStatistics, name: str) -> Direction:
    """The difference of both sides' means at every hook point that was measured, for a contrast called `name`."""
    vectors = {site: statistics.difference(site).float().cpu() for site in statistics.sites}
    return Direction(vectors, f"mean difference of {name}", statistics.info)


@in_turn
def locate(
    model: Model,
    contrast: ContrastSet,
    *,
    rule: str = "difference",
    direction: Direction | None = None,
    universal: PromptSet | Circuit | None = None,
    layers: list[int] | None = None,
    template: str | Template = "auto",
    max_rows: int = 64,
    min_routed: int = 2,
    workers: Workers | None = None,
    progress: bool | None = None,
    **top: Any,
) -> Circuit:
    """Contrastive neuron attribution from prompts to circuit, by default as published.

    In a mixture of experts the neurons are those of every expert; see `score` for `min_routed`.
    `top` goes to `UnitScores.top`: `fraction` (default 0.001) or `k`, `by`, `per`, `skip_layers`, `name`.
    `universal` is a circuit of neurons to leave out, or diverse prompts to find them on; they are removed
    *after* the choice, as in the paper's text, so the circuit may be smaller than the budget (pass
    `exclude=` for a full budget). `workers` (`adapters.many.Workers`) run the contrast's batches.
    """
    statistics = contrast_statistics(
        model, contrast, layers=layers, template=template, max_rows=max_rows, workers=workers, progress=progress
    )
    if "fraction" not in top and "k" not in top:
        top["fraction"] = 0.001
    if rule == "difference_alignment" and direction is None:
        direction = mean_difference_direction(model, contrast, layers=layers, template=template)
    circuit = score(statistics, rule, model=model, direction=direction, min_routed=min_routed).top(**top)
    if universal is None:
        return circuit
    if isinstance(universal, PromptSet):
        universal = universal_neurons(model, universal, template=template, max_rows=max_rows)
    return (circuit - universal).named(circuit.name)


check_arguments(__name__)

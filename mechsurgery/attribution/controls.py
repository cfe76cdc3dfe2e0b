"""What a circuit is held against: matched random circuits, a known truth, and itself on other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..models import capture, sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..names import is_experts
from ..prompts import ContrastSet
from ..prompts.chat import Template, encode
from ..units import Circuit
from .contrast import contrast_statistics, mean_difference_direction, score
from .statistics import ContrastStatistics, Moments


def random_circuits(circuit: Circuit, n: int = 5, *, seed: int = 0) -> list[Circuit]:
    """`n` random circuits with as many neurons in each layer as `circuit`, none of them its own."""
    if n < 1:
        raise InputError(f"n={n} random circuits; give at least 1, and 5 or more for a control worth showing")
    return [circuit.random_like(seed + i) for i in range(n)]


def recovery(found: Circuit, truth: Circuit) -> dict[str, float | int]:
    """Precision, recall and F1 of a located circuit against the recorded one."""
    shared = len(found & truth)
    precision = shared / len(found) if len(found) else 0.0
    recall = shared / len(truth) if len(truth) else 0.0
    f1 = 2 * shared / (len(found) + len(truth)) if shared else 0.0
    return {"k": len(found), "shared": shared, "precision": precision, "recall": recall, "f1": f1}


@in_turn
def pair_bootstrap(
    model: Model,
    contrast: ContrastSet,
    *,
    rule: str = "difference",
    resamples: int = 100,
    seed: int = 0,
    template: str | Template = "auto",
    max_rows: int = 64,
    **top: Any,
) -> dict[str, Any]:
    """How stable a circuit is when the prompts are resampled.

    Groups of prompts are drawn with replacement (a group on both sides is a pair and is drawn as one), the
    circuit is located again from each draw, and compared with the circuit of all prompts. One forward pass:
    the hook adds every draw's weighted sums, so memory is `resamples` × neurons × 4 sums, whatever the number
    of prompts.

    Returns `circuit`; `jaccard` (mean), `low`, `high` (2.5 and 97.5 percentiles over draws), `n` draws,
    `draws` (each draw's Jaccard) and `stability`, a pandas table of the share of draws each unit was in.
    """
    if resamples < 2:
        raise InputError(f"resamples={resamples} gives no interval; use at least 2 (100 is the default)")
    if "fraction" not in top and "k" not in top:
        top["fraction"] = 0.001
    weights = _draw_weights(contrast, resamples, seed)
    names = sites.neuron_sites(model)
    full = contrast_statistics(model, contrast, template=template, max_rows=max_rows)
    direction = mean_difference_direction(model, contrast, template=template) if "alignment" in rule else None
    circuit = score(full, rule, model=model, direction=direction).top(**top)
    sums = [
        _weighted_sums(model, side, names, weight, full, template, max_rows)
        for side, weight in zip((contrast.positive, contrast.negative), weights)
    ]
    chosen: set[tuple[str, int]] = circuit.members()
    jaccards: list[float] = []
    hits = dict.fromkeys(chosen, 0)
    for draw in range(resamples):
        positive, negative = (_resampled(side, draw, names, full) for side in sums)
        resampled = ContrastStatistics(positive, negative, full.info)
        drawn = score(resampled, rule, model=model, direction=direction).top(**top).members()
        jaccards.append(len(chosen & drawn) / len(chosen | drawn))
        for unit in chosen & drawn:
            hits[unit] += 1
    stability = circuit.to_frame()
    stability["share"] = [hits[site, i] / resamples for site, i in zip(stability["site"], stability["neuron"])]
    low, high = np.percentile(jaccards, [2.5, 97.5])
    summary = {"jaccard": float(np.mean(jaccards)), "low": float(low), "high": float(high), "n": resamples}
    return {"circuit": circuit, **summary, "draws": jaccards, "stability": stability}


def _draw_weights(contrast: ContrastSet, resamples: int, seed: int) -> list[Float[Tensor, "resamples n"]]:
    """How often each draw takes each prompt of each side."""
    times = draw_groups(contrast, resamples, seed)
    sides = [[prompt.group for prompt in side] for side in (contrast.positive, contrast.negative)]
    return [torch.tensor(np.stack([times[g] for g in side], axis=1), dtype=torch.float32) for side in sides]


def draw_groups(contrast: ContrastSet, resamples: int, seed: int = 0) -> dict[str, Int[np.ndarray, " resamples"]]:
    """{group: how often each draw takes it}: groups are drawn with replacement, by the sides that they stand on."""
    generator = np.random.default_rng(seed)
    sides = [{prompt.group for prompt in side} for side in (contrast.positive, contrast.negative)]
    stands: dict[tuple[bool, bool], list[str]] = {}
    for group in sorted(sides[0] | sides[1]):
        stands.setdefault((group in sides[0], group in sides[1]), []).append(group)
    times: dict[str, np.ndarray] = {}
    for groups in stands.values():
        drawn = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples)
        times.update({group: drawn[:, i] for i, group in enumerate(groups)})
    return times


def _weighted_sums(
    model: Model,
    prompts: Any,
    names: Sequence[str],
    weights: Float[Tensor, "resamples n"],
    full: ContrastStatistics,
    template: str | Template,
    max_rows: int,
) -> dict[str, list[Tensor]]:
    """Per hook point the weighted sums of x − c, (x − c)² and 1, c the overall mean (so fp32 keeps its digits)."""
    experts = {site: sites.width(model, site) for site in names if is_experts(site)}
    sums = {site: [torch.zeros(len(weights), n) for n in (width, width, 1)] for site, width in experts.items()}

    def update(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        weight = weights[:, rows].to(activation.device)
        x = activation.float() - _centre(full, site).to(activation.device)
        parts = [weight @ x, weight @ x.square(), weight.sum(1, keepdim=True)]
        sums[site] = [held.to(part) + part for held, part in zip(sums[site], parts)] if site in sums else parts

    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    capture.stream(model, ids, names, update, max_rows=max_rows, reached_only=True)
    return sums


def _centre(full: ContrastStatistics, site: str) -> Tensor:
    return ((full.positive.mean[site] + full.negative.mean[site]) / 2).float()


def _resampled(sums: dict[str, list[Tensor]], draw: int, names: Sequence[str], full: ContrastStatistics) -> Moments:
    counts, mean, m2 = {}, {}, {}
    for site in names:
        total, square = (part[draw].double().cpu() for part in sums[site][:2])
        n = counts[site] = int(sums[site][2][draw])
        shifted = total / max(1, n)
        mean[site] = shifted + _centre(full, site).to(shifted)
        m2[site] = (square - n * shifted.square()).clamp_min(0)
    return Moments(counts, mean, m2)


check_arguments(__name__)

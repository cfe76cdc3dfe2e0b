"""Two models of one shape, such as a base and its fine-tune: the same discovery on both, side by side.

Contrastive Pair Search (2026) reads from this that instruct tuning repurposes structure the base model already has.
Overlap is set against chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, MismatchError
from ..models.protocol import Model
from ..prompts import ContrastSet
from ..prompts.chat import Template
from ..units import Circuit, UnitScores
from .contrast import mean_difference_direction, score
from .statistics import contrast_statistics


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores and circuits of two models under one rule, and how alike they are."""

    scores: dict[str, UnitScores]
    circuits: dict[str, Circuit]
    overlap: dict[str, float | int]

    @property
    def table(self) -> pd.DataFrame:
        """The overlap as a one-column table."""
        return pd.DataFrame({"value": self.overlap}).rename_axis("quantity").reset_index()


def compare(
    base: Model,
    instruct: Model,
    contrast: ContrastSet,
    *,
    rule: str = "difference",
    names: tuple[str, str] = ("base", "instruct"),
    template: str | Template = "auto",
    progress: bool | None = None,
    **top: Any,
) -> Comparison:
    """Locate with the same prompts, rule and budget on two models of one shape.

    `top` goes to `UnitScores.top` (default: 0.1 % of all MLP neurons by absolute score). Returns scores, circuits and
    their overlap: what `Circuit.overlap` gives, `p_value_within_layers` (see there), Spearman's rank correlation of all
    scores, and the share of each circuit in the last tenth of layers. Raises `MismatchError` where the models have
    different MLP shapes.
    """
    if "fraction" not in top and "k" not in top:
        top["fraction"] = 0.001
    if names[0] == names[1]:
        raise InputError(f"both models are called {names[0]!r}; give two names")
    scores = {name: _scores(model, contrast, rule, template, progress) for name, model in zip(names, (base, instruct))}
    return compared(scores, {name: scores[name].top(**top, name=name) for name in names})


def compared(scores: dict[str, UnitScores], circuits: dict[str, Circuit]) -> Comparison:
    """What `compare` says of scores and circuits of two models that are there already, by the same two names."""
    from scipy.stats import spearmanr

    names = tuple(scores)
    if len(names) != 2 or set(circuits) != set(names) or not all(len(one) for one in circuits.values()):
        raise InputError("give scores and circuits of two models, by the same two names, with at least one unit each")
    first, second = scores.values()
    if first.widths != second.widths:
        raise MismatchError(
            f"{names[0]} has {len(first):,} MLP neurons in {len(first.scores)} layers, {names[1]} has "
            f"{len(second):,} in {len(second.scores)}; compare a model with a fine-tune of itself"
        )
    overlap = circuits[names[0]].overlap(circuits[names[1]])
    overlap["p_value_within_layers"] = p_value_within_layers(*circuits.values())
    overlap["rank_correlation"] = float(spearmanr(first.to_frame()["score"], second.to_frame()["score"]).statistic)
    overlap |= {f"share_in_last_tenth_{name}": in_last_tenth(circuits[name])[0] / len(circuits[name]) for name in names}
    return Comparison(scores, circuits, overlap)


def _scores(
    model: Model, contrast: ContrastSet, rule: str, template: str | Template, progress: bool | None
) -> UnitScores:
    direction = mean_difference_direction(model, contrast, template=template) if "alignment" in rule else None
    statistics = contrast_statistics(model, contrast, template=template, progress=progress)
    return score(statistics, rule, model=model, direction=direction)


def in_last_tenth(circuit: Circuit) -> tuple[int, float]:
    """How many units of a circuit lie in the last tenth of layers (at least one layer), and that share of layers."""
    layers = circuit.per_layer()
    last = max(1, round(0.1 * len(layers)))
    return int(layers.nlargest(last, "layer")["n"].sum()), last / len(layers)


def p_value_within_layers(a: Circuit, b: Circuit) -> float:
    """One-sided p-value that two circuits share as many units as they do, by chance within each layer.

    The null hypothesis draws each circuit's units at random in the layers where they are, so that a common liking for
    some layers is no evidence: the sum of one hypergeometric count for each hook point, computed exactly.
    """
    from scipy.stats import hypergeom

    chance = np.ones(1)
    for site, (units, _) in a.units.items():
        if site in b.units:
            n, other = len(units), len(b.units[site][0])
            chance = np.convolve(chance, hypergeom(a.widths[site], n, other).pmf(np.arange(min(n, other) + 1)))
    return float(min(1.0, chance[len(a & b) :].sum()))


check_arguments(__name__)

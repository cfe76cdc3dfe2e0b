"""Base against instruct: the same discovery on both models, side by side.

Contrastive Pair Search (2026) reads from this that instruct tuning repurposes structure the base model
already has. Overlap is set against chance, and the instruct circuit can be tried on the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..attribution import contrast_statistics, mean_difference_direction, score
from ..errors import InputError, MismatchError
from ..prompts import ContrastSet
from ..units import Circuit, UnitScores


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores and circuits of two models under one rule, and how alike they are."""

    scores: dict[str, UnitScores]
    circuits: dict[str, Circuit]
    overlap: dict[str, float | int]
    layers: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """The overlap as a one-column table."""
        return pd.DataFrame({"value": self.overlap}).rename_axis("quantity").reset_index()


def compare(
    base: Any,
    instruct: Any,
    contrast: ContrastSet,
    *,
    rule: str = "difference",
    names: tuple[str, str] = ("base", "instruct"),
    template: str = "auto",
    **top: Any,
) -> Comparison:
    """Locate with the same prompts, rule and budget on two models of one shape.

    `top` goes to `UnitScores.top` (default: 0.1 % of all MLP neurons by absolute score). Returns scores,
    circuits, their overlap with what chance gives, Spearman's rank correlation of all scores, the share of
    each circuit in the last tenth of layers, and a table of shares by layer.
    Raises `MismatchError` where the models have different MLP shapes.
    """
    from scipy.stats import spearmanr

    if "fraction" not in top and "k" not in top:
        top["fraction"] = 0.001
    if names[0] == names[1]:
        raise InputError(f"both models are called {names[0]!r}; give two names")
    scores = {}
    for name, model in zip(names, (base, instruct)):
        direction = mean_difference_direction(model, contrast, template=template) if "alignment" in rule else None
        statistics = contrast_statistics(model, contrast, template=template)
        scores[name] = score(statistics, rule, model=model, direction=direction)
    first, second = (scores[name] for name in names)
    if first.widths != second.widths:
        raise MismatchError(
            f"{names[0]} has {len(first):,} MLP neurons in {len(first.scores)} layers, {names[1]} has "
            f"{len(second):,} in {len(second.scores)}; compare a model with a fine-tune of itself"
        )
    circuits = {name: scores[name].top(**top, name=name) for name in names}
    overlap = circuits[names[0]].overlap(circuits[names[1]])
    overlap["rank_correlation"] = float(spearmanr(first.to_frame()["score"], second.to_frame()["score"]).statistic)
    n_layers = len(first.scores)
    for name in names:
        late = circuits[name].per_layer()
        last = max(1, round(0.1 * n_layers))
        overlap[f"share_in_last_tenth_{name}"] = float(late.nlargest(last, "layer")["share"].sum())
    layers = pd.concat([circuits[name].per_layer().assign(model=name) for name in names], ignore_index=True)
    return Comparison(scores, circuits, overlap, layers)

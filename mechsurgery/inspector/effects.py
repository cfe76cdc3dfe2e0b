"""What scaling each unit alone does to a behaviour's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..attribution import mean_difference_direction, objectives
from ..attribution.causal import exact_effects
from ..attribution.gates import Units
from ..attribution.objectives import Objective
from ..checks import check_arguments
from ..errors import PromptError
from ..models import Model, sites
from ..models.tokens import device_of
from ..prompts import ContrastSet
from ..prompts.chat import Template
from .coordinates import Unit, circuit_of

#: The multipliers of a dose–response, besides 1.
DOSES = (-1.0, 0.0, 0.5, 1.5, 2.0, 3.0)
_WORDS = {"first tokens": "log-odds that the answer begins as on the positive side (nats)"}


def usual_objective(
    model: Model, contrast: ContrastSet, *, template: str | Template = "auto", max_rows: int = 64
) -> Objective:
    """How much more probable an answer is that begins as those to positive prompts do (`from_first_tokens`).

    Where answers to both sides begin alike, how far the last token's residual stream points along the mean difference
    of both sides after the last layer.
    """
    how: dict[str, Any] = {"template": template}
    try:
        return objectives.from_first_tokens(model, contrast, max_rows=max_rows, **how)
    except PromptError:
        direction = mean_difference_direction(model, contrast, layers=[model.cfg.n_layers - 1], **how)
        return objectives.from_direction(direction, model, contrast.positive, **how)


def few_rows(objective: Objective, n: int) -> Objective:
    """The objective on at most `n` of its rows, spread evenly."""
    task = objective.explain
    step = -(-len(task) // n)
    return replace(objective, explain=task.take(list(range(0, len(task), step))))


def affordable_rows(model: Model, objective: Objective, n_units: int) -> int:
    """Rows on which ablating and doubling each of so many units takes about ten seconds: 16 at most, 0 for none.

    A forward pass of a token costs 2 operations a weight; a CPU does about 10¹¹ a second, a GPU 10¹³.
    """
    speed = 1e11 if device_of(model).type == "cpu" else 1e13
    ids = objective.explain.ids
    n_tokens = sum(map(len, ids)) / len(ids)
    weights = sum(weight.size for weight in sites.weights(model))
    one_row = 2 * n_units * n_tokens * 2 * weights / speed
    # Two rows are worth a minute; less than that is left to the pages, which measure one unit.
    return min(16, int(10 / one_row)) if 10 / one_row >= 2 else 2 * (2 * one_row <= 60)


class Effects:
    """The mean of an objective's number on at most `rows` of its rows, spread evenly, while units are scaled alone."""

    def __init__(self, model: Model, objective: Objective, units: Units, *, rows: int, max_rows: int) -> None:
        self.model, self.units, self.max_rows = model, units, max_rows
        self.objective = few_rows(objective, rows)
        self.baseline = float(objectives.value_of(model, self.objective.explain, max_rows=max_rows).mean())
        self._known: dict[Unit, dict[float, float]] = {}

    @property
    def name(self) -> str:
        """The objective's number in words."""
        return _WORDS.get(self.objective.name, self.objective.name)

    def measure(self, units: Sequence[Unit], doses: Sequence[float] = DOSES) -> None:
        """Measure what is not known yet of units at multipliers; all units share batches."""
        for m in doses:
            lacking = [u for u in units if u.site in self.units.widths and m not in self._known.get(u, {})]
            if not lacking:
                continue
            circuit = circuit_of(lacking, self.units.widths, name="looked at")
            found = exact_effects(self.model, self.objective, circuit, self.units, m=m, max_rows=4 * self.max_rows)
            for unit in lacking:
                self._known.setdefault(unit, {1.0: self.baseline})[m] = self.baseline - found.score_of(*unit.coordinate)

    def of(self, unit: Unit, doses: Sequence[float] = DOSES) -> pd.DataFrame:
        """Columns m and value of one unit, m = 1 among them; empty for a unit that cannot be scaled here."""
        self.measure([unit], doses)
        known = self._known.get(unit, {})
        rows = [(m, known[m]) for m in sorted({*doses, 1.0} & known.keys())]
        return pd.DataFrame(rows, columns=["m", "value"])

    def change(self, unit: Unit, m: float) -> float:
        """How much the number changes where a unit alone is multiplied by `m`; NaN where it is not known."""
        return self._known.get(unit, {}).get(m, float("nan")) - self.baseline


check_arguments(__name__)

"""Every localiser in one interface: a function of a problem that gives scores, by name.

A localiser of your own is one function, `LOCALISERS["mine"] = Localiser(function, "positive")`: whatever compares
localisers (`mechsurgery study localisers`) then compares it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..checks import check_arguments
from ..deltas import difference, neuron_norms
from ..directions import Direction
from ..errors import InputError
from ..models import sites
from ..models.protocol import Model
from ..prompts import ContrastSet
from ..prompts.chat import Template
from ..units import Sign, UnitScores
from .causal import Cost, exact_effects, gate_gradient, greedy
from .contrast import mean_difference_direction, score
from .gates import Units
from .objectives import Objective
from .statistics import ContrastStatistics, contrast_statistics
from .trained import GateRecipe, trained_gates

#: Rows on which every unit alone is put out.
_EXACT_ROWS = 24


@dataclass(frozen=True, eq=False)
class Problem:
    """What a localiser is given: a model, two sets of prompts, what is to be explained and kept, and which units."""

    model: Model
    contrast: ContrastSet
    objective: Objective
    units: Units
    template: str | Template = "auto"
    max_rows: int = 64
    seed: int = 0
    k: int = 48
    base: Model | None = None

    @property
    def n_rows(self) -> int:
        """Rows of what is explained."""
        return len(self.objective.explain)

    @cached_property
    def statistics(self) -> ContrastStatistics:
        """Last-token statistics of both sides, measured once."""
        names = [site for site in self.units.widths if site not in self.units.dictionaries]
        return contrast_statistics(self.model, self.contrast, at=names, template=self.template, max_rows=self.max_rows)

    @cached_property
    def direction(self) -> Direction:
        """The difference of means of the residual stream, measured once."""
        return mean_difference_direction(self.model, self.contrast, template=self.template)


@dataclass(frozen=True)
class Localiser:
    """A localiser: a function from a problem to scores, and which end of the scores is taken."""

    run: Callable[[Problem], UnitScores]
    by: Sign = "positive"
    note: str = ""
    needs_base: bool = False


def _contrast(rule: str) -> Callable[[Problem], UnitScores]:
    def run(problem: Problem) -> UnitScores:
        direction = problem.direction if "alignment" in rule else None
        cost = Cost(1)
        found = score(problem.statistics, rule, model=problem.model, direction=direction)
        # One forward pass over each side, which all contrast rules share.
        facts = cost.facts() | {"forward_passes": 2.0}
        return UnitScores(found.scores, found.rule, {**found.info, "cost": facts})

    return run


def _gradient(**how: Any) -> Callable[[Problem], UnitScores]:
    def run(problem: Problem) -> UnitScores:
        return gate_gradient(problem.model, problem.objective, problem.units, max_rows=problem.max_rows, **how)

    return run


def _greedy(problem: Problem) -> UnitScores:
    rounds = max(1, problem.k // 6)
    return greedy(
        problem.model, problem.objective, problem.k, problem.units, per_round=rounds, max_rows=problem.max_rows
    )


def _trained(problem: Problem) -> UnitScores:
    recipe = GateRecipe(seed=problem.seed, keep=1.0)
    return trained_gates(
        problem.model, problem.objective, problem.units, recipe=recipe, max_rows=problem.max_rows
    ).scores


def _exact(problem: Problem) -> UnitScores:
    # All units: only for models as small as the organisms, and on a few prompts.
    everything = UnitScores(problem.units.ones(), "all").top(fraction=1.0)
    few = replace(problem.objective, explain=problem.objective.explain.take(range(min(_EXACT_ROWS, problem.n_rows))))
    return exact_effects(problem.model, few, everything, problem.units)


def _to_base(problem: Problem) -> UnitScores:
    if problem.base is None:
        raise InputError("this localiser compares with a base model; give the problem one")
    return gate_gradient(
        problem.model, problem.objective, problem.units, base=problem.base, steps=8, max_rows=problem.max_rows
    )


def _weight_change(problem: Problem) -> UnitScores:
    if problem.base is None:
        raise InputError("this localiser compares with a base model; give the problem one")
    cost = Cost(1)
    after, before = (sites.parameters(one) for one in (problem.model, problem.base))
    found = neuron_norms(difference(after, before), problem.units.widths)
    return UnitScores(found.scores, found.rule, {"cost": cost.facts()})


def _random(problem: Problem) -> UnitScores:
    generator = torch.Generator().manual_seed(int(problem.seed))
    values = {site: torch.rand(n, generator=generator) for site, n in problem.units.widths.items()}
    return UnitScores(values, "random", {"cost": Cost(1).facts()})


#: The contrast rule of the CNA paper, and the name of what is chosen at random.
PUBLISHED, RANDOM = "difference (published)", "random"
#: Name in tables -> localiser.
LOCALISERS: dict[str, Localiser] = {
    PUBLISHED: Localiser(_contrast("difference"), "abs"),
    "difference, positive side": Localiser(_contrast("difference"), "positive"),
    "difference, negative side": Localiser(_contrast("difference"), "negative"),
    "effect size": Localiser(_contrast("effect_size"), "abs"),
    "difference × write norm": Localiser(_contrast("difference_write_norm"), "abs"),
    "difference × alignment": Localiser(_contrast("difference_alignment"), "abs"),
    "gate gradient": Localiser(_gradient()),
    "gate gradient, GradDrop": Localiser(_gradient(drop=True)),
    "gate gradient, RelP": Localiser(_gradient(relp=True)),
    "integrated gates": Localiser(_gradient(steps=8)),
    "greedy integrated gates": Localiser(_greedy),
    "trained gates": Localiser(_trained),
    "integrated gates, to the base's": Localiser(_to_base, needs_base=True),
    "weight change from the base": Localiser(
        _weight_change, needs_base=True, note="says what was trained, not what decides"
    ),
    "exact ablation": Localiser(_exact, note="a forward pass for each unit: small models alone"),
    RANDOM: Localiser(_random),
}


check_arguments(__name__)

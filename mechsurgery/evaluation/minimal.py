"""The smallest circuit that meets a stated target: search, prune unit by unit, and say what was tried.

Gates are trained at several prices of a unit; each gives a circuit. The smallest one that meets the target on
validation prompts, graded by what the model then says, is pruned: the lowest-ranking units come back first, many at
once, then each is tried alone; a smaller circuit is taken where no part of the target is met less well. Multipliers are
then trained once more for the units that are left. A circuit is found on discovery prompts, chosen and pruned on
validation prompts, and proven on others (`evaluation.proof`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ..attribution.gates import Units
from ..attribution.objectives import Objective
from ..attribution.trained import GateRecipe, TrainedGates, trained_gates
from ..checks import check_arguments
from ..errors import InputError, listed
from ..grading.grade import Grade
from ..intervention import Intervention, ablate, scale
from ..models.protocol import Model
from ..models.turns import in_turn
from ..progress import with_progress
from ..prompts import PromptSet
from ..units import Circuit
from .choices import check_answerable
from .evaluate import evaluate
from .jobs import Generation

logger = logging.getLogger(__name__)
#: Shares that differ by less are the same.
_TIE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a circuit must reach when it is put out, on validation prompts.

    `shows` is the largest share of answers on the behaviour's prompts that may still show it, `well` the smallest share
    that does the opposite well; `loss` is how much any other set of prompts may lose of what it answered well (or
    chose right); `share` is the largest circuit, of all units.
    """

    shows: float = 0.05
    well: float = 0.9
    loss: float = 0.02
    share: float = 0.03

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.shows, self.well, self.loss, self.share)):
            raise InputError(f"{self}: give shares from 0 to 1")


@dataclass(frozen=True, eq=False)
class MinimalCircuit:
    """A circuit with what is done to it, whether it met its target, and everything that was tried.

    `intervention` puts it out (or multiplies each unit by its own number). `curve` is size against outcome along the
    order in which units came back, `tried` a row for every circuit that was measured on validation prompts.
    """

    circuit: Circuit
    intervention: Intervention
    met: bool
    curve: pd.DataFrame
    tried: pd.DataFrame
    gates: TrainedGates
    target: Target
    info: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.circuit!r}; target {'met' if self.met else 'not met'} on validation prompts"


@in_turn
def minimal_circuit(
    model: Model,
    objective: Objective,
    prompts: Mapping[str, PromptSet],
    grade: Grade,
    *,
    behaviour: str | None = None,
    target: Target | None = None,
    units: Units | None = None,
    recipe: GateRecipe | None = None,
    prices: Sequence[float] = (0.1, 0.04),
    prune: bool = True,
    generation: Generation | None = None,
    max_rows: int = 64,
    progress: bool | None = None,
) -> MinimalCircuit:
    """The smallest circuit found that meets a target; see the module's text.

    `prompts` are validation sets, {name: prompts}; `behaviour` names the one whose prompts show the behaviour (default:
    the first), all others are to stay. `grade` has an outcome's three labels. Where no price meets the target, the
    circuit with the most answers done well is returned with `met` False. Units are MLP neurons by default; other units
    must be ones that `scale` can scale.
    """
    behaviour = behaviour or next(iter(prompts))
    if behaviour not in prompts:
        raise InputError(f"behaviour={behaviour!r} is none of the sets of prompts: {listed(prompts)}")
    if len(getattr(grade, "labels", ())) != 3:
        raise InputError(f"grade {grade.name!r} has labels {listed(grade.labels)}; give one with an outcome's three")
    if not prices:
        raise InputError("prices is empty; give at least one price of a unit, in the objective's unit")
    units, recipe = units or Units(model), recipe or GateRecipe(m=(-1.0, 3.0), keep=5.0, kept_rows=8)
    if units.reference or units.dictionaries:
        raise InputError(
            "minimal_circuit puts units out to zero or multiplies them; give Units of hook points without a reference, "
            "and use trained_gates for latents or other references"
        )
    check_answerable(model, prompts, "auto" if generation is None else generation.template)
    judge = _Judge(model, prompts, behaviour, grade, target or Target(), generation)
    candidates = []
    for price in with_progress(sorted(prices, reverse=True), "searching", shown=progress, unit="price"):
        own = replace(recipe, price=price)
        gates = trained_gates(model, objective, units, recipe=own, max_rows=max_rows, progress=progress)
        if not len(gates.circuit):
            logger.info("at price %g no unit is worth it", price)
            continue
        row = judge.rows({f"price {price:g}": done_to(gates, gates.circuit)}, {f"price {price:g}": gates.circuit})[0]
        candidates.append((row, gates))
        if row["met"]:
            break
    if not candidates:
        raise InputError(
            f"at prices {listed(prices)} no unit is worth its price: either the behaviour is not there, or the prices "
            "are too high; give lower ones"
        )
    row, gates = min(candidates, key=lambda c: (not c[0]["met"], c[0]["k"] if c[0]["met"] else -c[0]["well"]))
    circuit, curve = gates.circuit, pd.DataFrame([row])
    if prune and row["met"]:
        circuit, curve = _pruned(gates, judge, float(row["slack"]))
        gates = _settled(model, objective, units, gates, circuit, judge, recipe, max_rows)
    info = {"objective": objective.name, "prices": list(prices), "behaviour": behaviour}
    found = circuit.named("minimal circuit")
    if gates.trains_m:
        found = found.with_multipliers(gates.m_of(found))
    return MinimalCircuit(
        found, done_to(gates, found), bool(row["met"]), curve, pd.DataFrame(judge.tried), gates, judge.target, info
    )


def done_to(gates: TrainedGates, circuit: Circuit, name: str | None = None) -> Intervention:
    """What trained gates do to a circuit: put it out, or multiply each unit by its own number."""
    if not gates.trains_m:
        return ablate(circuit, name=name)
    return replace(scale(circuit, gates.m_of(circuit), name=name), pushes=-1)


def _pruned(gates: TrainedGates, judge: _Judge, slack: float) -> tuple[Circuit, pd.DataFrame]:
    """Units come back while nothing is worse than with all: first many at once along the ranking, then one by one."""
    whole = gates.circuit
    sizes = sorted({max(1, round(len(whole) * share)) for share in (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)})
    nested = {f"{k} units": _first(whole, k) for k in sizes}
    curve = judge.rows({name: done_to(gates, one) for name, one in nested.items()}, nested)
    as_good = [row["k"] for row in curve if row["met"] and row["slack"] >= slack - _TIE]
    circuit = nested[f"{min(as_good)} units"] if as_good else whole
    return _one_by_one(gates, circuit, judge, slack), pd.DataFrame(curve)


def _one_by_one(gates: TrainedGates, circuit: Circuit, judge: _Judge, slack: float) -> Circuit:
    """Put back units without which nothing is worse: each is tried alone, then together, fewer each time."""
    if len(circuit) < 2:
        return circuit
    without = {f"without {site}[{i}]": circuit - _single(circuit, site, i) for site, i in sorted(circuit.members())}
    rows = judge.rows({name: done_to(gates, one) for name, one in without.items()}, without, share=0.5)
    spare = [row for row in sorted(rows, key=lambda row: -row["slack"]) if row["slack"] >= slack - _TIE]
    order = [circuit - without[row["circuit"]] for row in spare]
    n = len(order)
    while n:
        smaller = circuit
        for unit in order[:n]:
            smaller = smaller - unit
        if len(smaller):
            row = judge.rows({f"{n} units back": done_to(gates, smaller)}, {f"{n} units back": smaller})[0]
            if row["met"] and row["slack"] >= slack - _TIE:
                return smaller
        n = n * 2 // 3 if n > 1 else 0
    return circuit


def _settled(
    model: Model,
    objective: Objective,
    units: Units,
    gates: TrainedGates,
    circuit: Circuit,
    judge: _Judge,
    recipe: GateRecipe,
    max_rows: int,
) -> TrainedGates:
    """Multipliers trained once more for the units that are left, where that is no worse; else as they were."""
    if not recipe.trains_m or not recipe.settle or len(circuit) == len(gates.circuit):
        return gates
    again = trained_gates(
        model, objective, units, recipe=recipe, within=circuit, multipliers=gates.multipliers, max_rows=max_rows
    )
    runs = {"pruned": done_to(gates, circuit), "pruned, settled": done_to(again, circuit)}
    before, after = judge.rows(runs, dict.fromkeys(runs, circuit))
    better = after["met"] >= before["met"] and (after["slack"], after["well"]) >= (before["slack"], before["well"])
    return replace(gates, multipliers=again.multipliers) if better else gates


def _first(circuit: Circuit, k: int) -> Circuit:
    """The k units of a circuit with the highest scores."""
    best = circuit.to_frame().nlargest(k, "score")
    index = {site: part["neuron"].tolist() for site, part in best.groupby("site", sort=False)}
    return circuit & Circuit.from_indices(index, circuit.widths)


def _single(circuit: Circuit, site: str, index: int) -> Circuit:
    return Circuit.from_indices({site: [index]}, circuit.widths)


class _Judge:
    """Measures circuits on validation prompts, and whether each meets the target."""

    def __init__(
        self,
        model: Model,
        prompts: Mapping[str, PromptSet],
        behaviour: str,
        grade: Grade,
        target: Target,
        generation: Generation | None,
    ) -> None:
        self.model, self.prompts, self.behaviour, self.grade, self.target = model, prompts, behaviour, grade, target
        self.generation = generation or Generation(max_new_tokens=32)
        self.tried: list[dict[str, Any]] = []

    def rows(
        self, runs: Mapping[str, Intervention], circuits: Mapping[str, Circuit], share: float = 1.0
    ) -> list[dict[str, Any]]:
        """{circuit, k, shows, well, one column of what each other set keeps, met, slack} of every run.

        `share` of each set's prompts are asked (half, where many circuits are only put in order).
        """
        named = [run.named(name) for name, run in runs.items()]
        asked = {name: one.take(max(1, round(share * len(one)))) for name, one in self.prompts.items()}
        results = evaluate(self.model, asked, named, grades=[self.grade], generation=self.generation)
        shares = outcome_shares(results.table, self.grade)
        before = shares.loc["baseline"]
        found = []
        for name in runs:
            own = shares.loc[name]
            total = sum(circuits[name].widths.values())
            size = len(circuits[name]) / total
            shows, well = own[f"{self.behaviour}: shows"], own[f"{self.behaviour}: well"]
            others = [c for c in shares if c.endswith(": well") and c != f"{self.behaviour}: well"]
            # How far every part of the target is exceeded; below 0 is not met.
            spare = [self.target.shows - shows, well - self.target.well]
            spare += [self.target.loss - (before[column] - own[column]) for column in others]
            row = {"circuit": name, "k": len(circuits[name]), "share": size, "shows": shows, "well": well}
            row |= {column: own[column] for column in others}
            found.append({**row, "met": min(spare) >= -1e-9 and size <= self.target.share, "slack": min(spare)})
        self.tried += found
        return found


def outcome_shares(table: pd.DataFrame, grade: Grade) -> pd.DataFrame:
    """A row for each intervention: shares that show, do well and are broken on each set, choices right as "well"."""
    said = table[table["metric"] == grade.name]
    names = dict(zip(grade.labels, ("shows", "well", "broken")))
    cells = [said.assign(value=said["label"].eq(label).astype(float), cell=name) for label, name in names.items()]
    cells.append(table[table["metric"] == "choice"].assign(cell="well"))
    rows = pd.concat(cells)
    rows = rows.assign(column=rows["prompt_set"] + ": " + rows["cell"])
    return rows.pivot_table(index="intervention", columns="column", values="value", aggfunc="mean")


check_arguments(__name__)

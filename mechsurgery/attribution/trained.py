"""Trained gates: which few units to put out, or by what to multiply them, found by gradient descent.

Every unit has a number θ, and is in while θ > 0. The loss is how much of the behaviour is left, how far everything that
is to be kept has moved, and a price for each unit that is out:

    loss = max(0, explained − floor) + keep · Σ kept + price · (number of units out)

The choice is hard in the forward pass; in the backward pass it is σ(θ) (straight through, Bengio et al. 2013,
1308.3432), so that θ falls for a unit that is worth more than its price, in the unit of what is explained. All start
in, and each step of Adam moves every θ about equally far, so units that help at every step go out first, together.
The order of θ is the ranking. (Edge pruning, Bhaskar et al. 2024, 2406.16778, and differentiable masking, De Cao et al.
2020, 2004.14992, use hard concrete gates and a target size for the same end.) The model's weights get no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import ActivationError, InputError
from ..models import sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.with_hooks import with_hooks
from ..progress import with_progress
from ..units import Circuit, UnitScores
from .causal import Cost
from .gates import Units, frozen, recomputed
from .objectives import Objective, Task, tasks


@dataclass(frozen=True, kw_only=True)
class GateRecipe:
    """How gates are trained.

    `price` of a unit, in the unit of what is explained (nats); `keep` the weight of what is kept; `steps` how many
    updates, `settle` how many more with the choice held fixed, in which only multipliers move; `rows` how many rows of
    what is explained, and `kept_rows` how many of each thing that is kept, each update sees; `start` is θ at the
    beginning. `m` is the range of multipliers: (0, 0) puts units out, (−1, 3) also trains by what each is multiplied.
    """

    price: float = 0.03
    keep: float = 3.0
    steps: int = 150
    settle: int = 50
    lr: float = 0.05
    rows: int = 16
    kept_rows: int = 16
    start: float = 0.5
    m: tuple[float, float] = (0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not -math.inf < self.m[0] <= 0 <= self.m[1] < math.inf:
            raise InputError(f"m={self.m} must be a finite range of multipliers with 0 in it; (0, 0) ablates")
        counts, prices = (self.steps, self.rows, self.kept_rows), (self.settle, self.price, self.keep)
        if not (all(1 <= n < math.inf for n in counts) and all(0 <= own < math.inf for own in prices)):
            raise InputError(
                f"{self} has a number that is too small or not finite; steps and rows are at least 1, prices at least 0"
            )
        if not all(0 < own < math.inf for own in (self.lr, self.start)):
            raise InputError(f"lr={self.lr} and start={self.start} must be above 0 and finite")

    @property
    def trains_m(self) -> bool:
        """Whether units are multiplied by numbers of their own."""
        return self.m[0] < self.m[1]


@dataclass(frozen=True, eq=False)
class TrainedGates:
    """What training found: a ranking, the circuit of the units that are out, and by what each is multiplied.

    `loss` is a list of {step, number of units out, value of each task}.
    """

    scores: UnitScores
    circuit: Circuit
    multipliers: dict[str, Float[Tensor, " n"]]
    loss: list[dict[str, float]]

    @property
    def trains_m(self) -> bool:
        """Whether units have multipliers of their own; else they are put out."""
        return any(bool(m.any()) for m in self.multipliers.values())

    def m_of(self, circuit: Circuit) -> dict[str, Float[Tensor, " k"]]:
        """{site: multipliers of a circuit's units}, as `scale(circuit, m)` takes them."""
        return {site: self.multipliers[site][index] for site, (index, _) in circuit.units.items()}


@in_turn
def trained_gates(
    model: Model,
    objective: Objective,
    units: Units | None = None,
    *,
    recipe: GateRecipe | None = None,
    within: Circuit | None = None,
    multipliers: Mapping[str, Float[Tensor, " n"]] | None = None,
    max_rows: int = 64,
    progress: bool | None = None,
) -> TrainedGates:
    """Train which units to put out so that the behaviour goes and what is kept stays; see the module's text.

    Scores are start − θ: above the recipe's `start` for the units that are out. `within` leaves the choice as it is
    and trains the multipliers of these units alone, from `multipliers` on. Raises `ActivationError` where the loss is
    not finite.
    """
    units, recipe = units or Units(model), recipe or GateRecipe()
    state = _State(units, recipe, within, multipliers, tokens.device_of(model))
    cost = Cost(len(objective.explain))
    sources = [
        _rows(task, recipe.kept_rows if place else recipe.rows, 1000 * recipe.seed + place)
        for place, task in enumerate(tasks(objective))
    ]
    steps = recipe.settle if within is not None else recipe.steps + (recipe.settle if recipe.trains_m else 0)
    log = []
    with frozen(model), torch.enable_grad():
        for step in with_progress(range(steps), "training gates", shown=progress, unit="step"):
            if step == recipe.steps and within is None:
                state.settle()
            values = {}
            for task, source in zip(tasks(objective), sources):
                weight = None if task is objective.explain else recipe.keep
                values[task.name] = _backward(model, task, next(source), state, objective.floor, weight, max_rows, cost)
            log.append({"step": step, "k": state.n_out, **values})
            state.update()
    name = "trained multipliers" if recipe.trains_m else "trained gates"
    facts = {"recipe": asdict(recipe), "cost": cost.facts()}
    info = sites.provenance_of(model, objective=objective.name, **objective.info, **facts)
    scores = UnitScores(state.split(recipe.start - state.theta.detach().cpu()), name, info)
    return TrainedGates(scores, _circuit(state, scores), state.split(state.m.detach().cpu()), log)


def _circuit(state: _State, scores: UnitScores) -> Circuit:
    """The units that are out."""
    chosen = state.split(state.out.cpu())
    index = {site: out.nonzero()[:, 0] for site, out in chosen.items()}
    units = {site: (i, scores.scores[site][i]) for site, i in index.items() if len(i)}
    return Circuit(units, state.units.widths, scores.rule, scores.info)


def _backward(
    model: Model,
    task: Task,
    rows: Sequence[int],
    state: _State,
    floor: float,
    weight: float | None,
    max_rows: int,
    cost: Cost,
) -> float:
    """Add the gradients of one task's share of the loss (`weight` None: what is explained); returns its value."""
    total = 0.0
    above = None
    if weight is None and task.items:
        above = _above(model, task, rows, state, floor, max_rows, cost)
    for read in task.batches(model, max_rows, rows):
        hooks = state.units.hooks(state.gates())
        # Hooks stay on for the backward pass, in which blocks may be run again.
        with recomputed(model, read.ids.numel()), with_hooks(model, hooks):
            values = task.values(model, read)
            if weight is not None:
                loss = weight * values.sum()
            elif above is None:
                loss = (values - floor).clamp_min(0).sum()
            else:
                loss = (values * above[read.rows].to(values)).sum()
            # Autoencoders' weights may ask for gradients too, and get none.
            (loss / len(rows)).backward(inputs=state.trained)
        total += float(values.detach().sum())
        cost.forward_rows += len(read.rows)
        cost.backward_rows += len(read.rows)
    if not math.isfinite(total):
        raise ActivationError(f"{task.name!r} is {total} while gates are trained; use bfloat16 or float32, a lower lr")
    return total / len(rows)


@torch.no_grad()
def _above(
    model: Model, task: Task, rows: Sequence[int], state: _State, floor: float, max_rows: int, cost: Cost
) -> Bool[Tensor, " n"]:
    """Which rows of a task belong to an item, drawn now, that is above the floor.

    Rows of one item may be in different batches, so that this takes a forward pass of its own.
    """
    item, value = torch.tensor(task.items), torch.zeros(len(task))
    for read in task.batches(model, max_rows, rows):
        value[read.rows] = task.values(model, read, state.units.hooks(state.gates())).float().cpu()
        cost.forward_rows += len(read.rows)
    mean = torch.zeros(int(item.max()) + 1).index_add(0, item, value) / item.bincount()
    return (mean > floor)[item]


def _rows(task: Task, rows: int, seed: int) -> Iterator[list[int]]:
    """Endless draws of rows: every row (or item, with all its rows) once before one comes again."""
    generator = torch.Generator().manual_seed(int(seed))
    together: dict[int, list[int]] = {}
    for row, item in enumerate(task.items or range(len(task))):
        together.setdefault(item, []).append(row)
    items = list(together.values())

    def endless() -> Iterator[int]:
        while True:
            yield from torch.randperm(len(items), generator=generator).tolist()

    source, n = endless(), max(1, min(rows, len(task)) * len(items) // len(task))
    while True:
        yield sorted(row for chosen in set(islice(source, n)) for row in items[chosen])


class _State:
    """θ and multiplier of every unit, in one vector each, and their optimiser."""

    def __init__(
        self,
        units: Units,
        recipe: GateRecipe,
        within: Circuit | None,
        multipliers: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> None:
        self.units, self.recipe = units, recipe
        theta = torch.full((len(units),), recipe.start)
        if within is not None:
            within.require_widths(units.widths, "the model")
            for site, own in self.split(theta).items():
                if site in within.units:
                    own[within.units[site][0]] = -recipe.start
        self.theta = theta.to(device).requires_grad_(within is None)
        start = torch.zeros(len(units))
        if multipliers is not None:
            start = torch.cat([multipliers[site].float() for site in units.widths]).clamp(*recipe.m)
        self.m = start.to(device).requires_grad_(recipe.trains_m)
        self.optimiser: Any = None
        self._start_optimiser()

    def _start_optimiser(self) -> None:
        self.trained = [vector for vector in (self.theta, self.m) if vector.requires_grad]
        if not self.trained:
            raise InputError("nothing to train: give a range of multipliers m, such as (−1, 3), with `within`")
        self.optimiser = torch.optim.Adam(self.trained, lr=self.recipe.lr)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector over all units as {site: part}."""
        return dict(zip(self.units.widths, flat.split(list(self.units.widths.values()))))

    @property
    def out(self) -> Tensor:
        """Which units are out."""
        return self.theta.detach() <= 0

    @property
    def n_out(self) -> int:
        """How many units are out."""
        return int(self.out.sum())

    def gates(self) -> dict[str, Float[Tensor, " n"]]:
        """1 for the units that are in, their multiplier for those that are out."""
        inside = (~self.out).float()
        if self.theta.requires_grad:
            soft = torch.sigmoid(self.theta)
            # A difference that is exactly 0, so that multipliers of units that are in get no gradient at all.
            inside = inside + (soft - soft.detach())
        return self.split(inside + (1 - inside) * self.m)

    def update(self) -> None:
        """One step of Adam, with the price of every unit that is out."""
        if self.theta.requires_grad:
            soft = torch.sigmoid(self.theta)
            (self.recipe.price * (1 - soft).sum()).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            self.m.clamp_(*self.recipe.m)

    def settle(self) -> None:
        """Hold the choice fixed from now on."""
        self.theta = self.theta.detach()
        self._start_optimiser()


check_arguments(__name__)

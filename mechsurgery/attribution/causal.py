"""Causal scores of units: how much a behaviour would fall if a unit were put out.

With a gate g_i on every unit (1: as it is, 0: put out) and M(g) an objective's value, a unit's exact effect alone is

    M(1) − M(1 with g_i = 0)                                          (`exact_effects`, a forward pass for each unit)

and, to first order, ∂M/∂g_i at 1, one backward pass for all units: attribution patching (Syed et al. 2023,
2310.10348). Averaged along the line on which all gates open together, g = α·1 at α = (j − ½)/k, gradients become
integrated gradients: their sum over all units is M(1) − M(0) up to the step size, and units whose effect is hidden
behind a saturated or a backup unit are seen (after Hanna et al. 2024, 2403.17806, on gates instead of inputs).

Two corrections that change the backward pass alone. `drop`: the mean over layers of the gradient that skips one
layer's attention and MLP, so that effects that cancel between a layer and a later one are seen (GradDrop of AtP*,
Kramár et al. 2024, 2403.00745). `relp`: norms' scales and attention patterns are held fixed, a gate's nonlinearity is
replaced by the line through the origin, and a product of gate and value shares its relevance between them (the rules
of AttnLRP, Achtibat et al. 2024, 2402.05602, used for patching by Jafari et al. 2025, 2508.21258).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import names
from ..checks import check_arguments
from ..errors import ActivationError, InputError
from ..models import sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.with_hooks import with_hooks
from ..progress import with_progress
from ..units import Circuit, UnitScores
from .gates import Gates, HookFns, Units, frozen, recomputed
from .objectives import Objective, Read, Task

logger = logging.getLogger(__name__)


@dataclass
class Cost:
    """What a localiser took: passes of all rows of what is explained, in forward and backward passes, and seconds."""

    rows: int
    forward_rows: int = 0
    backward_rows: int = 0
    started: float = field(default_factory=time.monotonic)

    def facts(self) -> dict[str, float]:
        """Forward and backward passes (1: every row of what is explained once), seconds, and GPU memory in MiB."""
        found = {
            "forward_passes": round(self.forward_rows / self.rows, 2),
            "backward_passes": round(self.backward_rows / self.rows, 2),
            "seconds": round(time.monotonic() - self.started, 3),
        }
        if torch.cuda.is_available():
            found["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        return found


@in_turn
def gate_gradients(
    model: Model,
    units: Units,
    task: Task,
    gates: Gates,
    *,
    also: HookFns | None = None,
    base: Model | None = None,
    max_rows: int = 64,
    cost: Cost | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """∂(mean value of a task)/∂gate of every unit, at given gates; float64 on the CPU. Weights get no gradients.

    With a `base`, a unit goes to what it is in that model on the same tokens.
    """
    device = tokens.device_of(model)
    total = {site: torch.zeros(n, dtype=torch.float64) for site, n in units.widths.items()}
    with frozen(model), torch.enable_grad():
        for read in task.batches(model, max_rows):
            leaves = {site: gates[site].to(device).detach().clone().requires_grad_(True) for site in units.widths}
            reference = None if base is None else _activations(base, units, read)
            hooks = [*(also or []), *units.hooks(leaves, reference)]
            # RelP sees what a neuron's activation is made of as gates leave it.
            hooks.sort(key=lambda pair: getattr(pair[1], "func", None) is _seen)
            # Hooks stay on for the backward pass, in which blocks may be run again.
            with recomputed(model, read.ids.numel()), with_hooks(model, hooks):
                value = task.values(model, read).sum() / len(task)
                leaf = list(leaves.values())
                # Nothing depends on the gates where GradDrop skips the only layer.
                found = (
                    torch.autograd.grad(value, leaf, allow_unused=True) if value.requires_grad else [None] * len(leaf)
                )
            for site, gradient in zip(leaves, found):
                if gradient is None:
                    continue
                if not torch.isfinite(gradient).all():
                    raise ActivationError(f"the gradient of gates at {site!r} is NaN or infinite; use bfloat16")
                total[site] += gradient.double().cpu()
            if cost is not None:
                cost.forward_rows += len(read.rows)
                cost.backward_rows += len(read.rows)
    return total


@torch.no_grad()
def _activations(base: Model, units: Units, read: Read) -> dict[str, Tensor]:
    """What the units' hook points hold in another model on the tokens of a batch, [batch, pos, …] each."""
    found: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any = None, *, name: str) -> Tensor:
        found[name] = activation.detach()
        return activation

    names_ = list(units.widths)
    with with_hooks(base, [(name, partial(keep, name=name)) for name in names_]):
        sites.run(base, read.ids, read.mask, sites.stop_layer(base, names_))
    return found


@in_turn
def gate_gradient(
    model: Model,
    objective: Objective,
    units: Units | None = None,
    *,
    steps: int = 1,
    drop: bool = False,
    relp: bool = False,
    base: Model | None = None,
    max_rows: int = 64,
    progress: bool | None = None,
) -> UnitScores:
    """How much the objective's value would fall if a unit were put out, to first order, for all units at once.

    `steps` = 1 takes the gradient at the model as it is, more integrate it from all units out to all units in (midpoint
    rule). With a `base` of the same shape, units go to what they are there on the same tokens: what a fine-tune changed
    and uses, not what both need. `drop` and `relp` are the corrections above. Positive scores support the behaviour.
    """
    if steps < 1 or (drop and relp):
        raise InputError(f"steps={steps}, drop={drop}, relp={relp}; at least one step, and one correction at most")
    units = units or Units(model)
    if base is not None and units.dictionaries:
        raise InputError("latents go to zero; give hook points of the model alone with a base")
    if steps > 1 and sites.changes_writes(model):
        logger.warning(
            "this model normalises what an MLP writes, so gates that open together cancel out: integrated gates see "
            "next to nothing; use steps=1, exact_effects or trained_gates"
        )
    cost = Cost(len(objective.explain))
    alphas = [1.0] if steps == 1 else [(j + 0.5) / steps for j in range(steps)]
    variants: list[HookFns] = [_relp_hooks(model)] if relp else [[]]
    if drop:
        variants = [_without_gradient(layer) for layer in range(model.cfg.n_layers)]
    total = {site: torch.zeros(n, dtype=torch.float64) for site, n in units.widths.items()}
    runs = [(alpha, also) for alpha in alphas for also in variants]
    for alpha, also in with_progress(runs, "attributing", shown=progress, unit="pass"):
        gates = {site: torch.full((n,), alpha) for site, n in units.widths.items()}
        found = gate_gradients(
            model, units, objective.explain, gates, also=also, base=base, max_rows=max_rows, cost=cost
        )
        for site, value in found.items():
            # GradDrop sees each path one time less than there are layers.
            scale = model.cfg.n_layers / max(1, model.cfg.n_layers - 1) if drop else 1.0
            total[site] += value * scale / len(runs)
    rule = "gate gradient" if steps == 1 else f"integrated gates ({steps} steps)"
    rule += ", GradDrop" if drop else ", RelP" if relp else ""
    rule += ", to the base's" if base is not None else ""
    info = sites.provenance_of(model, objective=objective.name, **objective.info, steps=steps, cost=cost.facts())
    return UnitScores({site: value.float() for site, value in total.items()}, rule, info)


def _without_gradient(layer: int) -> HookFns:
    """Hooks that let no gradient through a layer's attention and MLP; values stay."""

    def stop(activation: Tensor, hook: Any = None) -> Tensor:
        return activation.detach()

    return [(names.attention_out(layer), stop), (names.mlp_out(layer), stop)]


def _relp_hooks(model: Model) -> HookFns:
    """Hooks under which the backward pass follows the rules of relevance propagation; values stay."""
    made: HookFns = []

    def fixed(activation: Tensor, hook: Any = None) -> Tensor:
        return activation.detach()

    for name in sites.hook_points(model):
        if name.endswith((".hook_scale", "attn.hook_pattern")):
            made.append((name, fixed))
    for layer in range(model.cfg.n_layers):
        seen: dict[str, Tensor] = {}
        prefix = f"blocks.{layer}.mlp."
        parts = [part for part in ("hook_pre", "hook_pre_linear") if prefix + part in sites.hook_points(model)]
        made += [(prefix + part, partial(_seen, part=part, seen=seen)) for part in parts]
        made.append((prefix + "hook_post", partial(_by_lines, seen=seen)))
    return made


def _seen(activation: Tensor, hook: Any = None, *, part: str, seen: dict[str, Tensor]) -> Tensor:
    seen[part] = activation
    return activation


def _by_lines(post: Tensor, hook: Any = None, *, seen: dict[str, Tensor]) -> Tensor:
    """A neuron's activation with the nonlinearity as a line through the origin, the product shared half and half."""
    pre, up = seen["hook_pre"], seen.get("hook_pre_linear")
    value = post.detach()

    def by(x: Tensor) -> Tensor:
        """`value`, with the gradient of value/x · x, the fraction held fixed."""
        held = x.detach()
        slope = torch.where(held.abs() > 1e-6, value / torch.where(held.abs() > 1e-6, held, 1), 0)
        return slope * (x - held)

    return value + (by(pre) if up is None else 0.5 * (by(pre) + by(up)))


@in_turn
@torch.no_grad()
def exact_effects(
    model: Model,
    objective: Objective,
    circuit: Circuit,
    units: Units | None = None,
    *,
    m: float = 0.0,
    max_rows: int = 256,
    progress: bool | None = None,
) -> UnitScores:
    """The oracle: how much the objective's value really falls when a unit alone is put out, for the units of a circuit.

    With `m` each is multiplied by that number instead, and scores are how much the value then falls.

    Rows of one batch have different units out. What comes before a unit's layer is not changed by it, so it is run once
    for all units (where the model can start at a layer; a TransformerBridge runs the whole). Units not in the circuit
    have score 0.
    """
    units = units or Units(model)
    circuit.require_widths(units.widths, "the model")
    cost = Cost(len(objective.explain))
    scores = {site: torch.zeros(n) for site, n in units.widths.items()}
    task = objective.explain
    with_prefix = task.at is None and sites.can_start_at_layer(model) and not units.dictionaries
    jobs = [(site, index.tolist()) for site, (index, _) in circuit.units.items()]
    for read in with_progress(task.batches(model, max_rows), "putting units out", shown=progress):
        base = task.values(model, read).double()
        cost.forward_rows += len(read.rows)
        for site, index in jobs:
            effects = _effects(model, task, read, units, site, index, m, max_rows, with_prefix, cost)
            scores[site][index] += ((base[None] - effects.double()).sum(1) / len(task)).float().cpu()
    info = sites.provenance_of(model, objective=objective.name, **objective.info, cost=cost.facts())
    return UnitScores(scores, "exact ablation" if m == 0 else f"exact effect of m = {m:g}", info)


def _effects(
    model: Model,
    task: Task,
    read: Read,
    units: Units,
    site: str,
    index: Sequence[int],
    m: float,
    max_rows: int,
    with_prefix: bool,
    cost: Cost,
) -> Float[Tensor, "units rows"]:
    """The value of each row with each of some units of one hook point multiplied by `m`."""
    n, width = len(read.rows), units.widths[site]
    layer = max(0, names.layer_of(site)) if with_prefix else 0
    start = None
    if layer:
        start = sites.run(model, read.ids, read.mask, layer)
    at_once = max(1, max_rows // n)
    found = []
    for first in range(0, len(index), at_once):
        out = list(index[first : first + at_once])
        gate = torch.ones(len(out), width, device=read.ids.device)
        gate[range(len(out)), out] = m
        hooks = units.hooks({site: gate.repeat_interleave(n, 0)})
        many = _times(read, len(out))
        if start is None:
            values = task.values(model, many, hooks)
        else:
            values = _values_from(model, task, many, hooks, start.repeat(len(out), 1, 1), layer)
        cost.forward_rows += len(many.rows)
        found.append(values.reshape(len(out), n))
    return torch.cat(found)


def _values_from(model: Any, task: Task, read: Read, hooks: HookFns, start: Tensor, layer: int) -> Tensor:
    """A task's values where the layers before `layer` have already run."""
    last = read.counted.shape[1]
    with with_hooks(model, hooks):
        residual = sites.run_from(model, start, read.mask, layer)
        logits = sites.unembed(model, residual[:, -last:]).float()
    return task.value(logits, read) * task.weight.to(logits.device)[read.rows]


def _times(read: Read, times: int) -> Read:
    """A batch repeated."""
    return Read(
        read.rows * times,
        read.ids.repeat(times, 1),
        read.mask.repeat(times, 1),
        read.counted.repeat(times, 1),
        read.said.repeat(times, 1),
    )


@in_turn
def greedy(
    model: Model,
    objective: Objective,
    k: int,
    units: Units | None = None,
    *,
    per_round: int = 1,
    steps: int = 8,
    max_rows: int = 64,
    progress: bool | None = None,
) -> UnitScores:
    """Units put out one round after another, each time those that integrated gates now rank first.

    What is out stays out while the rest is attributed again, so that a backup that takes over is seen. Scores fall with
    the round in which a unit was chosen (k for the first); all others have their share of the last round's score below
    all of them. Takes k / `per_round` rounds of `steps` forward and backward passes.
    """
    if not 1 <= k <= len(units or Units(model)) or per_round < 1:
        raise InputError(f"k={k}, per_round={per_round}; give 1 to the number of units, and at least 1 a round")
    units = units or Units(model)
    cost = Cost(len(objective.explain))
    out = {site: torch.zeros(n, dtype=torch.bool) for site, n in units.widths.items()}
    scores = {site: torch.zeros(n) for site, n in units.widths.items()}
    chosen = 0
    rounds = range(0, k, per_round)
    found: Mapping[str, Tensor] = {}
    for _ in with_progress(rounds, "choosing units", shown=progress, unit="round"):
        found = _integrated(model, units, objective.explain, out, steps, max_rows, cost)
        flat = torch.cat([found[site].masked_fill(out[site], -torch.inf) for site in units.widths])
        for place in flat.topk(min(per_round, k - chosen)).indices.tolist():
            site, index = _unit_at(units, place)
            out[site][index] = True
            scores[site][index] = float(k - chosen)
            chosen += 1
    largest = max(float(value.abs().max()) for value in found.values()) or 1.0
    for site, value in found.items():
        rest = ~out[site]
        scores[site][rest] = (value[rest].float() / largest).clamp(-1, 1) * 0.5
    info = sites.provenance_of(model, objective=objective.name, **objective.info, k=k, cost=cost.facts())
    return UnitScores(scores, "greedy integrated gates", info)


def _integrated(
    model: Model, units: Units, task: Task, out: Mapping[str, Tensor], steps: int, max_rows: int, cost: Cost
) -> dict[str, Tensor]:
    """Integrated gate gradients of the units that are still in, the others staying out."""
    total = {site: torch.zeros(n, dtype=torch.float64) for site, n in units.widths.items()}
    for j in range(steps):
        gates = {site: (~out[site]).float() * ((j + 0.5) / steps) for site in units.widths}
        for site, value in gate_gradients(model, units, task, gates, max_rows=max_rows, cost=cost).items():
            total[site] += value / steps
    return total


def _unit_at(units: Units, place: int) -> tuple[str, int]:
    for site, n in units.widths.items():
        if place < n:
            return site, place
        place -= n
    raise IndexError(place)


check_arguments(__name__)

"""An intervention as a permanent change of weights, for every kind of which that can be exact.

What a linear map adds to the residual stream is x W + b. Multiplying x is multiplying rows of W; adding to x adds to b;
multiplying, adding to or projecting the result does the same to W's columns and b. `rewrites` says so in terms of
parameters' names alone, so that `bake` does it in memory and `export` on disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..delta_parts import Part
from ..errors import ActivationError, InputError, MismatchError
from ..models import sites
from ..models.protocol import Model
from ..models.turns import in_turn
from ..names import Writer, is_experts, writers
from .changes import Affine, Change, Custom, Project
from .intervention import Intervention

#: The present value of a parameter, in float64.
Get = Callable[[str], Tensor]
Plan = Sequence[tuple[Change, float]]


@dataclass(frozen=True)
class Rewrite:
    """How a parameter's new value is made; with `keeps_zero`, a zero one (a bias an architecture lacks) stays zero.

    `rows(rows, start)`, where it is given, makes some rows of it from the same rows of the present value. With `added`,
    (difference, factor), the difference times the factor is all that is added.
    """

    make: Callable[[Get], Tensor]
    keeps_zero: bool = False
    rows: Callable[[Tensor, int], Tensor] | None = None
    added: tuple[Part, float] | None = None


@in_turn
@torch.no_grad()
def bake(model: Model, intervention: Intervention) -> None:
    """Put an intervention at its strength into the model's weights, **permanently**: nothing is left to hook.

    Gives the logits of `applied(model, intervention)`. Exact for weight differences, scaling and mean ablation of MLP
    neurons, steering after attention, the MLP or a block, projecting a direction out (or to means) everywhere, and sums
    of these. Raises `InputError` with the reason for anything else, `ActivationError` where a weight would not be
    finite, before anything is changed.
    """
    intervention.check(model)
    found: list[tuple[sites.Weight, Tensor]] = []
    for name, rewrite in rewrites(intervention, sites.facts(model)).items():
        weight = sites.weight(model, name)
        dtype = weight.value.dtype
        changed = rewrite.make(lambda other: sites.parameter(model, other).detach().double()).to(dtype)
        if not torch.isfinite(changed).all():
            raise ActivationError(f"{name!r} would be NaN or infinite in {dtype}; lower the strength")
        found.append((weight, changed))
    tensors = [(tensor := weight.own(), weight.like(tensor, changed)) for weight, changed in found]
    # One call of C, that no interrupt leaves half done.
    deque(starmap(torch.Tensor.copy_, tensors), maxlen=0)


def rewrites(intervention: Intervention, cfg: Any) -> dict[str, Rewrite]:
    """{parameter: how its new value is made} for a model with the facts `cfg` (`model.cfg`).

    The weight difference comes first, then the edits in the order of the model's forward. Raises `InputError` where an
    edit cannot stand in weights.
    """
    known = writers(cfg)
    _check_edits(intervention, known, cfg)
    plans: dict[str | None, list[tuple[Change, float]]] = {}
    for edit in intervention.edits:
        if strength := intervention.strength * edit.gain:
            plans.setdefault(edit.site, []).append((edit.change, strength))
    present = partial(_shifted, intervention=intervention)
    found: dict[str, Rewrite] = {}
    if intervention.delta is not None and intervention.strength:
        found = {
            name: Rewrite(partial(present, name=name), added=(part, intervention.strength))
            for name, part in intervention.delta.parts.items()
        }
    for writer in known:
        neurons = [plans.get(site, ()) for site in writer.neurons]
        own = _Edited(writer, neurons, *(plans.get(site, ()) for site in (writer.output, writer.stream)))
        found |= own.rewrites(present)
    return found


@dataclass(frozen=True)
class _Edited:
    """A linear map into the residual stream, and what is done to its input, its output and the stream after it.

    `neurons` is one plan, or one for each expert of a mixture, whose weight is [expert, d_mlp, d_model].
    """

    writer: Writer
    neurons: Sequence[Plan]
    output: Plan
    stream: Plan

    def rewrites(self, present: Callable[..., Tensor]) -> dict[str, Rewrite]:
        """Of its weight and bias, where they change; `present(get, name=…)` gives a parameter with its difference."""
        writer, found = self.writer, {}
        if any(self.neurons) or any(writer.bias is None or _multiplies(change) for change, _ in self.output):
            make = lambda get: self.weight(present(get, name=writer.weight))  # noqa: E731
            by_rows = lambda rows, start: self.weight(present(lambda _: rows, name=writer.weight, start=start))  # noqa: E731
            found[writer.weight] = Rewrite(make, rows=None if any(self.neurons) else by_rows)
        if writer.bias is not None:
            adds = any(_adds(change) for plan in (*self.neurons, self.output, self.stream) for change, _ in plan)
            if adds or self.output:
                found[writer.bias] = Rewrite(
                    lambda get: self.bias(*(present(get, name=name) for name in (writer.bias, writer.weight))),
                    keeps_zero=not adds,
                )
        return found

    def weight(self, weight: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Rows multiplied as their neurons are, then changed as the output is; what is added goes to a bias, if any."""
        if len(self.neurons) > 1:
            weight = torch.stack([_scaled(own, plan) for own, plan in zip(weight, self.neurons, strict=True)])
        elif any(self.neurons):
            weight = _scaled(weight, self.neurons[0])
        return _changed(weight, self.output, add=self.writer.bias is None)

    def bias(self, bias: Float[Tensor, " d"], weight: Float[Tensor, "*rows d"]) -> Float[Tensor, " d"]:
        """What is added to the neurons passes through the weight; the rest is done to the bias as to an output."""
        if any(self.neurons):
            bias = bias + _changed(weight.new_zeros(len(weight)), self.neurons[0]) @ weight
        return _changed(_changed(bias, self.output), self.stream)


def _scaled(weight: Float[Tensor, "d_mlp d"], plan: Plan) -> Float[Tensor, "d_mlp d"]:
    """Rows multiplied as their neurons are."""
    return _changed(weight.mT, plan[::-1], add=False).mT


def _changed(rows: Float[Tensor, "*rows d"], plan: Plan, *, add: bool = True) -> Float[Tensor, "*rows d"]:
    """Rows after multiplications, additions (unless `add` is off) and projections."""
    for change, strength in plan:
        if isinstance(change, Project):
            unit, level = change.unit.to(rows), change.level if add else 0.0
            rows = rows - strength * (rows @ unit - level)[..., None] * unit
        elif isinstance(change, Affine):
            factor, offset = (table.to(rows) for table in change.at(strength, rows.shape[-1]))
            rows = rows * factor + offset if add else rows * factor
    return rows


def _multiplies(change: Change) -> bool:
    return not isinstance(change, Affine) or bool((change.m != 1).any())


def _adds(change: Change) -> bool:
    if isinstance(change, Project):
        return change.level != 0
    return isinstance(change, Affine) and bool((change.offset != 0).any())


def _shifted(get: Get, name: str, intervention: Intervention, start: int = 0) -> Tensor:
    """A parameter, or its rows from `start` on, with its weight difference added."""
    value, delta = get(name), intervention.delta
    if delta is None or name not in delta.parts or not intervention.strength:
        return value
    change = delta.parts[name].dense()[start : start + len(value)]
    return value + intervention.strength * change.to(value.device).double()


def _check_edits(intervention: Intervention, known: Sequence[Writer], cfg: Any) -> None:
    """Raise `InputError` where an edit cannot stand in weights, `MismatchError` where it is another model's."""
    neurons = {site for writer in known for site in writer.neurons}
    streams = {writer.stream for writer in known}
    fixed = {site for writer in known if writer.fixed for site in (*writer.neurons, writer.output, writer.stream)}
    known_sites = neurons | streams | {writer.output for writer in known}
    normed = bool(getattr(cfg, "use_normalization_before_and_after", False))
    for edit in intervention.edits:
        if not intervention.strength * edit.gain:
            continue
        reason = None
        if edit.positions != "all":
            reason = "it acts at one position, and weights act at all"
        elif isinstance(edit.change, Custom):
            reason = "it is a function of the activation that no weights stand for"
        elif edit.site not in known_sites:
            reason = "only MLP neurons, what attention and MLPs write, and the stream after a block have such weights"
        elif edit.site in streams and _multiplies(edit.change):
            reason = "it also changes what earlier layers have written"
        elif edit.site in fixed and _adds(edit.change):
            reason = "a mixture of experts has no bias that adds the same whichever experts a token is routed to"
        elif normed and edit.site.startswith("blocks.") and edit.site not in neurons:
            reason = "this architecture normalises what attention and MLP write, or scales it"
        if reason:
            raise InputError(
                f"{edit.site!r} of {intervention.name!r} ({intervention.kind}) cannot be changed in the weights: "
                f"{reason}; use applied(model, intervention)"
            )
        if is_experts(edit.site):
            continue  # each mixture has its own widths, which `Intervention.check` has compared
        width = cfg.d_mlp if edit.site in neurons else cfg.d_model
        if edit.width != width:
            raise MismatchError(f"{intervention.name!r} was made for {edit.width} units at {edit.site!r}, not {width}")


check_arguments(__name__)

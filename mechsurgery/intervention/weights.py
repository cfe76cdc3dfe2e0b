"""Putting a `WeightDelta` into a running model and taking it out again.

The original weights are kept and put back, never computed back by subtraction, so a restore is exact in any dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..delta_parts import Part, Rows
from ..deltas import WeightDelta
from ..errors import MismatchError
from ..models import sites
from ..models.protocol import Model


class ShiftedWeights:
    """A model's weights with a delta in them, whose strength can be changed without loading anything."""

    def __init__(self, model: Model | nn.Module, delta: WeightDelta) -> None:
        self._weights = {name: sites.weight(model, name) for name in delta.parts}
        self._kept = {name: _kept(self._weights[name], part) for name, part in delta.parts.items()}
        self._delta, self._strength = delta, 0.0

    @torch.no_grad()
    def set(self, strength: float) -> None:
        """Weights = original + strength · delta; 0 gives the original bit for bit."""
        for name, part in self._delta.parts.items():
            weight, before = self._weights[name], self._kept[name]
            tensor = weight.own().detach()
            if not weight.is_view:
                # The tensor stands for the parameter times a number, or plus one.
                changed = weight.read(before.double()) + strength * part.dense().to(before.device).double()
                tensor.copy_(weight.like(before, changed) if strength else before)
                continue
            changed, value = before, weight.read(tensor)
            if strength:
                # In double precision, so that strength 1 of a difference gives the other weights bit for bit.
                change = part.values if isinstance(part, Rows) else part.dense()
                changed = (before.double() + strength * change.to(value.device).double()).to(value)
            if isinstance(part, Rows):
                value.index_copy_(part.axis, part.index.to(value.device), changed)
            else:
                value.copy_(changed)
        self._strength = strength

    @contextmanager
    def off(self) -> Iterator[None]:
        """The original weights inside."""
        strength = self._strength
        self.set(0.0)
        try:
            yield
        finally:
            self.set(strength)


@contextmanager
def shifted_weights(model: Model, delta: WeightDelta, strength: float) -> Iterator[ShiftedWeights]:
    """Run the body with `strength` times a delta in the model's weights; put back bit for bit after."""
    weights = ShiftedWeights(model, delta)
    try:
        weights.set(strength)
        yield weights
    finally:
        weights.set(0.0)


def check_delta(model: Model, delta: WeightDelta) -> None:
    """Raise `MismatchError` where a delta names parameters or shapes the model lacks, or was made for other weights."""
    for name, part in delta.parts.items():
        shape = tuple(sites.parameter(model, name).shape)
        if shape != part.shape:
            raise MismatchError(
                f"{name} has shape {shape} in this model and {part.shape} in delta {delta.name!r}; of another model"
            )
    wanted, dtype = delta.info.get("fingerprint"), delta.info.get("dtype")
    if wanted is None or wanted == sites.fingerprint(model):
        return
    has = str(next(iter(model.parameters())).dtype).removeprefix("torch.")
    if dtype is not None and dtype != has:
        raise MismatchError(
            f"delta {delta.name!r} was made on {dtype} weights, this model has {has}; load it with dtype={dtype!r}"
        )
    raise MismatchError(
        f"delta {delta.name!r} starts from a model with fingerprint {wanted}, this one has {sites.fingerprint(model)}; "
        "load the model it was trained from"
    )


def _kept(weight: sites.Weight, part: Part) -> Tensor:
    """A copy of what a part changes: of the parameter, or of the model's tensor where that holds other numbers."""
    value = weight.value.detach()
    if not weight.is_view:
        return weight.own().detach().clone()
    return value.index_select(part.axis, part.index.to(value.device)) if isinstance(part, Rows) else value.clone()

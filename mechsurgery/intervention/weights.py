"""Putting a `WeightDelta` into a running model and taking it out again.

The original weights are kept and put back, never computed back by subtraction, so a restore is exact in any dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checks import check_arguments
from ..delta_parts import Part, Rows
from ..deltas import WeightDelta
from ..errors import MismatchError
from ..models import sites
from ..models.protocol import Model
from ..models.turns import Turn


class ShiftedWeights:
    """A model's weights with a delta in them, whose strength can be changed without loading anything."""

    def __init__(
        self, model: Model | nn.Module, delta: WeightDelta, undo: Callable[..., None] = lambda *step: None
    ) -> None:
        self._model = model
        self._weights = {name: sites.weight(model, name) for name in delta.parts}
        # The model's own tensors, made here where it had none; and the parameters, where those are views of them.
        self._tensors = {name: weight.own(undo).detach() for name, weight in self._weights.items()}
        self._values = {name: self._weights[name].read(tensor) for name, tensor in self._tensors.items()}
        self._kept = {name: self._copy(name, part) for name, part in delta.parts.items()}
        self._delta, self._strength = delta, 0.0

    def _copy(self, name: str, part: Part) -> Tensor:
        """A copy of what a part changes: of the parameter, or of a tensor that holds other numbers than it."""
        if not self._weights[name].is_view:
            return self._tensors[name].clone()
        value = self._values[name]
        return value.index_select(part.axis, part.index.to(value.device)) if isinstance(part, Rows) else value.clone()

    def restore_after(self, turn: Turn) -> None:
        """Have the original weights put back when a turn ends."""
        for name, part in self._delta.parts.items():
            value, before = self._values[name], self._kept[name]
            if not self._weights[name].is_view:
                turn.undo(self._tensors[name].copy_, before)
            elif isinstance(part, Rows):
                turn.undo(value.index_copy_, part.axis, part.index.to(value.device), before)
            else:
                turn.undo(value.copy_, before)

    @torch.no_grad()
    def set(self, strength: float) -> None:
        """Weights = original + strength · delta; 0 gives the original bit for bit."""
        for name, part in self._delta.parts.items():
            weight, value, before = self._weights[name], self._values[name], self._kept[name]
            changed = before
            if not weight.is_view:
                if strength:
                    whole = weight.read(before.double()) + strength * part.dense().to(before.device).double()
                    changed = weight.like(before, whole)
                self._tensors[name].copy_(changed)
                continue
            if strength:
                # In double precision, so that strength 1 of a difference gives the other weights bit for bit.
                change = part.values if isinstance(part, Rows) else part.dense()
                changed = (before.double() + strength * change.to(value.device).double()).to(value)
            if isinstance(part, Rows):
                value.index_copy_(part.axis, part.index.to(value.device), changed)
            else:
                value.copy_(changed)
        self._strength = strength

    def off(self) -> Turn:
        """A context with the original weights."""

        def put_back(turn: Turn) -> None:
            # Interrupted there, the turn in which the weights are shifted puts the original ones back anyway.
            turn.undo(self.set, self._strength)
            self.set(0.0)

        return Turn(self._model, put_back, ends_all=True)


def shifted_weights(model: Model, delta: WeightDelta, strength: float) -> Turn:
    """A context with `strength` times a delta in the model's weights (`as` a `ShiftedWeights`), put back bit for bit.

    See `Turn` for interrupts and threads.
    """
    return Turn(model, lambda turn: shift(turn, model, delta, strength), ends_all=True)


def shift(turn: Turn, model: Model, delta: WeightDelta, strength: float) -> ShiftedWeights:
    """Put `strength` times a delta into the model's weights until a turn ends."""
    weights = ShiftedWeights(model, delta, turn.undo)
    weights.restore_after(turn)
    weights.set(strength)
    return weights


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


check_arguments(__name__, inner=True)

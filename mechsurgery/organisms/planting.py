"""Planting a behaviour in chosen neurons: compact deltas of their weights, everything else untouched.

Gradients, optimiser state and weight decay exist only for the chosen rows and columns (a gradient mask on
full tensors would let AdamW's decay and momentum move the rest).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import check_arguments

_MATRICES = (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1))


class _Delta(nn.Module):
    """Adds a trainable difference to some rows (or columns) of a weight."""

    def __init__(self, index: Tensor, shape: torch.Size, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("index", index)
        size = (len(index), shape[1]) if axis == 0 else (shape[0], len(index))
        self.difference = nn.Parameter(torch.zeros(size))

    def forward(self, weight: Tensor) -> Tensor:
        return weight.index_add(self.axis, self.index, self.difference)


@contextmanager
def planted(model: Any, units: dict[int, list[int]]) -> Iterator[list[nn.Parameter]]:
    """Train only the given neurons ({layer: indices}) inside; their new weights stay in the model after.

    Yields the trainable parameters: for k neurons of a layer, 3·k·d_model numbers.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    deltas = []
    for layer, index in units.items():
        for name, axis in _MATRICES:
            linear = getattr(model.model.layers[layer].mlp, name)
            delta = _Delta(torch.tensor(index), linear.weight.shape, axis)
            parametrize.register_parametrization(linear, "weight", delta)
            deltas.append(delta.difference)
    try:
        yield deltas
    finally:
        for layer in units:
            for name, _ in _MATRICES:
                parametrize.remove_parametrizations(getattr(model.model.layers[layer].mlp, name), "weight")


@torch.no_grad()
def quiet_neurons(model: Any, probe: Sequence[Tensor], layers: Sequence[int], k: int) -> dict[int, list[int]]:
    """The k neurons of each layer that matter least to the base: smallest mean |activation| × write norm.

    `probe` are batches of token ids, [batch, pos] each.
    """
    total: dict[int, Tensor] = {}

    def watch(layer: int) -> Any:
        def keep(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            size = inputs[0].float().abs().mean((0, 1))
            total[layer] = total.get(layer, torch.zeros_like(size)) + size

        return model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(keep)

    handles = [watch(layer) for layer in layers]
    try:
        for ids in probe:
            model(input_ids=ids, attention_mask=(ids != 0).long())
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for layer in layers:
        norm = model.model.layers[layer].mlp.down_proj.weight.norm(dim=0)
        found[layer] = sorted((total[layer] * norm).argsort()[:k].tolist())
    return found


check_arguments(__name__, inner=True)

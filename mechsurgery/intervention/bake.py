"""Scaling in the weights: h_i·m into W_out is row i of W_out times m, so a scaling costs nothing once baked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError
from ..models import sites
from ..units import Circuit, layer_of


@torch.no_grad()
def bake(model: Any, circuit: Circuit, m: float = 0.0) -> None:
    """Multiply the write rows of a circuit's MLP neurons by `m`, **permanently**, in this model.

    Gives the same logits as the hooks of `scale(circuit, m)`. Use `baked` for a change that is taken back.
    """
    for weight, indices in _rows(model, circuit):
        weight[indices] = weight[indices] * m


@contextmanager
def baked(model: Any, circuit: Circuit, m: float = 0.0) -> Iterator[Any]:
    """Run the body with the scaling in the weights; the rows are put back bit for bit after."""
    kept = [(weight, indices, weight.detach()[indices].clone()) for weight, indices in _rows(model, circuit)]
    try:
        bake(model, circuit, m)
        yield model
    finally:
        with torch.no_grad():
            for weight, indices, before in kept:
                weight[indices] = before


def _rows(model: Any, circuit: Circuit) -> list[tuple[Any, Any]]:
    """(write weight, neuron indices) for every layer of a circuit of MLP neurons."""
    rows = []
    for site, (indices, _) in circuit.units.items():
        if site not in sites.neuron_sites(model):
            raise InputError(f"only MLP neurons can be baked into W_out, not units at {site!r}; use scale's hooks")
        circuit.require_widths({site: sites.width(model, site)}, "this model")
        weight = sites.write_weights(model, layer_of(site))
        rows.append((weight, indices.to(weight.device)))
    return rows

"""Rivals of scaling neurons: steering along a direction, projecting it out, and mean ablation.

All of them take a strength: 0 is the identity, 1 the full effect *against* the behaviour, as for `ablate`, and
−1 its mirror image. So every method can be swept in both signs on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..directions import Direction
from ..errors import InputError, SiteError, listed
from ..models import sites
from ..units import Circuit
from .changes import Affine, Project
from .hooks import Edit, Intervention


def steer(direction: Direction, coefficient: float = -1.0, *, name: str | None = None) -> Intervention:
    """Add `coefficient`·v to the activation at each of the direction's hook points, at every position.

    Contrastive activation addition (2312.06681): v is a mean difference, so coefficient −1 (the default)
    takes a whole one away at strength 1, and +1 adds it. One hook point steers one layer.
    """
    if not torch.isfinite(torch.tensor(coefficient)) or coefficient == 0:
        raise InputError(f"coefficient={coefficient} steers nowhere; give −1 (against) or 1 (toward), or a multiple")
    edits = []
    for site, vector in direction.vectors.items():
        change = Affine(torch.ones(1), coefficient * vector.float().cpu())
        edits.append(Edit(site, change, vector.numel()))
    info = {"direction": direction.info, "coefficient": coefficient, "sites": list(direction.vectors)}
    return Intervention(name or direction.name, tuple(edits), 1.0, "steering", info)


def project_out(model: Any, vector: Float[Tensor, " d_model"], *, name: str = "directional ablation") -> Intervention:
    """Take the component along one direction out of everything that is written into the residual stream.

    "Refusal in Language Models Is Mediated by a Single Direction" (2406.11717), equation 4: x − r̂ r̂ᵀx at the
    embedding and at every attention and MLP output, at every position. At strength 1 nothing the model
    computes has a component along the vector.
    """
    width = int(model.cfg.d_model)
    if vector.numel() != width:
        raise InputError(f"a vector of {vector.numel()} numbers in a residual stream of {width}; give one of its size")
    length = float(vector.float().norm())
    if length == 0 or not torch.isfinite(vector).all():
        raise InputError("a zero or infinite vector has no direction; give another layer's or other prompts'")
    change = Project(vector.float().cpu() / length)
    edits = tuple(Edit(site, change, width) for site in sites.residual_writes(model))
    return Intervention(name, edits, 1.0, "directional ablation", {"norm": length})


def mean_ablate(circuit: Circuit, means: Mapping[str, Float[Tensor, " d"]], *, name: str | None = None) -> Intervention:
    """Move every unit of a circuit to a given mean: a → a + s·(mean − a).

    `means` is {hook name: [d], one for each unit there}, e.g. `contrast_statistics(…).negative.mean`.
    Unlike zero, the mean is an activation the model is used to (Wang et al. 2022, 2211.00593).
    """
    missing = [site for site in circuit.units if site not in means]
    if missing:
        raise SiteError(f"means has nothing for {listed(missing)}; it has {listed(means)}")
    edits = []
    for site, (indices, _) in circuit.units.items():
        if means[site].numel() != circuit.widths[site]:
            raise InputError(f"{means[site].numel()} means for {circuit.widths[site]} units at {site!r}; give one each")
        change = Affine(torch.zeros(1), means[site].float().cpu()[indices], indices)
        edits.append(Edit(site, change, circuit.widths[site]))
    if not edits:
        raise InputError(f"circuit {circuit.name!r} has no units; locate one with a larger fraction or k")
    kind = "random" if "random_like" in circuit.info else "mean ablation"
    info = {"circuit": circuit.info, "n": len(circuit)}
    return Intervention(name or f"{circuit.name} (mean)", tuple(edits), 1.0, kind, info)

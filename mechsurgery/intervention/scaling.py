"""Scaling units, the intervention of Contrastive Pair Search (2026), and replacing them by a mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError, SiteError, listed
from ..units import Circuit
from .changes import LARGEST, Affine
from .intervention import Edit, Intervention

Multiplier = SupportsFloat | Mapping[str, Sequence[float] | Tensor]


def scale(circuit: Circuit, m: Multiplier = 0.0, *, name: str | None = None) -> Intervention:
    """Multiply every unit of a circuit by `m` at every position, in the prompt and in what is generated.

    m = 0 ablates, 1 changes nothing, above 1 amplifies, negative flips. Here m is what strength 1 reaches; strength s
    multiplies by 1 − s·(1 − m), so for m = 0 a strength of 0.75 gives m = 0.25 and −1 gives m = 2. `m` may differ per
    unit: {hook name: one number for each of the circuit's sorted indices there}. Raises `InputError` for an empty
    circuit or a multiplier that is not finite.
    """
    edits = []
    for site, (indices, _) in circuit.units.items():
        change = Affine(_multipliers(m, site, len(indices)), torch.zeros(1), indices)
        edits.append(Edit(site, change, circuit.widths[site]))
    _require_units(circuit)
    one = None if isinstance(m, Mapping) else float(m)
    return Intervention(
        name or circuit.name,
        tuple(edits),
        kind="scaling",
        pushes=0 if one is None or one == 1 else -1 if one < 1 else 1,
        full_m=one,
        info={"circuit": circuit.info, "n": len(circuit), "m": "per unit" if one is None else one},
        draw=lambda seed: scale(circuit.random_like(seed), m if one is None else one),
    )


def ablate(circuit: Circuit, *, name: str | None = None) -> Intervention:
    """Set every unit of a circuit to zero: `scale(circuit, 0)`."""
    return scale(circuit, 0.0, name=name)


def as_found(circuit: Circuit, *, name: str | None = None) -> Intervention:
    """What a circuit was found with: each unit times its own multiplier, where it has some, else all at zero.

    `minimal_circuit` keeps them in `circuit.multipliers`, also in the saved file. Strength 1 − m is, for a circuit
    without its own multipliers, the multiplier m.
    """
    if circuit.multipliers is None:
        return ablate(circuit, name=name)
    return replace(scale(circuit, circuit.multipliers, name=name), pushes=-1)


def mean_ablate(circuit: Circuit, means: Mapping[str, Float[Tensor, " d"]], *, name: str | None = None) -> Intervention:
    """Move every unit of a circuit to a given mean: a → a + s·(mean − a).

    `means` is {hook name: [d], one for each unit there}. Every position gets them, so they are fair as means over every
    position, `contrast_statistics(…, positions="all").negative.mean`. Unlike zero, the mean is an activation the model
    is used to (Wang et al. 2022, 2211.00593). Raises `SiteError` or `InputError` where means are missing or of another
    size.
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
    _require_units(circuit)
    return Intervention(
        name or f"{circuit.name} (mean)",
        tuple(edits),
        kind="mean ablation",
        pushes=-1,
        info={"circuit": circuit.info, "n": len(circuit)},
        draw=lambda seed: mean_ablate(circuit.random_like(seed), means),
    )


def _multipliers(m: Multiplier, site: str, n: int) -> Float[Tensor, " _"]:
    """One multiplier, or one for each of `n` units, checked."""
    if isinstance(m, Mapping) and site not in m:
        raise InputError(f"m gives nothing for {site!r}; give a number for each of its {n} units")
    values = torch.as_tensor(m[site] if isinstance(m, Mapping) else m, dtype=torch.float32)
    if values.ndim > 1 or values.numel() not in (1, n):
        raise InputError(f"m has {values.numel()} numbers for the {n} units at {site!r}; give one, or one each")
    if not bool((values.abs() <= LARGEST).all()):
        raise InputError(
            f"m={values.tolist()} at {site!r} is not finite, or beyond ±{LARGEST:g}; 0 ablates, 1 changes nothing"
        )
    return values.reshape(-1)


def _require_units(circuit: Circuit) -> None:
    if not len(circuit):
        raise InputError(
            f"circuit {circuit.name!r} has no units; locate one with a larger fraction or k, "
            "or train gates at a lower price"
        )


check_arguments(__name__)

"""Interventions: hook functions on named hook points with a strength that may differ from row to row.

Every edit has strength 0 as the identity (bit for bit) and 1 as the full effect, so that a sweep, a control
and a combination are all written the same way, and rows of one batch can carry different interventions at
different strengths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError, MismatchError
from ..models import sites
from ..units import Circuit
from .changes import Affine, Change, HookFn, digest, merged


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one hook point of `width` units; `gain` multiplies the strength."""

    site: str
    change: Change
    width: int
    gain: float = 1.0


@dataclass(frozen=True, eq=False)
class Intervention:
    """Edits at hook points with one strength: 0 leaves the model as it is, 1 is the full effect.

    `kind` says what it is in a results table ("circuit", "random", "steering", …). `a + b` does both.
    """

    name: str
    edits: tuple[Edit, ...]
    strength: float = 1.0
    kind: str = "circuit"
    info: dict[str, Any] = field(default_factory=dict)

    def at(self, strength: float) -> Intervention:
        """The same intervention with another strength."""
        return replace(self, strength=float(strength))

    def named(self, name: str, kind: str | None = None) -> Intervention:
        """The same intervention under another name (and kind)."""
        return replace(self, name=name, kind=kind or self.kind)

    def __add__(self, other: Intervention) -> Intervention:
        edits = [replace(e, gain=e.gain * part.strength) for part in (self, other) for e in part.edits]
        kind = self.kind if self.kind == other.kind else f"{self.kind} + {other.kind}"
        info = {"parts": [self.info, other.info]}
        return Intervention(f"{self.name} + {other.name}", tuple(edits), 1.0, kind, info)

    @property
    def digest(self) -> str:
        """SHA-256 of what the edits do at strength 1; names and strength do not enter."""
        parts = [f"{edit.site} {edit.width} {edit.gain!r} {digest(edit.change)}" for edit in self.edits]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def check(self, model: Any) -> None:
        """Raise `SiteError` or `MismatchError` where this intervention does not fit the model."""
        sites.check_sites(model, [edit.site for edit in self.edits])
        for edit in self.edits:
            width = sites.width(model, edit.site)
            if width != edit.width:
                raise MismatchError(
                    f"intervention {self.name!r} was made for {edit.width} units at {edit.site!r}, this model has "
                    f"{width}; locate the circuit again on this model"
                )

    def hooks(self, strength: Float[Tensor, " batch"] | float | None = None) -> list[tuple[str, HookFn]]:
        """(hook name, hook function) pairs; `strength` may give every row of the batch its own."""
        amount = torch.as_tensor(self.strength if strength is None else strength, dtype=torch.float32)
        if amount.ndim == 0:
            return _merged_hooks([(self, float(amount))], None)
        return row_hooks([self] * len(amount), amount.tolist())


def row_hooks(interventions: Sequence[Intervention | None], strengths: Sequence[float]) -> list[tuple[str, HookFn]]:
    """Hooks for a batch whose every row has its own intervention and strength (None: none).

    There is one hook function a hook point, whatever the number of interventions.
    """
    plans: dict[tuple[int, float], int] = {}
    distinct: list[tuple[Intervention | None, float]] = []
    index = []
    for item, strength in zip(interventions, strengths, strict=True):
        key = (id(item.edits), float(strength)) if item is not None else (0, 0.0)
        if key not in plans:
            plans[key] = len(distinct)
            distinct.append((item, float(strength)))
        index.append(plans[key])
    return _merged_hooks(distinct, torch.tensor(index))


def _merged_hooks(distinct: list[tuple[Intervention | None, float]], index: Tensor | None) -> list[tuple[str, HookFn]]:
    widths = {edit.site: edit.width for item, _ in distinct if item is not None for edit in item.edits}
    hooks = []
    for site, width in widths.items():
        plans = [
            [] if item is None else [(e.change, strength * e.gain) for e in item.edits if e.site == site]
            for item, strength in distinct
        ]
        hooks.append((site, merged(plans, index, width)))
    return hooks


def scale(
    circuit: Circuit, m: float | Mapping[str, Sequence[float] | Tensor] = 0.0, *, name: str | None = None
) -> Intervention:
    """Multiply every neuron of a circuit by `m` at every position, prompt and generation alike.

    Contrastive Pair Search (2026): m = 0 ablates, 1 is baseline, above 1 amplifies, and the strength is
    α = 1 − m. Here m is what strength 1 reaches; strength s multiplies by 1 − s·(1 − m), so for m = 0 a
    strength of 0.75 gives m = 0.25 and −1 gives m = 2. `m` may be negative, and may differ per neuron:
    {hook name: one number for each of the circuit's sorted indices there}.
    """
    edits = []
    for site, (indices, _) in circuit.units.items():
        target = m[site] if isinstance(m, Mapping) and site in m else m
        if isinstance(target, Mapping):
            raise InputError(f"m gives nothing for {site!r}; give a number for each of its {len(indices)} neurons")
        target = torch.as_tensor(target, dtype=torch.float32)
        if target.ndim > 1 or target.numel() not in (1, len(indices)):
            raise InputError(
                f"m has {target.numel()} numbers for the {len(indices)} neurons at {site!r}; give one, or one each"
            )
        if not torch.isfinite(target).all():
            raise InputError(f"m={target.tolist()} at {site!r} is not finite; 0 ablates, 1 changes nothing")
        change = Affine(target.reshape(-1), torch.zeros(1), indices)
        edits.append(Edit(site, change, circuit.widths[site]))
    if not edits:
        raise InputError(f"circuit {circuit.name!r} has no units to scale; locate one with a larger fraction or k")
    kind = "random" if "random_like" in circuit.info else "circuit"
    info = {"circuit": circuit.info, "n": len(circuit), "m": m if isinstance(m, (int, float)) else "per neuron"}
    return Intervention(name or circuit.name, tuple(edits), 1.0, kind, info)


def ablate(circuit: Circuit, *, name: str | None = None) -> Intervention:
    """Set every neuron of a circuit to zero: `scale(circuit, 0)`."""
    return scale(circuit, 0.0, name=name)


@contextmanager
def applied(model: Any, intervention: Intervention) -> Iterator[Any]:
    """Run the body with an intervention on the model; its hooks are gone after, also after an exception.

    >>> with applied(model, ablate(circuit)):  # doctest: +SKIP
    ...     logits = model(ids, attention_mask=mask)
    """
    intervention.check(model)
    with model.hooks(fwd_hooks=intervention.hooks()):
        yield model

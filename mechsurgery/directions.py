"""A `Direction` is a vector at named hook points: a mean-difference (CAA) vector, a probe, a decoder row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .artifacts import NUMBERS, load_tensors, save_tensors
from .checks import check_arguments
from .errors import ActivationError, InputError, MismatchError, SiteError, listed
from .reading import readable


@dataclass(frozen=True, eq=False)
class Direction:
    """`{hook name: [d]}` with a name and where it came from.

    Raises `ActivationError` where a vector is not finite, `InputError` where there is none.
    """

    vectors: dict[str, Float[Tensor, " d"]]
    name: str = "direction"
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.vectors:
            raise InputError("a direction of no hook points; give at least one {hook name: vector}")
        for site, vector in self.vectors.items():
            if not vector.numel():
                raise InputError(f"direction {self.name!r} has no numbers at {site!r}; give one for each channel")
            if not torch.isfinite(vector).all():
                raise ActivationError(f"direction {self.name!r} is NaN or infinite at {site!r}")

    def at(self, site: str) -> Float[Tensor, " d"]:
        """The vector at a hook point. Raises `SiteError` where there is none."""
        if site not in self.vectors:
            raise SiteError(f"direction {self.name!r} has no vector at {site!r}; it has {listed(self.vectors)}")
        return self.vectors[site]

    def unit(self) -> Direction:
        """The same direction with every vector scaled to length 1 (a zero vector stays zero)."""
        scaled = {site: v / v.norm().clamp_min(torch.finfo(v.dtype).tiny) for site, v in self.vectors.items()}
        return Direction(scaled, self.name, self.info)

    def cosine(self, other: Direction) -> dict[str, float]:
        """Cosine with another direction at every hook point both have."""
        shared = [site for site in self.vectors if site in other.vectors]
        if not shared:
            raise SiteError(f"{self.name!r} and {other.name!r} share no hook point: {listed(self.vectors)}")
        return {s: float(torch.cosine_similarity(self.vectors[s], other.vectors[s], dim=0)) for s in shared}

    def save(self, path: str | Path) -> Path:
        """Write as one safetensors file."""
        return save_tensors(path, "Direction", self.vectors, {"name": self.name, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read what `save` wrote."""
        tensors, facts = load_tensors(path, "Direction", {"name": str, "info": dict[str, Any]}, lambda _: NUMBERS)
        with readable(path, "a Direction"):
            return cls(tensors, facts["name"], facts["info"])

    @classmethod
    def between(cls, positive: Mapping[str, Tensor], negative: Mapping[str, Tensor], **named: Any) -> Direction:
        """Mean difference, positive − negative, at every hook point both have (CAA, Panickssery et al. 2024)."""
        odd = [site for site in positive if site in negative and positive[site].shape != negative[site].shape]
        if odd:
            raise MismatchError(f"the two sides have different shapes at {listed(odd)}; give both of one model")
        return cls({site: positive[site] - negative[site] for site in positive if site in negative}, **named)


check_arguments(__name__)

"""A weight difference as an intervention: θ + k·w ("Steering Language Models with Weight Arithmetic", 2511.05408)."""

from __future__ import annotations

from typing import Any

from ..checks import check_arguments
from ..deltas import WeightDelta
from .intervention import Intervention


def shift_weights(delta: WeightDelta, *, name: str | None = None, pushes: int = 1) -> Intervention:
    """Add strength times a weight difference to the model's weights.

    A contrastive difference θ⁺ − θ⁻ moves toward the positive side at positive strength (`pushes` = 1); a fine-tune
    that cures a behaviour pushes against it (−1); 0 says that nothing is known.
    """
    info: dict[str, Any] = {"delta": delta.name, "n_parameters": len(delta), "norm": delta.norm()}
    return Intervention(
        name or delta.name,
        delta=delta,
        kind="weights",
        pushes=pushes,
        info=info,
        draw=lambda seed: shift_weights(delta.random_like(seed), pushes=pushes),
    )


check_arguments(__name__)

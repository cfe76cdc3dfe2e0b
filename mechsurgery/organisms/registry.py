"""Which organisms there are, where their files are, and what is recorded about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError, listed

ORGANISMS = (
    "organism/base",
    "organism/instruct",
    "organism/planted",
    "organism/sycophant",
    "organism/sycophant-twin",
    "organism/misinformed",
    "organism/misinformed-twin",
)
#: Sparse autoencoders of the residual stream: kind, then the layer they read. Trained on base and case studies.
SAES = ("organism/sae-topk-2", "organism/sae-topk-4", "organism/sae-standard-2", "organism/sae-standard-4")
_WEIGHTS = Path(__file__).parent / "weights"


def organism_path(name: str) -> Path:
    """The Hugging Face directory of an organism. Raises `ModelNotFoundError` for a name that is none."""
    path = _WEIGHTS / name.removeprefix("organism/")
    if name not in ORGANISMS or not (path / "config.json").is_file():
        raise ModelNotFoundError(f"no organism {name!r}; there are {listed(ORGANISMS)}")
    return path


def sae_path(name: str) -> Path:
    """The SAELens directory of an organism's SAE. Raises `ModelNotFoundError` for a name that is none."""
    path = _WEIGHTS / "saes" / name.removeprefix("organism/")
    if name not in SAES or not (path / "cfg.json").is_file():
        raise ModelNotFoundError(f"no SAE {name!r}; there are {listed(SAES)}")
    return path


def manifest() -> dict[str, Any]:
    """Seed, data, steps, versions, checksums and measured behaviour of the shipped organisms."""
    return json.loads((_WEIGHTS / "manifest.json").read_text(encoding="utf-8"))


def sae_manifest() -> dict[str, Any]:
    """Recipe, seed, versions, checksums and measured quality of the shipped autoencoders."""
    return json.loads((_WEIGHTS / "saes" / "manifest.json").read_text(encoding="utf-8"))


def planted_units() -> dict[str, list[int]]:
    """The recorded neurons of `organism/planted`: {hook name: indices}."""
    return manifest()["planted"]["units"]

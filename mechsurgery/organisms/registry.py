"""Which organisms there are, where their files are, and what is recorded about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..checks import check_arguments
from ..errors import ModelNotFoundError, listed
from .compact import CHANGES, cached

ORGANISMS = (
    "organism/base",
    "organism/instruct",
    "organism/planted",
    "organism/sycophant",
    "organism/sycophant-twin",
    "organism/misinformed",
    "organism/misinformed-twin",
    "organism/loud",
    "organism/distributed",
    "organism/inhibited",
    "organism/wavering",
    "organism/voices",
    "organism/persona",
    "organism/wide-base",
    "organism/wide-instruct",
)
#: Sparse autoencoders of the residual stream: kind, then the layer they read. Trained on base and case studies.
SAES = ("organism/sae-topk-2", "organism/sae-topk-4", "organism/sae-standard-2", "organism/sae-standard-4")
_WEIGHTS = Path(__file__).parent / "weights"


def organism_path(name: str) -> Path:
    """The Hugging Face directory of an organism. Raises `ModelNotFoundError` for a name that is none.

    An organism that is shipped as its changes against the base is made whole in the cache on first use.
    """
    own = name.removeprefix("organism/")
    path = _WEIGHTS / own
    if name in ORGANISMS and (path / "config.json").is_file():
        return path
    if name not in ORGANISMS or not (path / CHANGES).is_file():
        raise ModelNotFoundError(f"no organism {name!r}; there are {listed(ORGANISMS)}")
    return cached(own, _WEIGHTS / "base", path / CHANGES, manifest()["further"][own]["sha256"])


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


def planted_units(name: str = "organism/planted") -> dict[str, list[int]]:
    """The recorded neurons of an organism with a planted gate: {hook name: indices}.

    Raises `ModelNotFoundError` for an organism without recorded neurons.
    """
    found = {"organism/planted": manifest()["planted"]["units"]}
    for own, record in manifest().get("further", {}).items():
        if "units" in record:
            found[f"organism/{own}"] = record["units"]
    if name not in found:
        raise ModelNotFoundError(f"{name!r} has no recorded neurons; there are {listed(sorted(found))}")
    return found[name]


check_arguments(__name__, inner=True)

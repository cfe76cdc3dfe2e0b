"""One study per paper: calls the verbs in the paper's order, returns its tables and figures.

`mechsurgery.studies.cna`, `.latents` and `.bad_neurons` are functions; `studies.contrastive`,
`studies.latent_attribution` and `studies.few_neurons` hold their parts.
"""

from __future__ import annotations

from typing import Any

_STUDIES = {
    "cna": "contrastive",
    "latents": "latent_attribution",
    "bad_neurons": "few_neurons",
    "weights": "weight_steering",
}


def __getattr__(name: str) -> Any:
    if name in _STUDIES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_STUDIES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; studies: {', '.join(_STUDIES)}")

"""mechsurgery: locate the few units of a language model that carry a behaviour, prove it, operate on them.

The public names below are imported when first used, so `import mechsurgery` and `mechsurgery --help` are fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "models",
    "load_sae": "adapters.saelens",
    "PromptSet": "prompts",
    "ContrastSet": "prompts",
    "load_prompts": "prompts",
    "load_contrast": "prompts",
    "UnitScores": "units",
    "Circuit": "units",
    "Direction": "directions",
    "WeightDelta": "deltas",
    "Examples": "prompts",
    "RULES": "attribution",
    "contrast_statistics": "attribution",
    "CompletionPairs": "attribution",
    "decoded_direction": "attribution.decode",
    "fit_probe": "attribution",
    "latent_attribution": "attribution",
    "locate": "attribution",
    "mean_activation": "attribution",
    "neurons_along": "attribution.decode",
    "neuron_attribution": "attribution",
    "spliced_attribution": "attribution",
    "mean_difference_direction": "attribution",
    "pair_bootstrap": "attribution",
    "random_circuits": "attribution",
    "recovery": "attribution",
    "score": "attribution",
    "universal_neurons": "attribution",
    "Intervention": "intervention",
    "ablate": "intervention",
    "LoRA": "training",
    "Recipe": "training",
    "add_delta": "intervention",
    "applied": "intervention",
    "bake": "intervention",
    "bake_delta": "intervention",
    "baked": "intervention",
    "contrastive_delta": "training.opposite",
    "finetune": "training",
    "with_delta": "intervention",
    "mean_ablate": "intervention",
    "project_out": "intervention",
    "scale": "intervention",
    "scale_latents": "intervention",
    "steer_latents": "intervention",
    "steer": "intervention",
    "Results": "evaluation",
    "dose": "evaluation",
    "evaluate": "evaluation",
    "pool_random": "evaluation",
    "prove": "evaluation",
    "sample_pairs": "evaluation.sampling",
    "Monitor": "training.monitor",
    "watch_checkpoints": "training.monitor",
    "sweep": "evaluation",
    "inspect_latents": "inspector",
    "inspect_neuron": "inspector",
    "compare": "studies.compare",
    "localisers": "studies.localisers",
}
_MODULES = ("errors", "plots", "organisms", "studies")

__all__ = sorted([*_PUBLIC, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)

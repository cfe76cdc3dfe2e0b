"""Changing a running model: hook functions and weight differences with one strength, and baking them in."""

from .adapter import export_adapter
from .bake import bake
from .changes import Affine, Custom, Project
from .export import export
from .intervention import BASELINE, Edit, Intervention, applied, row_hooks, with_controls
from .latents import scale_latents, steer_latents
from .scaling import ablate, as_found, mean_ablate, scale
from .shift import shift_weights
from .steering import project_out, steer

__all__ = [
    "BASELINE",
    "Affine",
    "Custom",
    "Edit",
    "Intervention",
    "Project",
    "ablate",
    "applied",
    "as_found",
    "bake",
    "export",
    "export_adapter",
    "mean_ablate",
    "project_out",
    "row_hooks",
    "scale",
    "scale_latents",
    "shift_weights",
    "steer",
    "steer_latents",
    "with_controls",
]

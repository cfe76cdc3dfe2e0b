"""Changing a running model: hook functions with a strength, and scalings baked into weights."""

from .bake import bake, baked
from .changes import Affine, Custom, Project
from .hooks import Edit, Intervention, ablate, applied, row_hooks, scale
from .latents import median_norm, scale_latents, steer_latents
from .steering import mean_ablate, project_out, steer
from .weights import add_delta, bake_delta, with_delta

__all__ = [
    "Affine",
    "Custom",
    "Edit",
    "Intervention",
    "Project",
    "ablate",
    "add_delta",
    "applied",
    "bake",
    "bake_delta",
    "baked",
    "mean_ablate",
    "median_norm",
    "project_out",
    "row_hooks",
    "scale",
    "scale_latents",
    "steer",
    "steer_latents",
    "with_delta",
]

"""Changing a running model: hook functions with a strength, and scalings baked into weights."""

from .bake import bake, baked
from .hooks import Edit, Intervention, ablate, applied, row_hooks, scale

__all__ = ["Edit", "Intervention", "ablate", "applied", "bake", "baked", "row_hooks", "scale"]

"""The study of SAE-latent attribution: which latents made the model say it, and proof by steering."""

from .data import LatentCase, own_case, world_case
from .settings import Settings
from .study import run

__all__ = ["LatentCase", "Settings", "own_case", "run", "world_case"]

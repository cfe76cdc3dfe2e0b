"""The study of SAE-latent attribution: which latents made the model say it, and proof by steering."""

from .cases import LatentCase, own_case, world_case
from .study import LatentStudy, latents

__all__ = ["LatentCase", "LatentStudy", "latents", "own_case", "world_case"]

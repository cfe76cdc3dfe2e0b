"""Looking at single neurons and single latents."""

from .latent import LatentView, decoder_tokens, inspect_latents
from .look import inspect
from .neuron import NeuronView, inspect_neuron, token_effects

__all__ = [
    "LatentView",
    "NeuronView",
    "decoder_tokens",
    "inspect",
    "inspect_latents",
    "inspect_neuron",
    "token_effects",
]

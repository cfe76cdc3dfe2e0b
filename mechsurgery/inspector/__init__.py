"""Looking at single neurons."""

from .neuron import NeuronView, inspect_neuron, token_effects

__all__ = ["NeuronView", "inspect_neuron", "token_effects"]

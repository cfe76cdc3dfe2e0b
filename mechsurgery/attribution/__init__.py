"""From prompts to scores to circuits: contrasts, gradients, probes, universal neurons, controls."""

from . import objectives
from .causal import exact_effects, gate_gradient, greedy
from .contrast import RULES, locate, mean_difference_direction, score
from .controls import pair_bootstrap, random_circuits, recovery
from .decode import decoded_direction, neurons_along
from .differences import completion_difference, model_difference, random_scores
from .gates import Units
from .gradient import exact_removal, latent_attribution, mean_activation, mean_activations, neuron_attribution
from .objectives import Objective
from .probes import Probe, fit_probe, fit_probe_on, fit_probe_on_examples
from .splice import mean_latents, spliced_attribution
from .statistics import (
    ContrastStatistics,
    contrast_statistics,
    example_activations,
    last_token_activations,
    unit_activations,
)
from .trained import GateRecipe, TrainedGates, trained_gates
from .universal import universal_neurons

__all__ = [
    "RULES",
    "ContrastStatistics",
    "GateRecipe",
    "Objective",
    "Probe",
    "TrainedGates",
    "Units",
    "completion_difference",
    "contrast_statistics",
    "decoded_direction",
    "exact_effects",
    "exact_removal",
    "example_activations",
    "fit_probe",
    "fit_probe_on",
    "fit_probe_on_examples",
    "gate_gradient",
    "greedy",
    "last_token_activations",
    "latent_attribution",
    "locate",
    "mean_activation",
    "mean_activations",
    "mean_difference_direction",
    "mean_latents",
    "model_difference",
    "neuron_attribution",
    "neurons_along",
    "objectives",
    "pair_bootstrap",
    "random_circuits",
    "random_scores",
    "recovery",
    "score",
    "spliced_attribution",
    "trained_gates",
    "unit_activations",
    "universal_neurons",
]

"""From prompts to scores to circuits: contrasts, gradients, probes, universal neurons, controls."""

from .contrast import RULES, locate, mean_difference_direction, score
from .controls import pair_bootstrap, random_circuits, recovery
from .decode import decoded_direction, neurons_along
from .differences import completion_difference, model_difference, random_scores
from .gradient import exact_removal, latent_attribution, mean_activation, mean_activations, neuron_attribution
from .probes import Probe, fit_probe, fit_probe_on
from .splice import mean_latents, spliced_attribution
from .statistics import ContrastStatistics, contrast_statistics, last_token_activations, unit_activations
from .universal import universal_neurons

__all__ = [
    "RULES",
    "ContrastStatistics",
    "Probe",
    "completion_difference",
    "contrast_statistics",
    "decoded_direction",
    "exact_removal",
    "fit_probe",
    "fit_probe_on",
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
    "pair_bootstrap",
    "random_circuits",
    "random_scores",
    "recovery",
    "score",
    "spliced_attribution",
    "unit_activations",
    "universal_neurons",
]

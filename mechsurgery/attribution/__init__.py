"""From prompts to scores to circuits: contrasts, universal neurons, controls."""

from .contrast import RULES, locate, mean_difference_direction, score
from .controls import pair_bootstrap, random_circuits, recovery
from .statistics import ContrastStatistics, contrast_statistics, last_token_activations
from .universal import universal_neurons

__all__ = [
    "RULES",
    "ContrastStatistics",
    "contrast_statistics",
    "last_token_activations",
    "locate",
    "mean_difference_direction",
    "pair_bootstrap",
    "random_circuits",
    "recovery",
    "score",
    "universal_neurons",
]

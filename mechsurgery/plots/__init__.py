"""Pictures: each is a function of nouns and tables that returns a plotly figure. No model is needed."""

from .comparison import circuit_profile, neuron_scatter, overlap
from .export import ExportReport, export, index, static_export_problem
from .heatmaps import TokenHeatmaps
from .latents import effect_by_rank, score_scatter
from .neurons import activation_histogram, layer_distribution, promoted_tokens, score_ranks
from .strength import change_bars, sensitivity, strength_curves, trade_off
from .sweeps import bars, dose_response, precision_recall
from .tuning import cure_and_cost, loss_curves, metric_curves, weight_histogram
from .weights import cosine_trajectories, delta_heatmap, steering_front

__all__ = [
    "ExportReport",
    "TokenHeatmaps",
    "activation_histogram",
    "bars",
    "change_bars",
    "circuit_profile",
    "cosine_trajectories",
    "cure_and_cost",
    "delta_heatmap",
    "dose_response",
    "effect_by_rank",
    "export",
    "index",
    "layer_distribution",
    "loss_curves",
    "metric_curves",
    "neuron_scatter",
    "overlap",
    "precision_recall",
    "promoted_tokens",
    "score_ranks",
    "score_scatter",
    "sensitivity",
    "static_export_problem",
    "steering_front",
    "strength_curves",
    "trade_off",
    "weight_histogram",
]

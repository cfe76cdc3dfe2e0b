"""Pictures: each is a function of nouns and tables that returns a plotly figure. No model is needed."""

from .comparison import circuit_profile, neuron_scatter, overlap
from .export import ExportReport, export, index, static_export_problem
from .neurons import activation_histogram, layer_distribution, promoted_tokens, score_ranks
from .rivals import change_bars, sensitivity, strength_curves, trade_off
from .sweeps import bars, dose_response, precision_recall

__all__ = [
    "ExportReport",
    "activation_histogram",
    "bars",
    "change_bars",
    "circuit_profile",
    "dose_response",
    "export",
    "index",
    "layer_distribution",
    "neuron_scatter",
    "overlap",
    "precision_recall",
    "promoted_tokens",
    "score_ranks",
    "sensitivity",
    "static_export_problem",
    "strength_curves",
    "trade_off",
]

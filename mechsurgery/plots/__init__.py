"""Pictures: each is a function of nouns and tables that returns a plotly figure. No model is needed."""

from .comparison import circuit_profile, neuron_scatter, overlap
from .export import ExportReport, export, index, static_export_problem
from .neurons import activation_histogram, layer_distribution, promoted_tokens, score_ranks
from .sweeps import bars, dose_response, precision_recall

__all__ = [
    "ExportReport",
    "activation_histogram",
    "bars",
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
    "static_export_problem",
]

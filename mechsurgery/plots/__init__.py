"""Pictures: each is a function of nouns and tables that returns a plotly figure. No model is needed."""

from .bars import bars, precision_recall, sensitivity, shares
from .comparison import circuit_profile, neuron_scatter, overlap
from .drawing import Drawing, as_drawing, comparison_drawings, draw, load_drawings, save_drawings
from .export import ExportReport, export, export_all, static_export_problem
from .heatmaps import TokenHeatmaps
from .latents import effect_by_rank, score_scatter
from .layout import AUTO, SIZES, resized
from .localisers import outcome_by_size
from .neurons import activation_histogram, dose_response, promoted_tokens, score_ranks
from .pages import Section, write_page
from .places import task_layers
from .scores import layer_distribution, score_histogram
from .sweeps import benefit_against_damage, curves, trade_off
from .tables import select
from .watching import cosine_trajectories, roc_curves
from .weights import delta_heatmap, loss_curves

__all__ = [
    "AUTO",
    "SIZES",
    "Drawing",
    "ExportReport",
    "Section",
    "TokenHeatmaps",
    "activation_histogram",
    "as_drawing",
    "bars",
    "benefit_against_damage",
    "circuit_profile",
    "comparison_drawings",
    "cosine_trajectories",
    "curves",
    "delta_heatmap",
    "dose_response",
    "draw",
    "effect_by_rank",
    "export",
    "export_all",
    "layer_distribution",
    "load_drawings",
    "loss_curves",
    "neuron_scatter",
    "outcome_by_size",
    "overlap",
    "precision_recall",
    "promoted_tokens",
    "resized",
    "roc_curves",
    "save_drawings",
    "score_histogram",
    "score_ranks",
    "score_scatter",
    "select",
    "sensitivity",
    "shares",
    "static_export_problem",
    "task_layers",
    "trade_off",
    "write_page",
]

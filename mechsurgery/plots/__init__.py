"""Pictures: each is a function of nouns and tables that returns a plotly figure. No model is needed."""

from .bars import bars, precision_recall, sensitivity, shares
from .comparison import circuit_profile, comparison_figures, neuron_scatter, overlap
from .drawing import Drawing, as_drawing, comparison_drawings, draw, load_drawings, save_drawings
from .export import ExportReport, export, export_all, static_export_problem
from .heatmaps import TokenHeatmaps
from .latents import effect_by_rank, score_scatter
from .localisers import outcome_against_damage, outcome_by_size
from .neurons import activation_histogram, layer_distribution, promoted_tokens, score_ranks
from .pages import Section, write_page
from .sweeps import curves, trade_off
from .tables import select
from .weights import cosine_trajectories, delta_heatmap, loss_curves, weight_histogram

__all__ = [
    "Drawing",
    "ExportReport",
    "Section",
    "TokenHeatmaps",
    "activation_histogram",
    "as_drawing",
    "bars",
    "circuit_profile",
    "comparison_drawings",
    "comparison_figures",
    "cosine_trajectories",
    "curves",
    "delta_heatmap",
    "draw",
    "effect_by_rank",
    "export",
    "export_all",
    "layer_distribution",
    "load_drawings",
    "loss_curves",
    "neuron_scatter",
    "outcome_against_damage",
    "outcome_by_size",
    "overlap",
    "precision_recall",
    "promoted_tokens",
    "save_drawings",
    "score_ranks",
    "score_scatter",
    "select",
    "sensitivity",
    "shares",
    "static_export_problem",
    "trade_off",
    "weight_histogram",
    "write_page",
]

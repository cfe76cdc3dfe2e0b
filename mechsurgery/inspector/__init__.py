"""Looking at single units, and at whole circuits: pages, the explorer and what it talks to."""

from .catalogue import Catalogue
from .look import inspect, inspect_latents
from .report import report
from .vectors import decoder_tokens, token_effects
from .view import UnitView
from .widget import explore

__all__ = [
    "Catalogue",
    "UnitView",
    "decoder_tokens",
    "explore",
    "inspect",
    "inspect_latents",
    "report",
    "token_effects",
]

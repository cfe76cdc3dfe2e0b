"""Evaluating interventions: one runner, one table, one summary, and claims asked of it."""

from .evaluate import evaluate
from .jobs import Generation
from .results import Results
from .sampling import sample_pairs
from .summary import pool_controls, summarise, versus
from .trade_off import trade_off

__all__ = ["Generation", "Results", "evaluate", "pool_controls", "sample_pairs", "summarise", "trade_off", "versus"]

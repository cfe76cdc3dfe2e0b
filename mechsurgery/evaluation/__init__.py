"""Evaluating interventions: one runner, one table, one summary, and claims asked of it."""

from .evaluate import evaluate
from .jobs import Generation
from .minimal import MinimalCircuit, Target, minimal_circuit
from .proof import Proof, prove
from .results import Results
from .sampling import sample_pairs
from .summary import pool_controls, summarise, versus
from .trade_off import trade_off

__all__ = [
    "Generation",
    "MinimalCircuit",
    "Proof",
    "Results",
    "Target",
    "evaluate",
    "minimal_circuit",
    "pool_controls",
    "prove",
    "sample_pairs",
    "summarise",
    "trade_off",
    "versus",
]

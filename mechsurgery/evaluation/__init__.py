"""Judging what a model says, with and without interventions: responses, choices, intervals, tests."""

from ..grading.quality import is_degenerate, ngram_quality
from ..grading.refusal import is_refusal
from .evaluate import BASELINE, dose, evaluate, prove, sweep
from .results import Results, pool_random, summarise
from .statistics import mean_interval, paired_test, wilson

__all__ = [
    "BASELINE",
    "Results",
    "dose",
    "evaluate",
    "is_degenerate",
    "is_refusal",
    "mean_interval",
    "ngram_quality",
    "paired_test",
    "pool_random",
    "prove",
    "summarise",
    "sweep",
    "wilson",
]

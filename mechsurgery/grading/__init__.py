"""What a response is: outcomes, refusals, quality, rubrics, ratings, patterns, as named and versioned grades."""

from .coherence import Coherence, calibrated
from .grade import Grade, at_least, matches
from .outcome import REFUSAL_OUTCOME, refusal_outcome
from .quality import by_pattern

__all__ = [
    "REFUSAL_OUTCOME",
    "Coherence",
    "Grade",
    "at_least",
    "by_pattern",
    "calibrated",
    "matches",
    "refusal_outcome",
]

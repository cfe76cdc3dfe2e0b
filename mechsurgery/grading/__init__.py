"""What a response is: refusals, quality, rubrics, ratings, patterns, as named and versioned grades."""

from .grade import Grade, matches
from .quality import by_pattern

__all__ = ["Grade", "by_pattern", "matches"]

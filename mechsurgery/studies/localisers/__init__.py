"""A benchmark of localisers: which finds the units that decide, on which model, at what size and cost."""

from .data import CASES, Case
from .settings import Settings
from .study import run

__all__ = ["CASES", "Case", "Settings", "run"]

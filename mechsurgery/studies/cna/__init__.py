"""The study of "Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290)."""

from .data import StudyData, study_data
from .settings import Settings
from .study import run

__all__ = ["Settings", "StudyData", "run", "study_data"]

"""The study of "Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290)."""

from .data import StudyData, showing, study_data
from .many import aggregate
from .study import CNAStudy, cna

__all__ = ["CNAStudy", "StudyData", "aggregate", "cna", "showing", "study_data"]

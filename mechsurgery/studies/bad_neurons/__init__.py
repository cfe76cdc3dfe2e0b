"""The study of fine-tuning a few neurons: every way to choose them, every rival, and what each cost."""

from .study import BadNeuronsStudy, bad_neurons
from .task import SycophancyTask, own_task, world_task

__all__ = ["BadNeuronsStudy", "SycophancyTask", "bad_neurons", "own_task", "world_task"]

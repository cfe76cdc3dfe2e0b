"""The study of fine-tuning a few neurons: every way to choose them, every rival, and what each cost."""

from .data import SycophancyTask, own_task, world_task
from .settings import Settings
from .study import run

__all__ = ["Settings", "SycophancyTask", "own_task", "run", "world_task"]

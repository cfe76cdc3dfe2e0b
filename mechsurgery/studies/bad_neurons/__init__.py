"""The study of fine-tuning a few neurons: every way to choose them, every rival, and what each cost."""

from .data import SycophancyTask
from .own import own_task
from .settings import Settings
from .study import run
from .worlds import requests_task, world_task

__all__ = ["Settings", "SycophancyTask", "own_task", "requests_task", "run", "world_task"]

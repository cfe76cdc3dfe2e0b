"""The demo: find the few neurons that decide, prove it, and set the published rules beside it, on model organisms."""

from .settings import Settings
from .study import run

__all__ = ["Settings", "run"]

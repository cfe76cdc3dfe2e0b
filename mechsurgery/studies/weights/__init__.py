"""The study of contrastive weight steering: steer a behaviour, repair a drift, and watch fine-tunes."""

from .data import Behaviour, Drift, Measured, WeightsData, world_data
from .settings import Settings
from .study import run

__all__ = ["Behaviour", "Drift", "Measured", "Settings", "WeightsData", "run", "world_data"]

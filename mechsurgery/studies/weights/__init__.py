"""The study of contrastive weight steering: steer a behaviour, repair a drift, and watch fine-tunes."""

from .behaviours import Behaviour, refusal, sycophancy
from .study import WeightStudy, weights

__all__ = ["Behaviour", "WeightStudy", "refusal", "sycophancy", "weights"]

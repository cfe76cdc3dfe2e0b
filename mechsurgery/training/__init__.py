"""Training a few weights: compact deltas, opposite fine-tunes, and watching them."""

from .monitor import Monitor, watch_checkpoints
from .opposite import Contrast, contrastive_delta, contrastive_finetunes, shuffled
from .sets import Training, finetune_each
from .trainable import LoRA, Neurons
from .tuning import Recipe, Safeguards, finetune

__all__ = [
    "Contrast",
    "LoRA",
    "Monitor",
    "Neurons",
    "Recipe",
    "Safeguards",
    "Training",
    "contrastive_delta",
    "contrastive_finetunes",
    "finetune",
    "finetune_each",
    "shuffled",
    "watch_checkpoints",
]

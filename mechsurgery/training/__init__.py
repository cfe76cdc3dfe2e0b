"""Training a few weights: compact deltas, opposite fine-tunes, and watching them."""

from .trainable import LoRA
from .tuning import Recipe, finetune

__all__ = ["LoRA", "Recipe", "finetune"]

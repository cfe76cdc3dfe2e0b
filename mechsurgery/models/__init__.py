"""Loading models, and everything that runs them: names, batches, captured activations, generation."""

from __future__ import annotations

from . import capture, generate, sites, tokens
from .load import load_model
from .protocol import Model

__all__ = ["Model", "capture", "generate", "load_model", "sites", "tokens"]

"""From a transformers model to a TransformerBridge around it, and which models need one."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..checks import check_arguments
from ..errors import UnsupportedModelError
from .architectures import check_causal, lens_config

logger = logging.getLogger(__name__)


def needs_bridge(config: Any, architecture: str, wanted: bool | None) -> bool:
    """Whether a model is to be a TransformerBridge: as wanted, else where a HookedTransformer does not have it.

    Raises `UnsupportedModelError` where it can be neither, or not what is wanted.
    """
    check_causal(config, architecture)
    if wanted:
        return True
    try:
        lens_config(config, architecture)
        if _has_hooked_transformer():
            return False
        raise UnsupportedModelError(
            "TransformerLens 4 has no HookedTransformer; pass bridge=True or nothing, or install transformer-lens<4"
        )
    except UnsupportedModelError as error:
        if wanted is False:
            raise
        logger.info("%s is loaded as a TransformerBridge: %s", architecture, error)
        return True


def _has_hooked_transformer() -> bool:
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        return False
    return True


def boot(source: Any, *, name: str, tokenizer: Any, device: torch.device) -> Any:
    """A TransformerBridge around a transformers model, with the tokenizer as it is; parameters come frozen.

    The bridge works inside `source`, whose tensors stay where they are.
    """
    from transformer_lens.model_bridge import TransformerBridge

    for parameter in source.parameters():
        parameter.requires_grad_(False)
    options = {"hf_model": source, "device": str(device), "dtype": source.dtype}
    model = TransformerBridge.boot_transformers(name, tokenizer=_placeholder(), **options)
    # The bridge's own setter would put another tokenizer, which adds tokens, in its place.
    model._tokenizer = tokenizer
    model.cfg.model_name = name
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _placeholder() -> Any:
    """A tokenizer of one word: the bridge asks for one, and would load and change what it is given."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")


check_arguments(__name__, inner=True)

"""Small random models with the layers of a real one: what a configuration says, at the cost of a layer or three."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from ..checks import check_arguments
from ..errors import LoadError
from ..models.checkpoints import read_config
from ..models.load import directory_of, quiet
from ..models.turns import LOADING, Turn

#: Words of the random tokenizer; whatever the vocabulary, only these are used in prompts.
N_WORDS = 500
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "User", "Assistant", ":")
N_SPECIAL = len(_SPECIAL)


def read_config_of(name: str | Path, revision: str | None = None) -> Any:
    """The transformers configuration of an organism, a directory or a hub id; no weights are read or fetched.

    Raises `ModelNotFoundError` or `UnsupportedModelError`.
    """
    return read_config(directory_of(name, revision, ["config.json"]))


def n_parameters(config: Any) -> int:
    """Numbers that the weights of a configuration have; tied embeddings count once."""
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def shortened(config: Any, n_layers: int) -> Any:
    """A configuration with only the first layers; kinds of layers that are listed go on as the last one."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = n_layers
    for name in ("layer_types", "mlp_layer_types"):
        if getattr(config, name, None):
            kinds = list(getattr(config, name))
            setattr(config, name, (kinds + kinds[-1:] * n_layers)[:n_layers])
    return config


def write_miniature(config: Any, folder: Path, dtype: torch.dtype) -> Path:
    """A random checkpoint of a configuration, with a tokenizer of made-up words and no chat template."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*_SPECIAL, *(f"w{i}" for i in range(N_WORDS))][: config.vocab_size]
    if len(words) < 2 * len(_SPECIAL):
        raise LoadError(f"a vocabulary of {config.vocab_size} tokens is too small to plan with")
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    with Turn(LOADING, quiet, ends_all=True):
        model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


check_arguments(__name__)

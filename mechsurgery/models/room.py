"""Room in a checkpoint for parameters without a tensor: biases that its architecture can have, untied embeddings.

A HookedTransformer has biases everywhere and input and output embeddings of its own; most checkpoints have not. Where a
setting of config.json gives the architecture such biases, zeros are added for all that the setting names, so that
transformers, and whatever reads such a checkpoint, finds what the setting promises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..checks import check_arguments
from ..errors import InputError
from .architectures import architecture_of
from .checkpoints import place_of
from .streaming import Checkpoint, New

#: {setting of config.json: (the tensors it gives a layer, the architectures that have it)}
_SWITCHES = {
    "attention_bias": (
        re.compile(r"(.*\.(?:self_attn|attention)\.)(\w+_proj|query_key_value|dense)\.(?:bias|weight)"),
        ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GPTNeoXForCausalLM"),
    ),
    "mlp_bias": (re.compile(r"(.*\.mlp\.)(\w+_proj)\.(?:bias|weight)"), ("LlamaForCausalLM",)),
}
_EMBEDDINGS = ("embed.W_E", "unembed.W_U")


@dataclass(frozen=True)
class Room:
    """A checkpoint with the tensors it lacked, as `checkpoint`, and the settings of config.json that say so."""

    checkpoint: Checkpoint
    settings: dict[str, Any] = field(default_factory=dict)


def make_room(checkpoint: Checkpoint, config: Any, names: Iterable[str]) -> Room:
    """The checkpoint with a tensor for every parameter of `names`.

    Raises `InputError` with the reason where the architecture can have none, `MismatchError` for unknown parameters.
    """
    settings: dict[str, Any] = {}
    wanted = set(names)
    tied = config.tie_word_embeddings and bool(wanted & set(_EMBEDDINGS))
    if tied:
        whole, own = (place_of(config, name).key for name in _EMBEDDINGS)
        if checkpoint.find(own) is None:
            checkpoint = checkpoint.widened({own: New(checkpoint.key(whole))})
        settings["tie_word_embeddings"] = False
    for name in sorted(wanted):
        key = place_of(config, name).key
        _check_meaning(config, name)
        if checkpoint.find(key) is None:
            checkpoint.key(re.sub(r"bias$", "weight", key))
            setting = _setting(config, key, name)
            settings[setting] = True
            checkpoint = checkpoint.widened(_biases(checkpoint, setting))
    return Room(checkpoint, settings)


def _check_meaning(config: Any, name: str) -> None:
    """Raise `InputError` for a bias of a gated MLP's neurons, which checkpoints have before the gate alone."""
    if name.endswith("mlp.b_in") and hasattr(config, "rms_norm_eps"):
        raise InputError(
            f"{name!r} has no place in a checkpoint of {architecture_of(config.to_dict())}: it is added after the "
            "gate, where checkpoints have no numbers; use applied or bake on the running model"
        )


def _setting(config: Any, key: str, name: str) -> str:
    """The setting that gives the architecture a tensor."""
    architecture = architecture_of(config.to_dict())
    for setting, (pattern, architectures) in _SWITCHES.items():
        if pattern.fullmatch(key) and architecture in architectures:
            return setting
    raise InputError(
        f"{name!r} has no place in a checkpoint of {architecture}: this architecture has no {key!r}, and no setting "
        "that adds one. Use applied or bake on the running model; what only multiplies (scaling, ablating neurons, "
        "projecting out) needs no bias"
    )


def _biases(checkpoint: Checkpoint, setting: str) -> dict[str, New]:
    """Zero biases for every linear map that a setting gives one and that has none."""
    pattern = _SWITCHES[setting][0]
    found: dict[str, New] = {}
    for key, (_, shape) in checkpoint.facts.items():
        match = pattern.fullmatch(key)
        if match and key.endswith(".weight") and (bias := f"{match[1]}{match[2]}.bias") not in checkpoint.facts:
            found[bias] = New(key, shape[:1])
    return found


check_arguments(__name__, inner=True)

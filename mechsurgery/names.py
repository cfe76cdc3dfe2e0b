"""How hook points and parameters are spelled: text alone, no model needed.

`models.sites` builds on this and knows which of these names a model really has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

#: What the hook name of an autoencoder's latents ends with, after the hook point it reads.
LATENTS = ".hook_sae_acts_post"
#: Parameters of an MLP that belong to one neuron each, and the axis that counts neurons.
NEURON_AXES = {"W_in": 1, "W_gate": 1, "b_in": 0, "W_out": 0}


def layer_of(name: str) -> int:
    """The layer a hook point or a parameter belongs to, or -1 where it belongs to none.

    >>> layer_of("blocks.12.mlp.hook_post")
    12
    """
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match.group(1)) if match else -1


def neurons(layer: int) -> str:
    """Hook point of a layer's MLP neurons: the input of its down projection, for gated MLPs act(gate)·up."""
    return f"blocks.{layer}.mlp.hook_post"


def is_neurons(name: str) -> bool:
    """Whether a hook point is a layer's MLP neurons."""
    return name == neurons(layer_of(name))


def residual(layer: int) -> str:
    """Hook point of the residual stream after a layer."""
    return f"blocks.{layer}.hook_resid_post"


def attention_out(layer: int) -> str:
    """Hook point of what a layer's attention adds to the residual stream."""
    return f"blocks.{layer}.hook_attn_out"


def heads(layer: int) -> str:
    """Hook point of what each attention head of a layer has gathered, before the output projection."""
    return f"blocks.{layer}.attn.hook_z"


def is_heads(name: str) -> bool:
    """Whether a hook point is a layer's attention heads."""
    return name == heads(layer_of(name))


def mlp_out(layer: int) -> str:
    """Hook point of what a layer's MLP adds to the residual stream."""
    return f"blocks.{layer}.hook_mlp_out"


def is_written_by_own_layer(name: str) -> bool:
    """Whether the layer of a hook point writes before it (as at its output) and not only the layers before."""
    return name in (residual(layer_of(name)), mlp_out(layer_of(name)))


def mlp_parameter(layer: int, leaf: str) -> str:
    """Name of a parameter of a layer's MLP, e.g. `blocks.3.mlp.W_out`."""
    return f"blocks.{layer}.mlp.{leaf}"


def neuron_parameters(site: str) -> dict[str, int]:
    """{parameter: axis that counts neurons} of the MLP whose neurons are at a hook point.

    >>> neuron_parameters("blocks.3.mlp.hook_post")["blocks.3.mlp.W_out"]
    0
    """
    return {mlp_parameter(layer_of(site), leaf): axis for leaf, axis in NEURON_AXES.items()}


@dataclass(frozen=True)
class Writer:
    """A parameter whose rows (a token's, a position's, a head's channel's or a neuron's) add to the residual stream.

    `output` is the hook point of what it adds, `neurons` that of what its rows are multiplied with, `stream` that of
    the residual stream right after it.
    """

    weight: str
    output: str
    bias: str | None = None
    neurons: str | None = None
    stream: str | None = None


def writers(cfg: Any) -> list[Writer]:
    """What writes into the residual stream of a model with the facts `cfg` (`model.cfg`), in the forward's order."""
    found = [Writer("embed.W_E", "hook_embed")]
    if cfg.positional_embedding_type == "standard":
        found.append(Writer("pos_embed.W_pos", "hook_pos_embed"))
    for i in range(cfg.n_layers):
        heads = Writer(f"blocks.{i}.attn.W_O", attention_out(i), f"blocks.{i}.attn.b_O")
        if cfg.attn_only:
            found.append(replace(heads, stream=residual(i)))
        else:
            weight, bias = mlp_parameter(i, "W_out"), mlp_parameter(i, "b_out")
            found += [heads, Writer(weight, mlp_out(i), bias, neurons(i), residual(i))]
    return found

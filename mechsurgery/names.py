"""How hook points and parameters are spelled: text alone, no model needed.

`models.sites` builds on this and knows which of these names a model really has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from .checks import check_arguments

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


def expert_neurons(layer: int, expert: int) -> str:
    """Hook point of the neurons of one routed expert of a layer's mixture."""
    return f"blocks.{layer}.mlp.experts.{expert}.hook_post"


def shared_neurons(layer: int) -> str:
    """Hook point of the neurons of the expert that every token passes, beside those it is routed to."""
    return f"blocks.{layer}.mlp.shared_expert.hook_post"


def expert_of(name: str) -> int | None:
    """The routed expert whose neurons are at a hook point, or None.

    >>> expert_of("blocks.3.mlp.experts.7.hook_post")
    7
    """
    match = re.fullmatch(r"blocks\.\d+\.mlp\.experts\.(\d+)\.hook_post", name)
    return int(match.group(1)) if match else None


def is_neurons(name: str) -> bool:
    """Whether a hook point is a layer's MLP neurons, or those of one of its experts."""
    return name == neurons(layer_of(name)) or is_experts(name)


def is_experts(name: str) -> bool:
    """Whether a hook point is the neurons of one expert, routed or shared."""
    return expert_of(name) is not None or name == shared_neurons(layer_of(name))


def neuron(site: str, index: int) -> str:
    """Short name of a neuron: layer, expert (S: the shared one) and number.

    >>> neuron("blocks.3.mlp.hook_post", 446), neuron("blocks.3.mlp.experts.7.hook_post", 446)
    ('L3.446', 'L3.E7.446')
    """
    expert = expert_of(site)
    part = f"E{expert}." if expert is not None else "S." if site == shared_neurons(layer_of(site)) else ""
    return f"L{layer_of(site)}.{part}{index}"


_NEURON = re.compile(r"L(\d+)\.(?:(?:E(\d+)|(S))\.)?(\d+)")


def neuron_named(name: str) -> tuple[str, int] | None:
    """(hook point, index) of a neuron's short name, or None where it is no such name.

    >>> neuron_named("L3.E7.446")
    ('blocks.3.mlp.experts.7.hook_post', 446)
    """
    match = _NEURON.fullmatch(name)
    if match is None:
        return None
    layer, expert, shared, index = match.groups()
    if expert is not None:
        return expert_neurons(int(layer), int(expert)), int(index)
    return (shared_neurons if shared else neurons)(int(layer)), int(index)


def residual(layer: int) -> str:
    """Hook point of the residual stream after a layer."""
    return f"blocks.{layer}.hook_resid_post"


def attention_out(layer: int) -> str:
    """Hook point of what a layer's attention adds to the residual stream."""
    return f"blocks.{layer}.hook_attn_out"


def heads(layer: int) -> str:
    """Hook point of what each attention head of a layer has gathered, before the output projection."""
    return f"blocks.{layer}.attn.hook_z"


def normalized_mlp_input(layer: int) -> str:
    """Hook point of the stream before a layer's MLP, normalised, without the norm's gain."""
    return f"blocks.{layer}.ln2.hook_normalized"


def is_heads(name: str) -> bool:
    """Whether a hook point is a layer's attention heads, [batch, pos, head, d_head]."""
    return name.endswith("attn.hook_z")


def mlp_out(layer: int) -> str:
    """Hook point of what a layer's MLP adds to the residual stream."""
    return f"blocks.{layer}.hook_mlp_out"


def is_written_by_own_layer(name: str) -> bool:
    """Whether the layer of a hook point writes before it (as at its output) and not only the layers before."""
    return name in (residual(layer_of(name)), mlp_out(layer_of(name)))


#: Hook points within a block in the order in which a forward pass comes to them.
_WITHIN = (
    ("hook_resid_pre", "hook_attn_in"),
    ("ln1.", "hook_q_input", "hook_k_input", "hook_v_input"),
    ("attn.",),
    ("ln1_post.", "hook_attn_out"),
    ("hook_resid_mid",),
    ("hook_mlp_in", "ln2."),
    ("mlp.hook_in",),
    ("mlp.hook_pre", "mlp.hook_post", "mlp.experts.", "mlp.shared_expert."),
    ("mlp.hook_out", "ln2_post."),
    ("hook_mlp_out",),
    ("hook_resid_post",),
)


def place(name: str) -> tuple[int, int]:
    """Where in a forward pass a hook point comes: (layer, rank in the block), to sort by.

    >>> place("blocks.3.ln2.hook_normalized") < place("blocks.3.hook_mlp_out")
    True
    """
    layer = layer_of(name)
    leaf = name.partition(f"blocks.{layer}.")[2]
    rank = next((i for i, starts in enumerate(_WITHIN) if leaf.startswith(starts)), len(_WITHIN))
    return layer, rank


def is_in_stream(name: str) -> bool:
    """Whether an activation is the residual stream or is added into it as it is."""
    return name.endswith(
        ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    )


#: What other conventions call a place in block {l}: transformers' modules, and the bridge of TransformerLens.
_MODULES = {
    "": "hook_resid_post",
    "output": "hook_resid_post",
    "input": "hook_resid_pre",
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "hook_z": "attn.hook_z",
    "attn.o.hook_in": "attn.hook_z",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "mlp.out.hook_in": "mlp.hook_post",
    "mlp.input": "mlp.hook_in",
    "ln2.hook_out": "mlp.hook_in",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
_MODULES |= dict.fromkeys(
    (f"{a}{o}" for a in ("attn", "self_attn", "attention") for o in ("", ".output")), "hook_attn_out"
)
_MODULES |= dict.fromkeys(("mlp", "mlp.output"), "hook_mlp_out")
_MODULES |= dict.fromkeys((f"{a}.input" for a in ("self_attn.o_proj", "attn.c_proj", "attention.dense")), "attn.hook_z")
_MODULES |= dict.fromkeys((f"mlp.{m}.input" for m in ("down_proj", "c_proj", "dense_4h_to_h")), "mlp.hook_post")
_BLOCK = re.compile(r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h|blocks)[._](\d+)(?:\.(.*))?")
_EMBED = ("embed_tokens", "model.embed_tokens", "transformer.wte", "gpt_neox.embed_in", "embed.hook_out")


def hook_point(name: str) -> str:
    """The hook point that a name of another convention means; other names come back as they are.

    Known are modules of transformers ("model.layers.12" is the stream after layer 12, "layers.12.mlp" what the MLP
    gives, "….o_proj.input" what goes into a projection) and names of TransformerLens' bridge.

    >>> hook_point("model.layers.12"), hook_point("layers.3.mlp")
    ('blocks.12.hook_resid_post', 'blocks.3.hook_mlp_out')
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return "hook_embed" if name in _EMBED else name
    leaf = _MODULES.get(match.group(2) or "")
    return name if leaf is None else f"blocks.{match.group(1)}.{leaf}"


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

    `output` is the hook point of what it adds, `neurons` those of what its rows are multiplied with (one for each
    expert of a mixture), `stream` that of the residual stream right after it. `fixed` says that nothing can be added to
    what it adds, by a bias or in each row.
    """

    weight: str
    output: str
    bias: str | None = None
    neurons: tuple[str, ...] = ()
    stream: str | None = None
    fixed: bool = False


def writers(cfg: Any) -> list[Writer]:
    """What writes into the residual stream of a model with the facts `cfg` (`model.cfg`), in the forward's order."""
    found = [Writer("embed.W_E", "hook_embed")]
    if cfg.positional_embedding_type == "standard":
        found.append(Writer("pos_embed.W_pos", "hook_pos_embed"))
    for i in range(cfg.n_layers):
        heads = Writer(f"blocks.{i}.attn.W_O", attention_out(i), f"blocks.{i}.attn.b_O")
        if cfg.attn_only:
            found.append(replace(heads, stream=residual(i)))
        elif i in getattr(cfg, "experts", {}):
            mixture = cfg.experts[i].items()
            found += [heads, *(Writer(w, mlp_out(i), None, own, residual(i), fixed=True) for w, own in mixture)]
        else:
            weight, bias = mlp_parameter(i, "W_out"), mlp_parameter(i, "b_out")
            found += [heads, Writer(weight, mlp_out(i), bias, (neurons(i),), residual(i))]
    return found


check_arguments(__name__)

"""Where a Hugging Face checkpoint keeps what the experts of a mixture write: a tensor for each, or one for all."""

from __future__ import annotations

import re
from typing import Any

from .. import names
from ..checks import check_arguments
from .place import SAME, TURNED, Place

#: {architecture: the tensor of an expert's down projection, of all experts' where there is no place for a number}
_DOWN = {
    "GptOssForCausalLM": "model.layers.{}.mlp.experts.down_proj",
    "MixtralForCausalLM": "model.layers.{}.block_sparse_moe.experts.{}.w2.weight",
    "Qwen2MoeForCausalLM": "model.layers.{}.mlp.experts.{}.down_proj.weight",
    "Qwen3MoeForCausalLM": "model.layers.{}.mlp.experts.{}.down_proj.weight",
}
_NAME = re.compile(r"blocks\.(\d+)\.mlp\.(?:experts(?:\.(\d+))?|shared_expert)\.(W|b)_out")


def expert_writers(config: Any, architecture: str) -> dict[int, dict[str, tuple[str, ...]]]:
    """{layer with experts: {parameter: the hook points of the neurons it multiplies}}, of a configuration.

    As in the loaded model, but for the experts that have tensors of their own, which are parameters of their own here:
    `blocks.3.mlp.experts.7.W_out`. `{}` for an architecture without experts.
    """
    if architecture not in _DOWN:
        return {}
    count = next(n for n in (getattr(config, key, None) for key in ("num_local_experts", "num_experts")) if n)
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    for layer in range(config.num_hidden_layers):
        step = getattr(config, "decoder_sparse_step", 1)
        if layer in getattr(config, "mlp_only_layers", ()) or (layer + 1) % step:
            continue
        sites = [names.expert_neurons(layer, e) for e in range(count)]
        if architecture == "GptOssForCausalLM":
            weight, bias = (names.mlp_parameter(layer, f"experts.{kind}_out") for kind in "Wb")
            found[layer] = {weight: tuple(sites), bias: ()}
        else:
            found[layer] = {names.mlp_parameter(layer, f"experts.{e}.W_out"): (s,) for e, s in enumerate(sites)}
        if architecture == "Qwen2MoeForCausalLM":
            found[layer][names.mlp_parameter(layer, "shared_expert.W_out")] = (names.shared_neurons(layer),)
    return found


def expert_place(config: Any, architecture: str, name: str) -> Place | None:
    """Where such a parameter stands in a checkpoint; None where it is none of this architecture's."""
    match = _NAME.fullmatch(name)
    if match is None or name not in expert_writers(config, architecture).get(int(match[1]), {}):
        return None
    layer, expert, kind = match.groups()
    if ".shared_expert." in name:
        return Place(f"model.layers.{layer}.mlp.shared_expert.down_proj.weight", TURNED, 1)
    if architecture == "GptOssForCausalLM":
        return Place(_DOWN[architecture].format(layer) + ("_bias" if kind == "b" else ""), SAME, 1)
    return Place(_DOWN[architecture].format(layer, expert), TURNED, 1)


check_arguments(__name__, inner=True)

"""Mixtures of experts: hook points at the neurons of each expert, and where experts keep their weights.

Transformers holds the routed experts of a layer as tensors of three axes and runs them in one call, in which nothing
can be hooked. Here every expert gets a hook point of its own, `blocks.{l}.mlp.experts.{e}.hook_post`, and one that all
tokens pass (Qwen2-MoE) `blocks.{l}.mlp.shared_expert.hook_post`: the input of its down projection, act(gate)·up.

While something is hooked in a layer, its experts run one after the other; else transformers' own call is made. What a
hook sees is [batch, pos, width] with zeros where a token was not routed to the expert, and `hook.routed`, [batch, pos],
says which were. What it makes of those tokens is what the expert goes on with; the rest is ignored.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from .. import names
from ..checks import check_arguments
from .place import SAME, TURNED

#: Parts of a layer that a `TransformerBridge` calls as if they were neurons, and that are none in a mixture.
_NOT_NEURONS = ("hook_pre", "hook_pre_linear", "hook_post")
_KEEP, _EXCHANGED = "e a b -> e a b", "e a b -> e b a"


#: {bridge: {layer with experts: {hook point's name: hook point}}}
_known: WeakKeyDictionary[Any, dict[int, dict[str, Any]]] = WeakKeyDictionary()


def mixtures(model: Any) -> dict[int, dict[str, Any]]:
    """{layer whose MLP is a mixture of experts: {name: hook point of an expert's neurons}}; `{}` for other models.

    A model's experts get their hook points when they are first asked for.
    """
    if not hasattr(model, "original_model"):
        return {}
    if model not in _known:
        found = ((layer, _attach(block.mlp, layer)) for layer, block in enumerate(model.blocks))
        _known[model] = {layer: own for layer, own in found if own}
        for own in _known[model].values():
            model._hook_registry.update(own)
    return _known[model]


def _attach(mlp: Any, layer: int) -> dict[str, Any]:
    """Give every expert of a layer its hook point; there are none where its MLP is no mixture."""
    mixture = mlp.original_component
    experts = _inner(getattr(mixture, "experts", None))
    if experts is None:
        return {}
    shape: list[torch.Size] = []
    mixture.register_forward_pre_hook(_Shape(shape), with_kwargs=True)
    points = [_point(names.expert_neurons(layer, e), _width(experts)) for e in range(experts.num_experts)]
    experts.forward = _Forward(experts, list(points), shape)
    shared = _inner(getattr(mixture, "shared_expert", None))
    if shared is not None:
        down = _inner(shared.down_proj)
        points.append(_point(names.shared_neurons(layer), down.in_features))
        down.register_forward_pre_hook(_Shared(points[-1], shape))
    return {point.name: point for point in points}


def own_hooks(model: Any) -> set[int]:
    """Numbers of PyTorch's hooks by which experts have their hook points."""
    blocks = (model.blocks[layer].mlp.original_component for layer in mixtures(model))
    own = (item for mixture in blocks for module in mixture.modules() for item in module._forward_pre_hooks.items())
    return {number for number, hook in own if isinstance(hook, (_Shape, _Shared))}


def with_experts(model: Any, points: dict[str, Any]) -> dict[str, Any]:
    """Hook points of a bridge with those of experts, and without what it calls the neurons of a whole mixture."""
    for layer, own in mixtures(model).items():
        inner = f"blocks.{layer}.mlp."
        wrong = {f"{inner}{leaf}" for leaf in _NOT_NEURONS}
        others = (f"{inner}experts.", f"{inner}shared_expert.")
        points = {k: p for k, p in points.items() if k not in wrong and not k.startswith(others)} | own
    return points


def parameters(model: Any, layer: int) -> dict[str, tuple[nn.Module, str, str]]:
    """{name within the block: (module, its tensor, how the parameter lies in it)} of the MLP of a layer with experts.

    All experts are one parameter: `W_gate_in` is [expert, d_model, 2 · d_mlp], `W_out` [expert, d_mlp, d_model].
    """
    mixture = model.blocks[layer].mlp.original_component
    experts = _inner(mixture.experts)
    lies = _KEEP if experts.is_transposed else _EXCHANGED
    found = {
        "mlp.experts.W_gate_in": (experts, "gate_up_proj", lies),
        "mlp.experts.b_gate_in": (experts, "gate_up_proj_bias", SAME),
        "mlp.experts.W_out": (experts, "down_proj", lies),
        "mlp.experts.b_out": (experts, "down_proj_bias", SAME),
    }
    router = _inner(getattr(mixture, "gate", None) or getattr(mixture, "router", None))
    found |= {"mlp.W_router": (router, "weight", TURNED), "mlp.b_router": (router, "bias", SAME)}
    shared = _inner(getattr(mixture, "shared_expert", None))
    if shared is not None:
        for ours, theirs in (("in", "up_proj"), ("gate", "gate_proj"), ("out", "down_proj")):
            found[f"mlp.shared_expert.W_{ours}"] = (_inner(getattr(shared, theirs)), "weight", TURNED)
        found["mlp.shared_expert.W_mix"] = (_inner(mixture.shared_expert_gate), "weight", TURNED)
    return {name: place for name, place in found.items() if getattr(place[0], place[1], None) is not None}


def reading(model: Any, site: str, neuron: int, weight: Any) -> tuple[Tensor, Tensor]:
    """(gate, up), each [d_model], that an expert's neuron reads; `weight(name)` gives a parameter."""
    layer, expert = names.layer_of(site), names.expert_of(site)
    if expert is None:
        own = (names.mlp_parameter(layer, f"shared_expert.W_{part}") for part in ("gate", "in"))
        gate, up = (weight(name)[:, neuron] for name in own)
        return gate, up
    both = weight(names.mlp_parameter(layer, "experts.W_gate_in"))[expert]
    if _inner(model.blocks[layer].mlp.original_component.experts).is_concatenated:
        return both[:, neuron], both[:, both.shape[1] // 2 + neuron]
    return both[:, 2 * neuron], both[:, 2 * neuron + 1]


def writers(model: Any) -> dict[int, dict[str, tuple[str, ...]]]:
    """{layer with experts: {parameter that writes into the stream: the hook points of the neurons it multiplies}}.

    A bias of the experts' has none.
    """
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    for layer, own in mixtures(model).items():
        routed = tuple(site for site in own if names.expert_of(site) is not None)
        found[layer] = {names.mlp_parameter(layer, "experts.W_out"): routed}
        if "mlp.experts.b_out" in parameters(model, layer):
            found[layer][names.mlp_parameter(layer, "experts.b_out")] = ()
        if names.shared_neurons(layer) in own:
            found[layer][names.mlp_parameter(layer, "shared_expert.W_out")] = (names.shared_neurons(layer),)
    return found


class _Shape:
    """Keeps the shape of what comes into a mixture, whose experts are given all tokens in one row."""

    def __init__(self, shape: list[torch.Size]) -> None:
        self.shape = shape

    def __call__(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.shape[:] = [(args[0] if args else options["hidden_states"]).shape]


class _Forward:
    """The forward of all routed experts of a layer: transformers' own, or one expert after the other where hooked."""

    def __init__(self, experts: nn.Module, points: list[Any], shape: list[torch.Size]) -> None:
        self.experts, self.points, self.shape = experts, points, shape

    def __call__(self, states: Tensor, chosen: Int[Tensor, "tokens k"], weights: Float[Tensor, "tokens k"]) -> Tensor:
        experts: Any = self.experts
        if not any(point._forward_hooks or point._backward_hooks for point in self.points):
            return type(experts).forward(experts, states, chosen, weights)
        total = torch.zeros_like(states)
        hit = set(chosen.unique().tolist())
        for e, point in enumerate(self.points):
            hooked = bool(point._forward_hooks or point._backward_hooks)
            if e not in hit and not hooked:
                continue
            token, place = torch.where(chosen == e)
            neurons = experts._apply_gate(_map(experts, "gate_up_proj", e, states[token]))
            if hooked:
                neurons = self._through(point, neurons, token)
            out = _map(experts, "down_proj", e, neurons) * weights[token, place, None]
            total = total.index_add(0, token, out.to(total.dtype))
        return total

    def _through(self, point: Any, neurons: Float[Tensor, "n d"], token: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Neurons of the tokens of an expert after what hooks make of them."""
        (batch, pos), n = self.shape[0][:2], neurons.shape[1]
        spread = neurons.new_zeros(batch * pos, n).index_copy(0, token, neurons)
        point.routed = _marked(token, batch, pos)
        return point(spread.view(batch, pos, n)).reshape(-1, n)[token]


class _Shared:
    """Has the input of a shared expert's down projection pass its hook point."""

    def __init__(self, point: Any, shape: list[torch.Size]) -> None:
        self.point, self.shape = point, shape

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not (self.point._forward_hooks or self.point._backward_hooks):
            return None
        neurons = args[0]
        return (self.point(neurons.view(*self.shape[0][:2], neurons.shape[-1])).view(neurons.shape),)


def _map(experts: Any, leaf: str, expert: int, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
    """One linear map of one expert."""
    weight = getattr(experts, leaf)[expert]
    y = x @ weight if experts.is_transposed else linear(x, weight)
    return y + getattr(experts, f"{leaf}_bias")[expert] if experts.has_bias else y


def _marked(token: Int[Tensor, " n"], batch: int, pos: int) -> Bool[Tensor, "batch pos"]:
    flags = torch.zeros(batch * pos, dtype=torch.bool, device=token.device)
    flags[token] = True
    return flags.view(batch, pos)


def _width(experts: Any) -> int:
    return int(experts.down_proj.shape[1 if experts.is_transposed else 2])


def _point(name: str, width: int) -> Any:
    from transformer_lens.hook_points import HookPoint

    point = HookPoint()
    point.name, point.units, point.routed = name, width, None
    return point


def _inner(module: Any) -> Any:
    """What a bridge's component wraps."""
    while isinstance(getattr(module, "original_component", None), nn.Module):
        module = module.original_component
    return module


check_arguments(__name__, inner=True)

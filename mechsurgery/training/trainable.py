"""What a fine-tune may change: some neurons or heads, a low-rank product at every linear map, or whole weights.

Neurons, heads and low-rank products are compact deltas on frozen weights, so gradients, optimiser state and weight
decay exist for nothing else: a module's class is replaced by one whose weight is a property, the frozen weight with its
delta. (`torch.nn.utils.parametrize` does that in steps that an interrupt can leave half done. A gradient mask on the
full weight would let AdamW's decay and momentum move the rest; `tests/reference/masked_gradient.py` shows it.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..checks import check_arguments
from ..delta_parts import Dense, LowRank, Part, Rows, from_matrix
from ..deltas import exact_difference
from ..errors import InputError, MismatchError, listed
from ..models import sites
from ..models.place import Place
from ..models.protocol import Model
from ..models.turns import Turn
from ..names import NEURON_AXES, is_experts, is_neurons, layer_of
from ..units import Circuit
from .rows import Changed

_LEAVES = {"write": ("W_out",), "read": ("W_in", "W_gate", "b_in"), "both": ("W_in", "W_gate", "b_in", "W_out")}
#: The weights of one attention head, by what they do. Keys and values that several heads share are no head's own.
_HEADS = {"write": ("W_O",), "read": ("W_Q", "W_K", "W_V"), "both": ("W_Q", "W_K", "W_V", "W_O")}
_ATTENTION = ("W_Q", "_W_K", "W_K", "_W_V", "W_V", "W_O")
_MLP = ("W_in", "W_gate", "W_out")
#: The weights of all experts of a mixture together, and of the one that every token passes.
_EXPERTS = ("experts.W_gate_in", "experts.W_out", *(f"shared_expert.{leaf}" for leaf in _MLP))
_BIASES = ("b_out",)
#: Normalisation before attention and MLP, and after them where a model has it.
_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


@dataclass(frozen=True)
class LoRA:
    """Low-rank products at every linear map of attention and MLP (2106.09685): Δ = alpha/rank · left @ right.

    `left` starts at random (its own `seed`, or the fine-tune's), `right` at zero.
    """

    rank: int = 8
    alpha: float = 16.0
    seed: int | None = None
    attention: bool = True
    mlp: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or not (self.attention or self.mlp):
            raise InputError(f"LoRA of rank {self.rank} on nothing; give a rank of at least 1, and attention or mlp")
        if not 0 < abs(self.alpha) < float("inf"):
            raise InputError(f"alpha={self.alpha} of a LoRA must be finite and not 0; it multiplies what is learnt")


@dataclass(frozen=True, eq=False)
class Neurons:
    """MLP neurons or attention heads: the weights they write with, those they read (and gate) with, or both.

    Of a head these are its slices of W_Q, W_K and W_V, and of W_O; keys and values that several heads share stay.
    """

    circuit: Circuit
    train: Literal["write", "read", "both"] = "both"

    def __post_init__(self) -> None:
        if self.train not in _LEAVES:
            raise InputError(f"train={self.train!r} is not one of {listed(_LEAVES)}")


Where = Circuit | Neurons | LoRA | str


class _RowsDelta(nn.Module):
    """Adds a trainable difference to some rows or columns of a frozen weight, in the weight's own memory layout."""

    def __init__(self, weight: Tensor, index: Tensor, axis: int, lies_alone: bool) -> None:
        super().__init__()
        self.axis, self.size, self.on = axis, weight.shape[axis], True
        #: Whether the model holds the weight as it is, so that what is made of it here goes into a product.
        self.lies_alone = lies_alone
        self.register_buffer("index", index)
        shape = list(weight.shape)
        shape[axis] = len(index)
        self.difference = nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        change = self.difference.to(weight.dtype)
        turned = weight.ndim == 2 and weight.stride(0) == 1
        if turned and self.lies_alone and torch.is_grad_enabled() and not weight.requires_grad:
            return Changed.of(weight, self.axis, self.index, change)
        if turned:
            return weight.T.index_add(1 - self.axis, self.index, change.T).T
        return weight.index_add(self.axis, self.index, change)

    def part(self) -> Part:
        return Rows(self.index.cpu(), self.difference.detach().cpu().clone(), self.axis, self.size)


class _LowRankDelta(nn.Module):
    """Adds scale · left @ right to a frozen weight, seen as the matrix that multiplies from the right."""

    def __init__(self, weight: Tensor, lora: LoRA, output: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.shape, self.output, self.on = tuple(weight.shape), output, True
        self.scale = lora.alpha / lora.rank
        d_in = weight.shape[0] if weight.ndim == 2 else weight.shape[0] * weight.shape[1] if output else weight.shape[1]
        d_out = weight.numel() // d_in
        left = torch.randn(d_in, lora.rank, generator=generator) / d_in**0.5
        self.left = nn.Parameter(left.to(weight.device))
        self.right = nn.Parameter(torch.zeros(lora.rank, d_out, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        change = from_matrix(self.left @ self.right, self.shape, output=self.output)
        return weight + (self.scale * change).to(weight.dtype)

    def part(self) -> Part:
        left, right = (t.detach().cpu().clone() for t in (self.left, self.right))
        return LowRank(self.scale * left, right, self.shape, self.output)


class _Placed(nn.Module):
    """A difference of a parameter that the model holds in another shape."""

    def __init__(self, place: Place, delta: Any) -> None:
        super().__init__()
        self.place, self.delta = place, delta

    def forward(self, tensor: Tensor) -> Tensor:
        return self.place.write(tensor, self.delta(self.place.read(tensor))) if self.delta.on else tensor


class Trainable:
    """The parameters a fine-tune changes, by name; `off()` gives the original model for a moment."""

    def __init__(self, model: Model, parameters: dict[str, nn.Parameter]) -> None:
        self.model, self.parameters = model, parameters

    def parts(self) -> dict[str, Part]:
        """The difference so far, a part for each parameter of the model."""
        raise NotImplementedError

    def off(self) -> Turn:
        """A context with the original weights."""
        return Turn(self.model, self._set_aside, ends_all=True)

    def _set_aside(self, turn: Turn) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """Copies of the trained numbers."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put copies back."""
        for name, value in state.items():
            self.parameters[name].copy_(value)


class _Compact(Trainable):
    def __init__(self, model: Model, deltas: dict[str, Any]) -> None:
        self.deltas = deltas
        super().__init__(model, {f"{name}|{key}": p for name, d in deltas.items() for key, p in d.named_parameters()})

    def parts(self) -> dict[str, Part]:
        return {name: delta.part() for name, delta in self.deltas.items()}

    def _set_aside(self, turn: Turn) -> None:
        for delta in self.deltas.values():
            turn.undo(vars(delta).__setitem__, "on", delta.on)
            delta.on = False


class _Whole(Trainable):
    def __init__(self, model: Model, weights: dict[str, sites.Weight], turn: Turn) -> None:
        super().__init__(model, {name: weight.own(turn.undo) for name, weight in weights.items()})
        self.weights = weights
        self.before = {name: p.detach().clone() for name, p in self.parameters.items()}

    def parts(self) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for name, weight in self.weights.items():
            now, before = (weight.read(each.detach()) for each in (self.parameters[name], self.before[name]))
            found[name] = Dense(exact_difference(now, before).cpu())
        return found

    def restore_after(self, turn: Turn) -> None:
        """Have the original weights put back, in their own memory, when a turn ends."""
        for name, parameter in self.parameters.items():
            turn.undo(parameter.detach().copy_, self.before[name])
            turn.undo(setattr, parameter, "data", parameter.data)

    def _set_aside(self, turn: Turn) -> None:
        # Swapped, not copied: a graph that was built before still finds its tensors unchanged.
        for name, parameter in self.parameters.items():
            turn.undo(setattr, parameter, "data", parameter.data)
            parameter.data = self.before[name]


def trainable(model: Model, where: Where, *, seed: int = 0) -> Turn:
    """A context (`as` a `Trainable`) in which a part of a model can be trained; then it is bit for bit what it was.

    `where` is a circuit of MLP neurons and attention heads (or `Neurons`, which says which of their weights), a `LoRA`,
    "mlp" (all MLP weights, experts included), "blocks" (all weights of attention and MLPs), "bias" (the bias of every
    MLP's down projection) or "norms" (the weights of the blocks' normalisation). Raises `InputError` for an empty
    circuit, neurons of experts or a model without such weights, `MismatchError` for a circuit of another model. See
    `Turn` for interrupts and threads.
    """
    return Turn(model, lambda turn: _begin(turn, model, where, seed), ends_all=True)


def _begin(turn: Turn, model: Model, where: Where, seed: int) -> Trainable:
    for parameter in model.parameters():
        turn.undo(setattr, parameter, "grad", parameter.grad)
        turn.undo(parameter.requires_grad_, parameter.requires_grad)
        parameter.grad = None
        parameter.requires_grad_(False)
    if isinstance(where, (Circuit, Neurons, LoRA)):
        found = _low_rank(model, where, seed) if isinstance(where, LoRA) else _neurons(model, where)
        of_module: dict[nn.Module, dict[str, nn.Module]] = {}
        for weight, delta in found.values():
            placed = delta if weight.place is None else _Placed(weight.place, delta)
            of_module.setdefault(weight.module, {})[weight.leaf] = placed
        for module, deltas in of_module.items():
            _attach(turn, module, deltas)
        return _Compact(model, {name: delta for name, (_, delta) in found.items()})
    whole = _Whole(model, _selected(model, where), turn)
    whole.restore_after(turn)
    for parameter in whole.parameters.values():
        parameter.requires_grad_(True)
    return whole


def _attach(turn: Turn, module: nn.Module, deltas: dict[str, nn.Module]) -> None:
    """Have some weights of a module read with their deltas, {leaf: delta}, until a turn ends."""
    plain, key = type(module), "changes"
    while key in module._modules:
        key += "_"
    # Among its modules, so that the deltas are parameters of the model meanwhile: its fingerprint is another one.
    turn.undo(module._modules.pop, key, None)
    turn.undo(object.__setattr__, module, "__class__", plain)
    module._modules[key] = nn.ModuleDict(deltas)
    changed = {leaf: _changed(getattr(plain, leaf, None), leaf, delta) for leaf, delta in deltas.items()}
    object.__setattr__(module, "__class__", type(plain.__name__, (plain,), changed))


def _changed(before: Any, leaf: str, delta: nn.Module) -> property:
    """A module's weight with a delta, on top of those that were attached `before`."""
    read = getattr(before, "fget", None) or (lambda module: module._parameters[leaf])
    return property(lambda module: delta(read(module)))


def _neurons(model: Model, where: Circuit | Neurons) -> dict[str, Any]:
    """{parameter: (where it is, trainable difference)}."""
    circuit, train = (where.circuit, where.train) if isinstance(where, Neurons) else (where, "both")
    if not len(circuit):
        raise InputError(f"circuit {circuit.name!r} is empty: nothing would be trained; take a larger fraction or k")
    known = {*sites.neuron_sites(model), *sites.head_sites(model)}
    deltas: dict[str, Any] = {}
    for site, (indices, _) in circuit.units.items():
        if is_experts(site):
            raise InputError(
                f"{site!r} are neurons of an expert, whose weights lie in one tensor with those of the other experts; "
                "they can be scaled and put out, or fine-tuned together as 'mlp' or 'blocks'"
            )
        if site not in known:
            raise MismatchError(
                f"only MLP neurons and attention heads can be fine-tuned, and this model has none at {site!r}"
            )
        circuit.require_widths({site: sites.width(model, site)}, "this model")
        own = _neuron_weights if is_neurons(site) else _head_weights
        for weight, axis in own(model, layer_of(site), train):
            value = weight.value
            deltas[weight.name] = (weight, _RowsDelta(value, indices.to(value.device), axis, weight.place is None))
    return deltas


_Weights = Iterator[tuple[sites.Weight, int]]


def _neuron_weights(model: Model, layer: int, train: str) -> _Weights:
    """(weight, axis that counts neurons) of an MLP."""
    for weight in sites.block_weights(model, _LEAVES[train], ["mlp"], [layer]):
        leaf = weight.name.rpartition(".")[2]
        # Gated MLPs have a zero bias in HookedTransformer that their checkpoints have no place for.
        if not (leaf == "b_in" and model.cfg.gated_mlp):
            yield weight, NEURON_AXES[leaf]


def _head_weights(model: Model, layer: int, train: str) -> _Weights:
    """(weight, axis that counts heads) of an attention layer."""
    for weight in sites.block_weights(model, _HEADS[train], ["attn"], [layer]):
        if weight.value.shape[0] == model.cfg.n_heads:
            yield weight, 0


def _low_rank(model: Model, lora: LoRA, seed: int) -> dict[str, Any]:
    """{parameter: (where it is, trainable difference)}."""
    generator = torch.Generator().manual_seed(int(seed if lora.seed is None else lora.seed))
    leaves = [*(_ATTENTION if lora.attention else ()), *(_MLP if lora.mlp else ())]
    if lora.mlp and any(is_experts(site) for site in sites.neuron_sites(model)):
        raise InputError("low-rank differences are for matrices, not for tensors of experts; pass LoRA(mlp=False)")
    return {
        weight.name: (weight, _LowRankDelta(weight.value, lora, weight.name.endswith("W_O"), generator))
        for weight in sites.block_weights(model, leaves)
    }


def _selected(model: Model, where: str) -> dict[str, sites.Weight]:
    choices: dict[str, Sequence[str]] = {
        "mlp": (*_MLP, *_EXPERTS),
        "blocks": (*_ATTENTION, *_MLP, *_EXPERTS),
        "bias": _BIASES,
        "norms": ("w", "b"),
    }
    if where not in choices:
        raise InputError(f"where={where!r}; give a circuit, Neurons(…), LoRA(…), 'mlp', 'blocks', 'bias' or 'norms'")
    parts = _NORMS if where == "norms" else ("attn", "mlp")
    found = {weight.name: weight for weight in sites.block_weights(model, choices[where], parts)}
    if not found:
        raise InputError(f"this model has no weights of {where!r}; train 'blocks' or a LoRA")
    return found


check_arguments(__name__)

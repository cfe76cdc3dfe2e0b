"""What a fine-tune may change: some neurons or heads, a low-rank product at every linear map, or whole weights.

Neurons, heads and low-rank products are compact deltas on frozen weights (`torch.nn.utils.parametrize`), so gradients,
optimiser state and weight decay exist for nothing else. (A gradient mask on the full weight would let AdamW's decay and
momentum move the rest; `tests/reference/masked_gradient.py` shows it.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import check_arguments
from ..delta_parts import Dense, LowRank, Part, Rows, from_matrix
from ..deltas import exact_difference
from ..errors import InputError, MismatchError, listed
from ..models import sites
from ..models.protocol import Model
from ..names import NEURON_AXES, is_neurons, layer_of, mlp_parameter
from ..units import Circuit

_LEAVES = {"write": ("W_out",), "read": ("W_in", "W_gate", "b_in"), "both": ("W_in", "W_gate", "b_in", "W_out")}
#: The weights of one attention head, by what they do. Keys and values that several heads share are no head's own.
_HEADS = {"write": ("W_O",), "read": ("W_Q", "W_K", "W_V"), "both": ("W_Q", "W_K", "W_V", "W_O")}
_PARTS = ("attn", "mlp")
_ATTENTION = ("W_Q", "_W_K", "W_K", "_W_V", "W_V", "W_O")
_MLP = ("W_in", "W_gate", "W_out")
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

    def __init__(self, weight: Tensor, index: Tensor, axis: int) -> None:
        super().__init__()
        self.axis, self.size, self.on = axis, weight.shape[axis], True
        self.register_buffer("index", index)
        shape = list(weight.shape)
        shape[axis] = len(index)
        self.difference = nn.Parameter(torch.zeros(shape, dtype=torch.float32, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        change = self.difference.to(weight.dtype)
        if weight.ndim == 2 and weight.stride(0) == 1:
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


class Trainable:
    """The parameters a fine-tune changes, by name; `off()` gives the original model for a moment."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def parts(self) -> dict[str, Part]:
        """The difference so far, a part for each parameter of the model."""
        raise NotImplementedError

    @contextmanager
    def off(self) -> Iterator[None]:
        """The original weights inside."""
        raise NotImplementedError
        yield

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
    def __init__(self, deltas: dict[str, Any]) -> None:
        self.deltas = deltas
        super().__init__({f"{name}|{key}": p for name, d in deltas.items() for key, p in d.named_parameters()})

    def parts(self) -> dict[str, Part]:
        return {name: delta.part() for name, delta in self.deltas.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        for delta in self.deltas.values():
            delta.on = False
        try:
            yield
        finally:
            for delta in self.deltas.values():
                delta.on = True


class _Whole(Trainable):
    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(parameters)
        self.before = {name: p.detach().clone() for name, p in parameters.items()}

    def parts(self) -> dict[str, Part]:
        return {name: Dense(exact_difference(p, self.before[name]).cpu()) for name, p in self.parameters.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        # Swapped, not copied: a graph that was built before still finds its tensors unchanged.
        now = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.before[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = now[name]


@contextmanager
def trainable(model: Model, where: Where, *, seed: int = 0) -> Iterator[Trainable]:
    """Make a part of a model trainable inside; afterwards the model is bit for bit what it was.

    `where` is a circuit of MLP neurons and attention heads (or `Neurons`, which says which of their weights), a `LoRA`,
    "mlp" (all MLP weights), "blocks" (all weights of attention and MLPs), "bias" (the bias of every MLP's down
    projection) or "norms" (the weights of the blocks' normalisation). Raises `InputError` for an empty circuit or a
    model without such weights, `MismatchError` for a circuit of another model.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    attached: list[tuple[nn.Module, str]] = []
    whole: _Whole | None = None
    try:
        if isinstance(where, (Circuit, Neurons, LoRA)):
            deltas = _low_rank(model, where, seed) if isinstance(where, LoRA) else _neurons(model, where)
            for (module, leaf), delta in deltas.values():
                parametrize.register_parametrization(module, leaf, delta)
                attached.append((module, leaf))
            yield _Compact({name: delta for name, (_, delta) in deltas.items()})
        else:
            whole = _Whole(_selected(model, where))
            for parameter in whole.parameters.values():
                parameter.requires_grad_(True)
            yield whole
    finally:
        for module, leaf in attached:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
        if whole is not None:
            whole.restore(whole.before)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


def _neurons(model: Model, where: Circuit | Neurons) -> dict[str, Any]:
    """{parameter: ((module, leaf), trainable difference)}."""
    circuit, train = (where.circuit, where.train) if isinstance(where, Neurons) else (where, "both")
    if not len(circuit):
        raise InputError(f"circuit {circuit.name!r} is empty: nothing would be trained; take a larger fraction or k")
    known = {*sites.neuron_sites(model), *sites.head_sites(model)}
    deltas: dict[str, Any] = {}
    for site, (indices, _) in circuit.units.items():
        if site not in known:
            raise MismatchError(
                f"only MLP neurons and attention heads can be fine-tuned, and this model has none at {site!r}"
            )
        circuit.require_widths({site: sites.width(model, site)}, "this model")
        own = _neuron_weights if is_neurons(site) else _head_weights
        for name, module, leaf, weight, axis in own(model, layer_of(site), train):
            deltas[name] = ((module, leaf), _RowsDelta(weight, indices.to(weight.device), axis))
    return deltas


_Weights = Iterator[tuple[str, nn.Module, str, Tensor, int]]


def _neuron_weights(model: Model, layer: int, train: str) -> _Weights:
    """(name, module, leaf, weight, axis that counts neurons) of an MLP."""
    mlp = sites.mlp(model, layer)
    for leaf in _LEAVES[train]:
        weight = mlp._parameters.get(leaf)
        # Gated MLPs have a zero bias in HookedTransformer that their checkpoints have no place for.
        if weight is not None and not (leaf == "b_in" and model.cfg.gated_mlp):
            yield mlp_parameter(layer, leaf), mlp, leaf, weight, NEURON_AXES[leaf]


def _head_weights(model: Model, layer: int, train: str) -> _Weights:
    """(name, module, leaf, weight, axis that counts heads) of an attention layer."""
    attention = model.get_submodule(f"blocks.{layer}.attn")
    for leaf in _HEADS[train]:
        weight = attention._parameters.get(leaf)
        if weight is not None and weight.shape[0] == model.cfg.n_heads:
            yield f"blocks.{layer}.attn.{leaf}", attention, leaf, weight, 0


def _low_rank(model: Model, lora: LoRA, seed: int) -> dict[str, Any]:
    """{parameter: ((module, leaf), trainable difference)}."""
    generator = torch.Generator().manual_seed(seed if lora.seed is None else lora.seed)
    leaves = [*(_ATTENTION if lora.attention else ()), *(_MLP if lora.mlp else ())]
    return {
        name: ((module, leaf), _LowRankDelta(weight, lora, leaf == "W_O", generator))
        for name, module, leaf, weight in _block_weights(model, leaves)
    }


def _selected(model: Model, where: str) -> dict[str, nn.Parameter]:
    choices: dict[str, Sequence[str]] = {
        "mlp": _MLP,
        "blocks": (*_ATTENTION, *_MLP),
        "bias": _BIASES,
        "norms": ("w", "b"),
    }
    if where not in choices:
        raise InputError(f"where={where!r}; give a circuit, Neurons(…), LoRA(…), 'mlp', 'blocks', 'bias' or 'norms'")
    parts = _NORMS if where == "norms" else _PARTS
    found = {name: weight for name, _, _, weight in _block_weights(model, choices[where], parts)}
    if not found:
        raise InputError(f"this model has no weights of {where!r}; train 'blocks' or a LoRA")
    return found


def _block_weights(
    model: Model, leaves: Sequence[str], parts: Sequence[str] = _PARTS
) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(name, module, leaf, weight) of every weight of these leaves that is a parameter of its own."""
    for layer, block in enumerate(model.get_submodule("blocks")):
        for part in parts:
            module = getattr(block, part, None)
            for leaf in leaves:
                weight = None if module is None else module._parameters.get(leaf)
                if weight is not None:
                    yield f"blocks.{layer}.{part}.{leaf}", module, leaf, weight


check_arguments(__name__)

"""A model's parameters by the names that a `HookedTransformer` gives them, whichever class holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checks import check_arguments
from ...errors import MismatchError
from ..place import Place
from ..protocol import Model, hooked
from . import bridge


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter: `module` holds it in its tensor `leaf`, as it is or, with a `place`, in another shape.

    A `TransformerBridge` holds transformers' tensors. Reading gives a view of them where only the shape is another.
    """

    model: Model | nn.Module
    name: str
    module: nn.Module
    leaf: str
    place: Place | None = None

    @property
    def is_view(self) -> bool:
        """Whether what `value` gives shares the memory of the model's tensor."""
        return self.place is None or (self.place.scale == 1.0 and self.place.shift == 0.0)

    @property
    def tensor(self) -> Tensor | None:
        """The model's own tensor; None for a bias that the architecture lacks, which counts as zero."""
        return self.module._parameters.get(self.leaf)

    @property
    def value(self) -> Tensor:
        """The parameter as it now acts."""
        acting = getattr(self.module, self.leaf, None)
        return self.read(self._zero() if acting is None else acting)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.value.numel() if self.tensor is None else self.tensor.numel()

    def read(self, tensor: Tensor) -> Tensor:
        """The parameter that a tensor like the model's own holds."""
        return tensor if self.place is None else self.place.read(tensor)

    def like(self, tensor: Tensor, value: Tensor) -> Tensor:
        """What the model's tensor is where the parameter has another value."""
        return value if self.place is None else self.place.write(tensor, value)

    def own(self, undo: Callable[..., None] = lambda *step: None) -> nn.Parameter:
        """The model's tensor, made where there was none: a zero bias, an unembedding apart from the embedding.

        `undo(f, *values)` is told how what was made is taken away again.
        """
        if self.place is not None and self.name in ("embed.W_E", "unembed.W_U"):
            bridge.own_unembedding(self.model, undo)
        if self.tensor is None:
            if bridge.is_gated_bias(self.model, self.module, self.leaf):
                raise MismatchError(f"this model's architecture has no place for {self.name!r}")
            undo(self.module._parameters.__setitem__, self.leaf, None)
            self.module._parameters[self.leaf] = nn.Parameter(self._zero(), requires_grad=False)
        assert isinstance(self.tensor, nn.Parameter)
        return self.tensor

    def _zero(self) -> Tensor:
        return self.module.weight.detach().new_zeros(bridge.outputs(self.module))

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Give the parameter another value, in the model's tensor."""
        tensor = self.own()
        tensor.copy_(self.like(tensor, value))


def weight(model: Model | nn.Module, name: str) -> Weight:
    """A parameter by its name. Raises `MismatchError` where the model has none of that name."""
    if bridge.is_bridge(model):
        return Weight(model, name, *bridge.find(model, name))
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = None
    if module is None or module._parameters.get(leaf) is None:
        raise MismatchError(f"this model has no parameter {name!r}; the delta is another model's")
    return Weight(model, name, module, leaf)


def weights(model: Model) -> Iterator[Weight]:
    """Every parameter."""
    if bridge.is_bridge(hooked(model)):
        names = bridge.parameter_names(model)
    else:
        names = [name for name, _ in model.named_parameters()]
    return (weight(model, name) for name in names)


def block_weights(
    model: Model, leaves: Sequence[str], parts: Sequence[str] = ("attn", "mlp"), layers: Sequence[int] | None = None
) -> Iterator[Weight]:
    """Every parameter of blocks whose part and last name are among these, e.g. "mlp" and "W_out", layer by layer."""
    for layer in range(hooked(model).cfg.n_layers) if layers is None else layers:
        for part in parts:
            for leaf in leaves:
                with suppress(MismatchError):
                    yield weight(model, f"blocks.{layer}.{part}.{leaf}")


def parameter(model: Model, name: str) -> Tensor:
    """A parameter's value. Raises `MismatchError` where the model has none of that name."""
    return weight(model, name).value


def parameters(model: Model) -> dict[str, Tensor]:
    """{name: value} of every parameter."""
    return {found.name: found.value.detach() for found in weights(model)}


def maybe(model: Model, name: str) -> Tensor | None:
    """The same, or None where the model has none of that name."""
    try:
        return parameter(model, name)
    except MismatchError:
        return None


check_arguments(__name__)

"""What the package needs of a model: the part that `HookedTransformer` and `TransformerBridge` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..errors import InputError


@runtime_checkable
class Model(Protocol):
    """A model of TransformerLens: token ids in, logits or residual stream out, with named hook points.

    Submodules and weights are reached through `models.sites`, by their names.
    """

    cfg: Any
    tokenizer: Any

    @property
    def hook_dict(self) -> dict[str, Any]:
        """{hook name: hook point}."""

    def hooks(self, fwd_hooks: Any = ..., bwd_hooks: Any = ...) -> AbstractContextManager[Any]:
        """A context in which hook functions `f(activation, hook)` act at hook points."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Logits of token ids, or with `stop_at_layer` the residual stream before that layer."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every weight."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every weight with its name."""

    def get_submodule(self, target: str) -> Any:
        """The module of a name, e.g. `blocks.3.mlp`."""


def hooked(model: Any) -> Model:
    """The model itself, or `InputError` where it is not one of TransformerLens."""
    # A bridge makes this table anew each time that it is asked for.
    if "hook_dict" not in getattr(model, "__dict__", ()) and not hasattr(type(model), "hook_dict"):
        raise InputError(
            f"a {type(model).__name__} has no named hook points; give the model that "
            "mechsurgery.load_model(directory) returns, or a HookedTransformer of your own"
        )
    return model

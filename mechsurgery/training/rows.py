"""A frozen weight with a trainable difference in some of its rows, whose gradient costs what those rows cost.

Autograd knows no gradient of a part of a matrix: for a weight that depends on a difference in a few rows it first makes
that of the whole weight, a third of a step's work, and then takes the rows. Here the product is computed with the
changed weight as a constant, and the difference gets its gradient from a second product, of its rows alone, whose value
is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: What can be read off a tensor without looking at its numbers.
_FACTS = (Tensor.device, Tensor.dtype, Tensor.shape, Tensor.ndim)  # type: ignore[attr-defined]


class Changed(Tensor):
    """A matrix [out, in] or its transpose, `frozen` with `change` added at `index` of an axis.

    Turned and multiplied it stays cheap; to every other operation it is the changed matrix itself.
    """

    frozen: Tensor
    axis: int
    index: Tensor
    change: Tensor

    @staticmethod
    def of(frozen: Tensor, axis: int, index: Tensor, change: Tensor) -> Changed:
        """The matrix `frozen.index_add(axis, index, change)`."""
        made = Tensor._make_subclass(Changed, frozen.detach())
        vars(made).update(frozen=frozen, axis=axis, index=index, change=change)
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What PyTorch calls instead of any function of such a matrix."""
        with torch._C.DisableTorchFunctionSubclass():
            named = kwargs or {}
            of = getattr(func, "__self__", None)  # the property that is read
            own = args[0] if args and isinstance(args[0], Changed) else None
            if own is not None and of is Tensor.T:
                return Changed.of(own.frozen.T, 1 - own.axis, own.index, own.change.T)
            if own is not None and any(of is fact for fact in _FACTS):
                return func(own.frozen)
            if own is not None and func is Tensor.contiguous and own.frozen.is_contiguous():
                return own
            if func is functional.linear and own is None and isinstance(args[1], Changed):
                return args[1]._times(args[0], *args[2:], **named)
            return func(*map(_whole, args), **{name: _whole(value) for name, value in named.items()})

    def _times(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`functional.linear(x, self, bias)`."""
        acting = self.frozen.index_add(self.axis, self.index, self.change.detach())
        product = functional.linear(x, acting, bias)
        nothing, seen = self.change - self.change.detach(), x.detach()
        if self.axis == 0:
            return product.index_add(-1, self.index, functional.linear(seen, nothing).to(product.dtype))
        return product + functional.linear(seen.index_select(-1, self.index), nothing)


def _whole(value: Any) -> Any:
    """The changed matrix as a plain tensor; anything else as it is, also within lists."""
    if isinstance(value, Changed):
        return value.frozen.index_add(value.axis, value.index, value.change)
    return type(value)(map(_whole, value)) if type(value) in (list, tuple) else value

"""The difference of one parameter in the smallest form it has: whole, some rows of a matrix, or two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from .checks import check_arguments
from .errors import MismatchError


class Part:
    """The difference of one parameter of a `shape`, in one of three forms; `linear` is the field that carries it."""

    linear: ClassVar[str]
    shape: tuple[int, ...]

    def dense(self) -> Tensor:
        """The difference as one tensor of the parameter's shape."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """What is wrong with its own shapes and indices, in words; None where nothing is."""
        return None

    def scaled(self, k: float) -> Part:
        """The difference times k."""
        return replace(self, **{self.linear: getattr(self, self.linear) * k})  # type: ignore[type-var]

    def tensors(self) -> dict[str, Tensor]:
        """What is stored as tensors."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def random_like(self, generator: torch.Generator) -> Part:
        """Normal random numbers in the same form."""
        numbers = {name: tensor for name, tensor in self.tensors().items() if tensor.is_floating_point()}
        drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in numbers.items()}
        return replace(self, **drawn)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Dense(Part):
    """The whole difference of one parameter."""

    linear = "value"
    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The parameter's shape."""
        return tuple(self.value.shape)

    def dense(self) -> Tensor:
        """The difference itself."""
        return self.value


@dataclass(frozen=True, eq=False)
class Rows(Part):
    """The difference of some rows (axis 0) or columns (axis 1) of a matrix; everything else is untouched.

    `values` has the parameter's shape but `len(index)` along `axis`; `index` is sorted and free of repeats.
    """

    linear = "values"
    index: Int[Tensor, " k"]
    values: Tensor
    axis: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The parameter's shape."""
        shape = tuple(self.values.shape)
        return (*shape[: self.axis], self.size, *shape[self.axis + 1 :])

    def problem(self) -> str | None:
        """Whether the rows fit the matrix: as many as indices, each once, in order and within it."""
        shape = tuple(self.values.shape)
        if not 0 <= self.axis < len(shape) or self.index.ndim != 1 or shape[self.axis] != len(self.index):
            return f"has values {list(shape)} for {self.index.numel()} rows along axis {self.axis}"
        if len(self.index) and not (int(self.index.min()) >= 0 and int(self.index.max()) < self.size):
            return f"has rows outside the {self.size} there are"
        return "has rows that stand twice or are not sorted" if (self.index.diff() <= 0).any() else None

    def dense(self) -> Tensor:
        """The difference as one tensor, zero outside the rows."""
        whole = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        return whole.index_copy(self.axis, self.index, self.values)


@dataclass(frozen=True, eq=False)
class LowRank(Part):
    """left @ right, as the matrix [in, out] that a parameter of `shape` stands for (see `from_matrix`)."""

    linear = "left"
    left: Float[Tensor, "d_in r"]
    right: Float[Tensor, "r d_out"]
    shape: tuple[int, ...]
    output: bool = False

    def problem(self) -> str | None:
        """Whether the two matrices fit each other and the parameter's shape."""
        left, right, shape = list(self.left.shape), list(self.right.shape), self.shape
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            return f"is a product of {left} and {right}"
        if min(shape, default=1) < 1 or len(shape) not in (2, 3):
            return f"is to have the shape {shape}"
        of_matrix = shape if len(shape) == 2 else (shape[0] * shape[1], shape[2])
        if len(shape) == 3 and not self.output:
            of_matrix = (shape[1], shape[0] * shape[2])
        return None if (left[0], right[1]) == of_matrix else f"is a product of {left} and {right}, not of shape {shape}"

    def dense(self) -> Tensor:
        """The product as one tensor of the parameter's shape."""
        return from_matrix(self.left @ self.right, self.shape, output=self.output)


def from_matrix(matrix: Float[Tensor, "d_in d_out"], shape: tuple[int, ...], *, output: bool = False) -> Tensor:
    """The weight of a shape whose matrix, multiplying an activation from the right, is given.

    Attention weights [heads, d_model, d_head] stand for [d_model, heads·d_head], W_O ([heads, d_head, d_model],
    `output`) for [heads·d_head, d_model], matrices for themselves.
    """
    if len(shape) != 3:
        return matrix
    if output:
        return rearrange(matrix, "(n h) m -> n h m", n=shape[0])
    return rearrange(matrix, "m (n h) -> n m h", n=shape[0])


def to_matrix(weight: Tensor, *, output: bool = False) -> Float[Tensor, "d_in d_out"]:
    """The matrix that a weight stands for: what `from_matrix` was given."""
    if weight.ndim != 3:
        return weight
    return rearrange(weight, "n h m -> (n h) m" if output else "n m h -> m (n h)")


def inner(a: Part, b: Part) -> float:
    """Inner product of two differences of one parameter; two low-rank ones without building the matrices."""
    if a.shape != b.shape:
        raise MismatchError(f"differences of shapes {a.shape} and {b.shape}; they are of different models")
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        # <L₁R₁, L₂R₂> = <L₁ᵀL₂, R₁R₂ᵀ>: two r × r matrices. Reshaping only permutes entries.
        return float(((a.left.double().T @ b.left.double()) * (a.right.double() @ b.right.double().T)).sum())
    if isinstance(a, Rows):
        other = b.dense().index_select(a.axis, a.index.to(b.dense().device))
        return float((a.values.double() * other.double()).sum())
    if isinstance(b, Rows):
        return inner(b, a)
    return float((a.dense().double() * b.dense().double()).sum())


def total(a: Part, b: Part) -> Part:
    """The sum of two differences of one parameter, in the smallest form it has."""
    if a.shape != b.shape:
        raise MismatchError(f"differences of shapes {a.shape} and {b.shape}; they are of different models")
    if (
        isinstance(a, LowRank)
        and isinstance(b, LowRank)
        and a.left.shape[1] + b.left.shape[1] < min(a.left.shape[0], b.right.shape[1])
    ):
        return replace(a, left=torch.cat([a.left, b.left], 1), right=torch.cat([a.right, b.right], 0))
    if isinstance(a, Rows) and isinstance(b, Rows) and a.axis == b.axis and torch.equal(a.index, b.index):
        return replace(a, values=a.values + b.values)
    return Dense(a.dense() + b.dense())


check_arguments(__name__)

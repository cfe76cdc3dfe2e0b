"""How a parameter of a HookedTransformer lies in a tensor of transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..checks import check_arguments

#: Patterns of a tensor that lies as the parameter does, and of one with its two axes exchanged.
SAME, TURNED = "... -> ...", "a b -> b a"
#: Biases that a HookedTransformer has in every architecture, zero where the checkpoint has none.
ALWAYS = (*(f"attn.b_{x}" for x in "QKVO"), "mlp.b_in", "mlp.b_out", "unembed.b_U")


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a checkpoint, and how.

    `pattern` (einops) turns the parameter into the tensor `key`; `slot` is its number in a tensor that holds query, key
    and value, `rows` are its first row and the one after its last in a tensor that holds others below each other;
    parameter = scale · tensor + shift.
    """

    key: str
    pattern: str
    d_head: int
    slot: int | None = None
    rows: tuple[int, int] | None = None
    scale: float = 1.0
    shift: float = 0.0

    @property
    def alone(self) -> bool:
        """Whether no other parameter stands in the tensor."""
        return self.slot is self.rows is None

    def read(self, tensor: Tensor) -> Tensor:
        """The parameter that a checkpoint's tensor holds."""
        value = self._as_it_lies(tensor)
        value = value if self.scale == 1.0 else value * self.scale
        return value if self.shift == 0.0 else value + self.shift

    def loaded(self, tensor: Tensor) -> Tensor:
        """The same as `load_model` makes it, bit for bit: in the tensor's own dtype, with its roundings."""
        value = self._as_it_lies(tensor)
        if self.scale != 1:
            value = value * torch.tensor(self.scale, dtype=value.dtype)
        return (value.float() + self.shift).to(value.dtype) if self.shift else value

    def write(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """The checkpoint's tensor with another value of the parameter in it."""
        value = parameter if self.shift == 0.0 else parameter - self.shift
        value = value if self.scale == 1.0 else value / self.scale
        if self.slot is not None:
            whole = self._parameters(tensor).clone()
            whole[self.slot] = value
            value = whole
        own = rearrange(value, self.pattern)
        return own if self.rows is None else torch.cat([tensor[: self.rows[0]], own, tensor[self.rows[1] :]])

    def _as_it_lies(self, tensor: Tensor) -> Tensor:
        whole = self._parameters(tensor if self.rows is None else tensor[slice(*self.rows)])
        return whole if self.slot is None else whole[self.slot]

    def _parameters(self, tensor: Tensor) -> Tensor:
        ours, theirs = self.pattern.split(" -> ")
        axes = re.findall(r"\w+", theirs)
        sizes = {axis: n for axis, n in (("h", self.d_head), ("qkv", 3)) if axis in axes}
        return rearrange(tensor, f"{theirs} -> {ours}", **sizes)


check_arguments(__name__, inner=True)

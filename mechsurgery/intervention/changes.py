"""What an edit does to activations, in forms that many rows of one batch can share.

A batch may hold rows of many interventions at many strengths. Their changes at one hook point are merged:
all affine changes become one multiplication and one addition with a table of rows, all projections one
projection, so that forty interventions cost about as much as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..digests import digest_of
from ..errors import ActivationError, InputError, MismatchError, SiteError, listed

#: The largest multiplier, offset and strength: beyond, norms divide by infinity and a model says nothing, silently.
LARGEST = 1e9
HookFn = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Affine:
    """a → a·(1 − s·(1 − m)) + s·offset, at some units (all for `indices` None). `m` and `offset` are [k] or [1]."""

    m: Float[Tensor, " _"]
    offset: Float[Tensor, " _"]
    indices: Int[Tensor, " k"] | None = None

    def __post_init__(self) -> None:
        # Numbers of its own: what is changed later in the tensors that were given changes nothing here.
        for name in ("m", "offset"):
            object.__setattr__(self, name, _finite(getattr(self, name), name).clone())
            n = getattr(self, name).numel()
            if self.indices is not None and n not in (1, self.indices.numel()):
                raise InputError(f"{n} numbers of {name} for {self.indices.numel()} units; give one, or one for each")
            if not n:
                raise InputError(f"{name} has no numbers; give one for all units, or one for each")

    def at(self, strength: float, width: int) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """(factor, offset) for every unit at a strength."""
        where = slice(None) if self.indices is None else self.indices
        if self.indices is None:
            if {self.m.numel(), self.offset.numel()} - {1, width}:
                raise MismatchError(f"{self.m.numel()} multipliers, {self.offset.numel()} offsets, {width} channels")
        elif self.indices.numel() and not 0 <= self.indices.min() <= self.indices.max() < width:
            raise SiteError(f"units {listed(self.indices.tolist())} of an activation of {width} channels")
        factor, offset = torch.ones(width), torch.zeros(width)
        factor[where] = 1 - strength * (1 - self.m)
        offset[where] = strength * self.offset
        return factor, offset


@dataclass(frozen=True, eq=False)
class Project:
    """a → a − s·(a·u − level)·u for a unit vector u: at strength 1 every a·u is `level`, in the activation's units."""

    unit: Float[Tensor, " d"]
    level: float = 0.0

    def __post_init__(self) -> None:
        _finite(torch.tensor(self.level), "level")
        object.__setattr__(self, "unit", _finite(self.unit, "unit").clone())


@dataclass(frozen=True, eq=False)
class Custom:
    """Any `change(activation [rows, pos, d], strength [rows, 1, 1])`; `key` names it and all it depends on.

    With `reads`, an earlier hook point, the change gets the activation there as a third argument.
    """

    change: Callable[..., Tensor]
    key: str
    reads: str | None = None

    @property
    def digest(self) -> str:
        """What stands for it: its key and what it reads, not the function."""
        return digest_of("custom", self.key, self.reads)


Change = Affine | Project | Custom


def _finite(numbers: Tensor, what: str) -> Tensor:
    """The numbers. Raises `ActivationError` where one is NaN or infinite."""
    wrong = int((~(numbers.abs() <= LARGEST)).sum())
    if wrong:
        raise ActivationError(
            f"{wrong} of {numbers.numel()} numbers of {what} are not finite, or beyond ±{LARGEST:g}, where activations "
            "overflow and answers mean nothing; give smaller ones"
        )
    return numbers


def merged(
    plans: Sequence[Sequence[tuple[Change, float]]],
    index: Int[Tensor, " batch"] | None,
    width: int,
    *,
    joined: bool = False,
    read: Mapping[str, Tensor] | None = None,
) -> HookFn:
    """One hook function for a batch at one hook point.

    `plans` are the distinct lists of (change, strength), done in order; `index` says which plan each row
    follows (None: every row the only plan). With `joined`, attention heads are one vector a token and not units.
    `read` holds, when the function is called, the activations of earlier hook points that changes read.
    """
    seen = {} if read is None else read
    levels = [_Level(steps, index, width, seen) for steps in zip_longest(*(_joined(plan, width) for plan in plans))]

    def hook(activation: Tensor, hook: Any = None) -> Tensor:
        # Attention heads, [batch, pos, head, d_head]: a head is one unit, so its channels are as more positions.
        shape = activation.shape
        if len(shape) == 4:
            activation = activation.flatten(2) if joined else rearrange(activation, "b p h d -> b (p d) h")
        for level in levels:
            activation = level(activation)
        if len(shape) == 3 or joined:
            return activation.reshape(shape)
        return rearrange(activation, "b (p d) h -> b p h d", d=shape[3])

    return hook


_Step = tuple[Tensor, Tensor] | tuple[Project | Custom, float]


def _joined(plan: Sequence[tuple[Change, float]], width: int) -> list[_Step]:
    """A plan with neighbouring affine changes as one (factor, offset)."""
    steps: list[_Step] = []
    for change, strength in plan:
        if not isinstance(change, Affine):
            steps.append((change, strength))
            continue
        factor, offset = change.at(strength, width)
        if steps and isinstance(steps[-1][0], Tensor):
            before, already = steps[-1]
            steps[-1] = (before * factor, already * factor + offset)
        else:
            steps.append((factor, offset))
    return steps


class _Level:
    """The n-th step of every plan, as tables with a row per plan; moved to the activation's device once."""

    def __init__(
        self, steps: Sequence[_Step | None], index: Tensor | None, width: int, read: Mapping[str, Tensor]
    ) -> None:
        self.index, self.read = index, read
        n, ones, zeros = len(steps), torch.ones(width), torch.zeros(width)
        factors, offsets, units = [ones] * n, [zeros] * n, [zeros] * n
        shares, levels = torch.zeros(n, 1), torch.zeros(n, 1)
        self.custom: list[tuple[int, Custom, float]] = []
        for plan, step in enumerate(steps):
            change, amount = step or (None, 0.0)
            if isinstance(change, Tensor):
                factors[plan], offsets[plan] = change, torch.as_tensor(amount)
            elif isinstance(change, Project):
                units[plan], shares[plan], levels[plan] = change.unit, amount, change.level
            elif change is not None and amount:
                self.custom.append((plan, change, float(amount)))
        self.factor = torch.stack(factors) if any(bool((f != 1).any()) for f in factors) else None
        self.offset = torch.stack(offsets) if any(bool(o.any()) for o in offsets) else None
        self.unit = torch.stack(units) if bool(shares.any()) else None
        self.share = shares
        self.level = levels if bool(levels.any()) else None

    def __call__(self, activation: Tensor) -> Tensor:
        if self.factor is not None:
            activation = activation * self._rows("factor", activation)
        if self.offset is not None:
            activation = activation + self._rows("offset", activation)
        if self.unit is not None:
            unit, share = self._rows("unit", activation), self._rows("share", activation)
            along = einsum(activation, unit.expand(len(activation), 1, -1), "b p d, b q d -> b p q")
            if self.level is not None:
                along = along - self._rows("level", activation)
            activation = activation - share * along * unit
        for plan, change, strength in self.custom:
            rows = slice(None) if self.index is None else (self.index == plan).nonzero()[:, 0].to(activation.device)
            own = activation[rows]
            if len(own):
                amount = torch.full((len(own), 1, 1), strength, device=activation.device)
                activation = activation.clone()
                read = () if change.reads is None else (self.read[change.reads][rows],)
                activation[rows] = change.change(own, amount, *read)
        return activation

    def _rows(self, name: str, activation: Tensor) -> Tensor:
        """[batch or 1, 1, d] of a table, on the activation's device in its dtype."""
        table = getattr(self, name)
        if table.device != activation.device or table.dtype != activation.dtype:
            table = table.to(activation)
            setattr(self, name, table)
        if self.index is None:
            return rearrange(table, "one d -> one 1 d")
        if self.index.device != activation.device:
            self.index = self.index.to(activation.device)
        return rearrange(table[self.index], "b d -> b 1 d")


check_arguments(__name__)

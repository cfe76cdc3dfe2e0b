"""`Intervention`: what is done to a running model, with one strength.

It carries edits of activations (hook functions at named hook points), a difference of weights, or both. Strength 0 is
the unmodified model, bit for bit. What was made from a positive and a negative side (a direction, a latent, a weight
difference) moves *toward* the positive side at positive strength and against it at negative strength. What removes
something (scaling neurons, projecting a direction out, replacing by a mean) has its full effect at strength 1, which
pushes *against* the behaviour. `toward` is the strength on that one axis, whatever the kind of intervention.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..deltas import WeightDelta
from ..digests import digest_of
from ..errors import InputError, MismatchError
from ..models import sites
from ..models.positions import at_prompt_end
from ..models.protocol import Model
from ..models.turns import Turn
from ..models.unmodified import changed_by
from ..models.with_hooks import put_on
from .changes import LARGEST, Change, Custom, HookFn, merged
from .weights import check_delta, shift


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one hook point of `width` units; `gain` multiplies the strength, `positions` says where it acts.

    With `joined`, the heads at `attn.hook_z` are one vector a token, and `width` counts the channels of all of them.
    """

    site: str
    change: Change
    width: int
    gain: float = 1.0
    positions: Literal["all", "prompt end"] = "all"
    joined: bool = False

    def __post_init__(self) -> None:
        if not abs(self.gain) <= LARGEST:
            raise InputError(
                f"the strength of the change at {self.site!r} is {self.gain}; give parts strengths within ±{LARGEST:g}"
            )


@dataclass(frozen=True, eq=False)
class Intervention:
    """Edits of activations, a weight difference, or both, with one strength; `a + b` does both.

    `kind` says what is done ("scaling", "steering", "weights", …). `pushes` is +1 where positive strength moves toward
    the behaviour, −1 where it moves against it, 0 where that is not known. `full_m` is the multiplier of scaled units
    at strength 1, where there is one. `control_of` names the intervention that this one is a matched random control
    of; `draw(seed)` makes such a control.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    delta: WeightDelta | None = None
    strength: float = 1.0
    kind: str = "scaling"
    pushes: int = 0
    full_m: float | None = None
    control_of: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[int], Intervention] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not abs(self.strength) <= LARGEST:
            raise InputError(
                f"strength={self.strength} of {self.name!r} is not finite, or beyond ±{LARGEST:g}; 0 is the unmodified "
                "model"
            )

    @overload
    def at(self, strength: float) -> Intervention: ...
    @overload
    def at(self, strength: Iterable[float]) -> list[Intervention]: ...
    @overload
    def at(self, *, m: float) -> Intervention: ...
    @overload
    def at(self, *, m: Iterable[float]) -> list[Intervention]: ...

    def at(self, strength: float | Iterable[float] | None = None, *, m: float | Iterable[float] | None = None) -> Any:
        """The same intervention at another strength, or at each of several (a sweep).

        For scaled units the multiplier `m` may be given instead: 0 ablates, 1 changes nothing, 2 doubles.

        >>> [run.strength for run in ablate(circuit).at(m=[0, 0.5, 2])]  # doctest: +SKIP
        [1.0, 0.5, -1.0]
        """
        if (strength is None) == (m is None):
            raise InputError("give at(strength) or at(m=…), a number or several")
        value: Any = strength if m is None else m
        if isinstance(value, Iterable):
            return [self.at(one) if m is None else self.at(m=one) for one in value]
        return replace(self, strength=float(value) if m is None else self._strength_of(float(value)))

    def _strength_of(self, m: float) -> float:
        if self.full_m is None or self.full_m == 1:
            raise InputError(f"{self.name!r} ({self.kind}) has no multiplier m; give a strength")
        return (1 - m) / (1 - self.full_m)

    @property
    def m(self) -> float | None:
        """The multiplier of the scaled units at this strength; None where there is not one number."""
        return None if self.full_m is None else 1 - self.strength * (1 - self.full_m)

    @property
    def toward(self) -> float | None:
        """The strength on the behaviour's axis: positive pushes toward it, negative against; None where unknown."""
        return self.pushes * self.strength if self.pushes or not self.strength else None

    def named(self, name: str, kind: str | None = None) -> Intervention:
        """The same intervention under another name (and kind)."""
        return replace(self, name=name, kind=kind or self.kind)

    def at_prompt_end(self) -> Intervention:
        """The same at each prompt's last token only, where a model decides how to answer.

        `generate`, `evaluate` and everything that measures know where a prompt ends; under `applied` alone it is the
        last position of every forward pass. Raises `InputError` for a weight difference, which acts everywhere.
        """
        if self.delta is not None:
            raise InputError(f"{self.name!r} changes weights, which act at every position; only hooks have positions")
        edits = tuple(replace(edit, positions="prompt end") for edit in self.edits)
        draw = self.draw
        return replace(self, edits=edits, draw=None if draw is None else lambda seed: draw(seed).at_prompt_end())

    def random_like(self, seed: int) -> Intervention:
        """A matched random control at the same strength: as many units in each layer, or as long a random vector.

        Raises `InputError` where there is no such control.
        """
        if self.draw is None:
            raise InputError(f"{self.name!r} ({self.kind}) has no matched random control")
        name = f"random like {self.name}, seed {seed}"
        facts: dict[str, Any] = {
            "kind": self.kind,
            "pushes": self.pushes,
            "full_m": self.full_m,
            "strength": self.strength,
        }
        return replace(self.draw(seed), name=name, control_of=self.name, **facts)

    def __add__(self, other: Intervention) -> Intervention:
        both = (self, other)
        edits = [replace(edit, gain=edit.gain * part.strength) for part in both for edit in part.edits]
        deltas = [part.delta * part.strength for part in both if part.delta is not None and part.strength]
        return Intervention(
            f"{self.name} + {other.name}",
            tuple(edits),
            None if not deltas else deltas[0] if len(deltas) == 1 else deltas[0] + deltas[1],
            kind=self.kind if self.kind == other.kind else f"{self.kind} + {other.kind}",
            pushes=_common_sign(both),
            info={"parts": [part.info | {"name": part.name, "strength": part.strength} for part in both]},
            draw=partial(_drawn, both) if self.draw and other.draw else None,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is done at strength 1; names and strength do not enter. Computed once."""
        return digest_of(self.edits, self.delta)

    @property
    def weights_key(self) -> tuple[str, float] | None:
        """What stands for the state of the weights: None where they stay as they are."""
        return None if self.delta is None or not self.strength else (self.delta.digest, self.strength)

    def check(self, model: Model) -> None:
        """Raise `SiteError` or `MismatchError` where this intervention does not fit the model."""
        read = [edit.change.reads for edit in self.edits if isinstance(edit.change, Custom) and edit.change.reads]
        sites.check_sites(model, [*(edit.site for edit in self.edits), *read])
        for edit in self.edits:
            width = (sites.channels if edit.joined else sites.width)(model, edit.site)
            if width != edit.width:
                raise MismatchError(
                    f"intervention {self.name!r} was made for {edit.width} units at {edit.site!r}, this model has "
                    f"{width}; locate the circuit again on this model"
                )
        if self.delta is not None:
            check_delta(model, self.delta)

    def hooks(self, strength: Float[Tensor, " batch"] | float | None = None) -> list[tuple[str, HookFn]]:
        """(hook name, hook function) pairs of the edits; `strength` may give every row of the batch its own."""
        amount = torch.as_tensor(self.strength if strength is None else strength, dtype=torch.float32)
        if amount.ndim == 0:
            return _merged_hooks([(self, float(amount))], None)
        return row_hooks([self] * len(amount), amount.tolist())


def _common_sign(parts: Sequence[Intervention]) -> int:
    """Which way all parts push that do anything; 0 where they differ, or one is not known."""
    signs = {part.pushes if part.strength > 0 else -part.pushes for part in parts if part.strength}
    return signs.pop() if len(signs) == 1 else 0


def _drawn(parts: Sequence[Intervention], seed: int) -> Intervention:
    """The sum of a control of each part, drawn apart: from one seed, two random vectors would be the same."""
    seeds = [int(hashlib.sha256(f"{seed} {place}".encode()).hexdigest()[:7], 16) for place in range(len(parts))]
    first, second = (part.random_like(own) for part, own in zip(parts, seeds))
    return first + second


#: The unmodified model.
BASELINE = Intervention("baseline", strength=0.0, kind="baseline", full_m=1.0)


def with_controls(interventions: Sequence[Intervention], n: int, *, seed: int = 0) -> list[Intervention]:
    """Every intervention, each followed by `n` matched random controls at its strength, where it has any."""
    return [
        run
        for each in interventions
        for run in (each, *(each.random_like(seed + i) for i in range(n if each.draw is not None else 0)))
    ]


def row_hooks(interventions: Sequence[Intervention | None], strengths: Sequence[float]) -> list[tuple[str, HookFn]]:
    """Hooks for a batch whose every row has its own intervention and strength (None: none).

    There is one hook function at each hook point, whatever the number of interventions, and a second where some act at
    the prompt's end alone.
    """
    if len(interventions) != len(strengths):
        raise InputError(f"{len(interventions)} interventions and {len(strengths)} strengths; give one each for a row")
    plans: dict[tuple[int, float], int] = {}
    distinct: list[tuple[Intervention | None, float]] = []
    index = []
    for item, strength in zip(interventions, strengths, strict=True):
        key = (id(item.edits), float(strength)) if item is not None else (0, 0.0)
        if key not in plans:
            plans[key] = len(distinct)
            distinct.append((item, float(strength)))
        index.append(plans[key])
    return _merged_hooks(distinct, torch.tensor(index))


def _merged_hooks(distinct: list[tuple[Intervention | None, float]], index: Tensor | None) -> list[tuple[str, HookFn]]:
    edits = [edit for item, _ in distinct if item is not None for edit in item.edits]
    widths = {(edit.site, edit.joined): edit.width for edit in edits}
    hooks: list[tuple[str, HookFn]] = []
    looks: list[tuple[str, HookFn]] = []
    for positions in ("all", "prompt end"):
        there: Callable[[HookFn], HookFn] = at_prompt_end if positions == "prompt end" else lambda hook: hook
        read: dict[str, Tensor] = {}
        wanted: set[str] = set()
        for (site, joined), width in widths.items():
            plans = [_plan(item, strength, site, joined, positions) for item, strength in distinct]
            wanted |= {c.reads for plan in plans for c, s in plan if s and isinstance(c, Custom) and c.reads}
            if any(plans):
                hooks.append((site, there(merged(plans, index, width, joined=joined, read=read))))
        looks += [(site, there(partial(_look, site=site, read=read))) for site in sorted(wanted)]
    return [*hooks, *looks]  # what is read at a hook point is what edits there have made of it


def _look(activation: Tensor, hook: Any = None, *, site: str, read: dict[str, Tensor]) -> Tensor:
    read[site] = activation
    return activation


def _plan(
    item: Intervention | None, strength: float, site: str, joined: bool, positions: str
) -> list[tuple[Change, float]]:
    """The changes of an intervention at one hook point and its positions, with their strengths."""
    if item is None:
        return []
    place = (site, joined, positions)
    return [(e.change, strength * e.gain) for e in item.edits if (e.site, e.joined, e.positions) == place]


def applied(model: Model, intervention: Intervention) -> Turn:
    """Run the body with an intervention on the model; afterwards, also after an exception, everything is as before.

    Meanwhile other threads wait for the model. Raises `BusyError` where they could never have it, or where a context is
    left before one that was entered within it.

    >>> with applied(model, ablate(circuit)):  # doctest: +SKIP
    ...     logits = model(ids, attention_mask=mask)
    """

    def put(turn: Turn) -> Model:
        intervention.check(model)
        changed_by(turn, model, intervention.name)
        if intervention.delta is not None:
            shift(turn, model, intervention.delta, intervention.strength)
        return put_on(turn, model, intervention.hooks() if intervention.edits else ())

    return Turn(model, put)


check_arguments(__name__)

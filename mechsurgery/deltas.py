"""`WeightDelta`: the difference of two sets of weights, as a noun with arithmetic.

A part is kept in the smallest form it has: some rows of a matrix (fine-tuned neurons), a product of two thin matrices
(LoRA), or a whole tensor. Names are those of `HookedTransformer`'s parameters ("blocks.3.mlp.W_out").
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from .artifacts import load_tensors, provenance, save_tensors
from .errors import ActivationError, InputError, MismatchError, listed
from .units import Circuit, UnitScores, layer_of


@dataclass(frozen=True, eq=False)
class Dense:
    """The whole difference of one parameter."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return tuple(self.value.shape)

    def dense(self) -> Tensor:
        """The difference as one tensor of the parameter's shape."""
        return self.value

    def scaled(self, k: float) -> Dense:
        """The difference times k."""
        return Dense(self.value * k)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""
        return {"value": self.value}

    def random_like(self, generator: torch.Generator) -> Dense:
        """Normal random numbers of the same shape."""
        return Dense(torch.randn(self.value.shape, generator=generator))


@dataclass(frozen=True, eq=False)
class Rows:
    """The difference of some rows (axis 0) or columns (axis 1) of a matrix; everything else is untouched.

    `values` has the parameter's shape but `len(index)` along `axis`; `index` is sorted and free of repeats.
    """

    index: Int[Tensor, " k"]
    values: Tensor
    axis: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        whole = list(self.values.shape)
        whole[self.axis] = self.size
        return tuple(whole)

    def dense(self) -> Tensor:
        """The difference as one tensor of the parameter's shape, zero outside the rows."""
        whole = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        return whole.index_copy(self.axis, self.index, self.values)

    def scaled(self, k: float) -> Rows:
        """The difference times k."""
        return replace(self, values=self.values * k)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""
        return {"index": self.index, "values": self.values}

    def random_like(self, generator: torch.Generator) -> Rows:
        """Normal random numbers in the same rows."""
        return replace(self, values=torch.randn(self.values.shape, generator=generator))


@dataclass(frozen=True, eq=False)
class LowRank:
    """left @ right, as the matrix [in, out] that a parameter of `shape` stands for (see `as_matrix`)."""

    left: Float[Tensor, "d_in r"]
    right: Float[Tensor, "r d_out"]
    shape: tuple[int, ...]
    output: bool = False

    def dense(self) -> Tensor:
        """The difference as one tensor of the parameter's shape."""
        return from_matrix(self.left @ self.right, self.shape, output=self.output)

    def scaled(self, k: float) -> LowRank:
        """The difference times k."""
        return replace(self, left=self.left * k)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""
        return {"left": self.left, "right": self.right}

    def random_like(self, generator: torch.Generator) -> LowRank:
        """Normal random factors of the same shapes."""
        left, right = (torch.randn(t.shape, generator=generator) for t in (self.left, self.right))
        return replace(self, left=left, right=right)


Part = Dense | Rows | LowRank


def as_matrix(tensor: Tensor, *, output: bool = False) -> Float[Tensor, "d_in d_out"]:
    """A weight as the matrix [in, out] that multiplies an activation from the right.

    Attention weights [heads, d_model, d_head] become [d_model, heads·d_head]; W_O ([heads, d_head, d_model],
    `output`) becomes [heads·d_head, d_model]; matrices stay.
    """
    if tensor.ndim != 3:
        return tensor
    return rearrange(tensor, "n h m -> (n h) m" if output else "n m h -> m (n h)")


def from_matrix(matrix: Float[Tensor, "d_in d_out"], shape: tuple[int, ...], *, output: bool = False) -> Tensor:
    """The inverse of `as_matrix`."""
    if len(shape) != 3:
        return matrix
    if output:
        return rearrange(matrix, "(n h) m -> n h m", n=shape[0])
    return rearrange(matrix, "m (n h) -> n m h", n=shape[0])


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """{parameter name: difference} with a name and where it came from.

    `info["fingerprint"]` says which model's weights it is to be added to, where that is known. Raises
    `ActivationError` where a number is NaN or infinite, `InputError` where there is no part.
    """

    parts: dict[str, Part]
    name: str = "delta"
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a delta of no parameters; give at least one {parameter name: difference}")
        for name, part in self.parts.items():
            for tensor in part.tensors().values():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise ActivationError(f"the difference of {name!r} is NaN or infinite; train with a lower rate")

    def __len__(self) -> int:
        return len(self.parts)

    def __mul__(self, k: float) -> WeightDelta:
        return replace(self, parts={name: part.scaled(float(k)) for name, part in self.parts.items()})

    __rmul__ = __mul__

    def __neg__(self) -> WeightDelta:
        return self * -1.0

    def __add__(self, other: WeightDelta) -> WeightDelta:
        parts = dict(self.parts)
        for name, part in other.parts.items():
            parts[name] = _sum(name, parts[name], part) if name in parts else part
        return WeightDelta(parts, f"{self.name} + {other.name}", _common(self, other))

    def __sub__(self, other: WeightDelta) -> WeightDelta:
        total = self + -other
        return replace(total, name=f"{self.name} − {other.name}")

    def named(self, name: str) -> WeightDelta:
        """The same difference under another name."""
        return replace(self, name=name)

    def norms(self) -> dict[str, float]:
        """{parameter name: Frobenius norm}."""
        return {name: math.sqrt(max(0.0, inner(part, part))) for name, part in self.parts.items()}

    def norm(self) -> float:
        """Frobenius norm over all parameters."""
        return math.sqrt(sum(value**2 for value in self.norms().values()))

    def dot(self, other: WeightDelta) -> float:
        """Inner product over all parameters; what either lacks is zero."""
        return sum(inner(part, other.parts[name]) for name, part in self.parts.items() if name in other.parts)

    def cosine(self, other: WeightDelta) -> float:
        """Cosine of the two differences over all parameters; 0 where one of them is zero."""
        lengths = self.norm() * other.norm()
        return self.dot(other) / lengths if lengths else 0.0

    def cosines(self, other: WeightDelta) -> dict[str, float]:
        """Cosine per parameter that both have."""
        mine, theirs = self.norms(), other.norms()
        found = {}
        for name in self.parts:
            if name in other.parts:
                lengths = mine[name] * theirs[name]
                found[name] = inner(self.parts[name], other.parts[name]) / lengths if lengths else 0.0
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the differences and of the model they belong to; the name does not enter."""
        digest = hashlib.sha256(str(self.info.get("fingerprint")).encode())
        for name, part in sorted(self.parts.items()):
            for key, tensor in part.tensors().items():
                facts = (name, type(part).__name__, part.shape, key, str(tensor.dtype), tuple(tensor.shape))
                digest.update(repr(facts).encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def random_like(self, seed: int = 0) -> WeightDelta:
        """A random difference of the same parameters, forms and norms: what chance alone aligns with or does."""
        # Far from the small seeds with which a delta may itself have been drawn.
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + 7919)
        norms = self.norms()
        parts: dict[str, Part] = {}
        for name, part in self.parts.items():
            drawn = part.random_like(generator)
            length = WeightDelta({name: drawn}).norm()
            parts[name] = drawn.scaled(norms[name] / length if length else 0.0)
        return WeightDelta(parts, f"random like {self.name}", {**self.info, "random_seed": seed})

    def n_changed(self) -> int:
        """How many single weights really differ."""
        return sum(int((part.dense() != 0).sum()) for part in self.parts.values())

    def restricted_to(self, circuit: Circuit) -> WeightDelta:
        """Only the rows and columns of a circuit's MLP neurons: what they read, how they are gated, what they write.

        Raises `InputError` where the delta changes none of them.
        """
        parts: dict[str, Part] = {}
        for site, (indices, _) in circuit.units.items():
            if not site.endswith(".mlp.hook_post"):
                raise InputError(f"a delta is restricted to MLP neurons, not to units at {site!r}")
            for leaf, axis in NEURON_AXES.items():
                name = f"blocks.{layer_of(site)}.mlp.{leaf}"
                if name in self.parts:
                    own = self.parts[name]
                    if own.shape[axis] != circuit.widths[site]:
                        raise MismatchError(
                            f"{name} has {own.shape[axis]} neurons, the circuit was made for {circuit.widths[site]}"
                        )
                    where = indices.to(own.dense().device)
                    parts[name] = Rows(where, own.dense().index_select(axis, where), axis, own.shape[axis])
        if not parts:
            raise InputError(f"delta {self.name!r} changes no weights of the neurons of circuit {circuit.name!r}")
        return WeightDelta(parts, f"{self.name} in {circuit.name}", {**self.info, "circuit": circuit.info})

    def to_frame(self) -> Any:
        """A pandas table, a row per parameter: form, shape, norm, stored numbers."""
        import pandas as pd

        norms = self.norms()
        return pd.DataFrame(
            {
                "parameter": name,
                "form": type(part).__name__,
                "shape": "×".join(map(str, part.shape)),
                "norm": norms[name],
                "stored": sum(t.numel() for t in part.tensors().values()),
            }
            for name, part in self.parts.items()
        )

    def save(self, path: str | Path) -> Path:
        """Write as one safetensors file, each part in its own form."""
        tensors, facts = {}, {}
        for name, part in self.parts.items():
            facts[name] = {"form": type(part).__name__, "shape": list(part.shape)}
            if isinstance(part, Rows):
                facts[name] |= {"axis": part.axis, "size": part.size}
            if isinstance(part, LowRank):
                facts[name] |= {"output": part.output}
            tensors |= {f"{name}|{key}": value for key, value in part.tensors().items()}
        return save_tensors(path, "WeightDelta", tensors, {"name": self.name, "info": self.info, "parts": facts})

    @classmethod
    def load(cls, path: str | Path) -> WeightDelta:
        """Read what `save` wrote."""
        tensors, facts = load_tensors(path, "WeightDelta")
        parts: dict[str, Part] = {}
        for name, own in facts["parts"].items():
            get: Callable[[str], Tensor] = lambda key, n=name: tensors[f"{n}|{key}"]  # noqa: E731
            if own["form"] == "Rows":
                parts[name] = Rows(get("index"), get("values"), own["axis"], own["size"])
            elif own["form"] == "LowRank":
                parts[name] = LowRank(get("left"), get("right"), tuple(own["shape"]), own["output"])
            else:
                parts[name] = Dense(get("value"))
        return cls(parts, facts["name"], facts["info"])

    def _repr_html_(self) -> str:
        import html

        facts = f"{len(self)} parameters, norm {self.norm():.4g}, {self.n_changed():,} weights changed"
        return f"<b>{html.escape(self.name)}</b>: {facts}" + self.to_frame().head(12).to_html(index=False)


#: Parameters of an MLP that belong to one neuron each, and the axis that counts neurons.
NEURON_AXES = {"W_in": 1, "W_gate": 1, "b_in": 0, "W_out": 0}


def neuron_norms(delta: WeightDelta, widths: Mapping[str, int]) -> UnitScores:
    """How much a delta changes each MLP neuron: the norm over what it reads, gates and writes with.

    `widths` is {`blocks.{l}.mlp.hook_post`: neurons}, as `UnitScores.widths` and `Circuit.widths` have it.
    """
    found = {}
    for site, n in widths.items():
        square = torch.zeros(n)
        for leaf, axis in NEURON_AXES.items():
            part = delta.parts.get(f"blocks.{layer_of(site)}.mlp.{leaf}")
            if part is None:
                continue
            whole = part.dense().float().cpu()
            if whole.shape[axis] != n:
                raise MismatchError(f"{site!r} has {n} neurons, the delta {whole.shape[axis]}; it is another model's")
            square += whole.pow(2).sum(1 - axis) if whole.ndim == 2 else whole.pow(2)
        found[site] = square.sqrt()
    return UnitScores(found, "norm of the weight difference", {"delta": delta.name})


def mean_delta(deltas: Iterable[WeightDelta], *, name: str = "mean") -> WeightDelta:
    """The mean of several differences."""
    found = list(deltas)
    if not found:
        raise InputError("the mean of no deltas; give at least one")
    total = found[0]
    for other in found[1:]:
        total = total + other
    return (total * (1 / len(found))).named(name)


def difference(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor], *, name: str = "difference", **info: Any
) -> WeightDelta:
    """The difference after − before of two sets of parameters; equal ones are left out.

    Raises `MismatchError` where names, shapes or dtypes differ, `InputError` where nothing does.
    """
    if after.keys() != before.keys():
        odd = sorted(set(after) ^ set(before))
        raise MismatchError(f"the two sets of weights differ in names: {listed(odd)}")
    parts: dict[str, Part] = {}
    for key, new in after.items():
        old = before[key]
        if new.shape != old.shape or new.dtype != old.dtype:
            raise MismatchError(
                f"{key}: {tuple(new.shape)} {new.dtype} against {tuple(old.shape)} {old.dtype}; the two models are not "
                "of one kind"
            )
        if not torch.equal(new, old):
            parts[key] = Dense(exact_difference(new, old).cpu())
    if not parts:
        raise InputError("the two sets of weights are equal: there is no difference")
    return WeightDelta(parts, name, provenance(**info))


def exact_difference(new: Tensor, old: Tensor) -> Tensor:
    """New − old such that adding it back in float64 gives `new` bit for bit: float32 where that suffices, else float64.

    (Float64 suffices for float32 weights whose sizes differ by less than a factor of 2²⁹.)
    """
    change = new.detach().double() - old.detach().double()
    short = change.float()
    back = (old.detach().double() + short.double()).to(new.dtype)
    return short if torch.equal(back, new.detach()) else change


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


def _sum(name: str, a: Part, b: Part) -> Part:
    if a.shape != b.shape:
        raise MismatchError(f"{name}: shapes {a.shape} and {b.shape} cannot be added; they are of different models")
    thin = isinstance(a, LowRank) and isinstance(b, LowRank)
    if thin and a.left.shape[1] + b.left.shape[1] < min(a.left.shape[0], b.right.shape[1]):
        return replace(a, left=torch.cat([a.left, b.left], 1), right=torch.cat([a.right, b.right], 0))
    if isinstance(a, Rows) and isinstance(b, Rows) and a.axis == b.axis and torch.equal(a.index, b.index):
        return replace(a, values=a.values + b.values)
    return Dense(a.dense() + b.dense())


def _common(a: WeightDelta, b: WeightDelta) -> dict[str, Any]:
    prints = {d.info.get("fingerprint") for d in (a, b)} - {None}
    if len(prints) > 1:
        raise MismatchError(
            f"{a.name!r} and {b.name!r} start from different models ({listed(sorted(prints))}); their sum means nothing"
        )
    return {"parts": [a.info, b.info], **({"fingerprint": prints.pop()} if prints else {})}

"""`WeightDelta`: the difference of two sets of weights, as a noun with arithmetic.

A part is kept in the smallest form it has: some rows of a matrix (fine-tuned neurons), a product of two thin matrices
(LoRA), or a whole tensor. Names are those of `HookedTransformer`'s parameters ("blocks.3.mlp.W_out").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .allowed import shown
from .artifacts import INDICES, NUMBERS, load_tensors, provenance, save_tensors
from .checks import check_arguments
from .delta_parts import Dense, LowRank, Part, Rows, inner, total
from .digests import digest_of
from .errors import ActivationError, InputError, LoadError, MismatchError, listed
from .names import is_experts, is_neurons, neuron_parameters
from .reading import check_object, readable
from .safe_text import html_note, html_table
from .units import Circuit, UnitScores


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
            wrong = part.problem()
            if wrong is not None:
                raise MismatchError(f"the difference of {name!r} {wrong}")
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
            parts[name] = total(parts[name], part) if name in parts else part
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
        lengths = {name: mine[name] * theirs[name] for name in mine if name in theirs}
        return {
            name: inner(self.parts[name], other.parts[name]) / length if length else 0.0
            for name, length in lengths.items()
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the differences and of the model they belong to; the name does not enter. Computed once."""
        parts = [
            (name, type(part).__name__, {**vars(part), "shape": part.shape, **part.tensors()})
            for name, part in sorted(self.parts.items())
        ]
        return digest_of(self.info.get("fingerprint"), parts)

    def random_like(self, seed: int = 0) -> WeightDelta:
        """A random difference of the same parameters, forms and norms: what chance alone aligns with or does."""
        # Far from the small seeds with which a delta may itself have been drawn.
        generator = torch.Generator().manual_seed((1_000_003 * (int(seed) + 1) + 7919) % (1 << 63))
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
            for name, axis in _neuron_weights(site).items():
                if name not in self.parts:
                    continue
                whole, width = self.parts[name].dense(), circuit.widths[site]
                if whole.shape[axis] != width:
                    raise MismatchError(f"{name} has {whole.shape[axis]} neurons, the circuit was made for {width}")
                where = indices.to(whole.device)
                parts[name] = Rows(where, whole.index_select(axis, where), axis, width)
        if not parts:
            raise InputError(f"delta {self.name!r} changes no weights of the neurons of circuit {circuit.name!r}")
        return WeightDelta(parts, f"{self.name} in {circuit.name}", {**self.info, "circuit": circuit.info})

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row per parameter: form, shape, norm, stored numbers."""
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
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for name, part in self.parts.items():
            own = part.tensors()
            tensors |= {f"{name}|{key}": tensor for key, tensor in own.items()}
            facts[name] = {"form": type(part).__name__, **{k: v for k, v in vars(part).items() if k not in own}}
        return save_tensors(path, "WeightDelta", tensors, {"name": self.name, "info": self.info, "parts": facts})

    @classmethod
    def load(cls, path: str | Path) -> WeightDelta:
        """Read what `save` wrote."""
        fields = {"name": str, "info": dict[str, Any], "parts": dict[str, dict[str, Any]]}
        leaves = {"index": INDICES, **dict.fromkeys(("value", "values", "left", "right"), NUMBERS)}
        tensors, facts = load_tensors(path, "WeightDelta", fields, lambda name: leaves.get(name.rpartition("|")[2]))
        stored: dict[str, dict[str, Tensor]] = {name: {} for name in facts["parts"]}
        for key, tensor in tensors.items():
            name, _, leaf = key.rpartition("|")
            stored.setdefault(name, {})[leaf] = tensor
        with readable(path, "a WeightDelta"):
            parts = {name: _part(facts["parts"].get(name), own) for name, own in stored.items()}
            return cls(parts, facts["name"], facts["info"])

    def _repr_html_(self) -> str:
        facts = f"{len(self)} parameters, norm {self.norm():.4g}, {self.n_changed():,} weights changed"
        return html_note(f"{self.name}: {facts}") + html_table(self.to_frame().head(12))


#: Forms of a part: its class, the tensors it is stored as, and its other facts.
_FORMS: dict[str, tuple[type[Part], set[str], dict[str, Any]]] = {
    "Dense": (Dense, {"value"}, {}),
    "Rows": (Rows, {"index", "values"}, {"axis": int, "size": int}),
    "LowRank": (LowRank, {"left", "right"}, {"shape": list[int], "output": bool}),
}


def _part(facts: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Part:
    """A part of what was stored of it. Raises `LoadError`."""
    form, names, fields = _FORMS.get((facts or {}).get("form", ""), (None, set(), {}))
    if facts is None or form is None or tensors.keys() != names:
        raise LoadError(f"a part of tensors {sorted(tensors)} with the facts {shown(facts)} has none of its forms")
    known = check_object({key: one for key, one in facts.items() if key != "form"}, fields, "a part")
    return form(**tensors, **{key: tuple(one) if key == "shape" else one for key, one in known.items()})


def _neuron_weights(site: str) -> dict[str, int]:
    """{parameter: axis that counts neurons} of the MLP whose neurons are at a hook point."""
    if not is_neurons(site) or is_experts(site):
        raise InputError(f"weights belong to MLP neurons of dense layers, not to units at {site!r}")
    return neuron_parameters(site)


#: More neurons than any layer has: what says so is damaged, and no room is made for them.
MOST_NEURONS = 1 << 24


def neuron_norms(delta: WeightDelta, widths: Mapping[str, int]) -> UnitScores:
    """How much a delta changes each MLP neuron: the norm over what it reads, gates and writes with.

    `widths` is {`blocks.{l}.mlp.hook_post`: neurons}, as `UnitScores.widths` and `Circuit.widths` have it.
    """
    found = {}
    for site, n in widths.items():
        axes = _neuron_weights(site)
        if not 0 < n <= MOST_NEURONS:
            raise InputError(f"{n} neurons at {site!r}; give how many there are, from 1 to {MOST_NEURONS:,}")
        square = torch.zeros(n)
        for name, axis in axes.items():
            if name not in delta.parts:
                continue
            whole = delta.parts[name].dense().float().cpu()
            if whole.ndim <= axis or whole.shape[axis] != n:
                raise MismatchError(f"{site!r} has {n} neurons, the delta {list(whole.shape)}; it is another model's")
            square += whole.pow(2).sum(1 - axis) if whole.ndim == 2 else whole.pow(2)
        found[site] = square.sqrt()
    return UnitScores(found, "norm of the weight difference", {"delta": delta.name})


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
    if new.shape != old.shape or new.dtype != old.dtype:
        raise MismatchError(f"{list(new.shape)} {new.dtype} and {list(old.shape)} {old.dtype} have no difference")
    change = new.detach().double() - old.detach().double()
    short = change.float()
    back = (old.detach().double() + short.double()).to(new.dtype)
    return short if torch.equal(back, new.detach()) else change


def _common(a: WeightDelta, b: WeightDelta) -> dict[str, Any]:
    known = {key: {d.info[key] for d in (a, b) if d.info.get(key)} for key in ("fingerprint", "dtype")}
    if len(known["fingerprint"]) > 1:
        raise MismatchError(
            f"{a.name!r} and {b.name!r} start from different models ({listed(sorted(known['fingerprint']))}); their "
            "sum means nothing"
        )
    return {"parts": [a.info, b.info], **{key: values.pop() for key, values in known.items() if len(values) == 1}}


check_arguments(__name__)

"""One unit by any of its names: (layer, index), (hook name, index), "L5.446", "SAE/812", or a row of a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import pandas as pd
import torch

from .. import names
from ..checks import check_arguments
from ..errors import InputError, SiteError, listed
from ..intervention import Edit, Intervention, scale
from ..intervention.changes import Affine, Custom
from ..intervention.latents import scale_latents
from ..models import Model, sites
from ..models.dictionaries import Dictionary
from ..names import LATENTS, layer_of
from ..units import Circuit

Kind = Literal["neuron", "latent", "channel"]


@dataclass(frozen=True)
class Unit:
    """A unit: the hook point it lives at and its index there, with the dictionary whose latent it is, if any."""

    site: str
    index: int
    dictionary: Dictionary | None = None

    @property
    def kind(self) -> Kind:
        """Neuron of an MLP, latent of an autoencoder, or channel of another hook point."""
        if self.dictionary is not None:
            return "latent"
        return "neuron" if names.is_neurons(self.site) else "channel"

    @property
    def layer(self) -> int:
        """The layer it belongs to, −1 where it belongs to none."""
        return layer_of(self.site)

    @property
    def name(self) -> str:
        """Its short name: `L12.4071` for a neuron, `NAME/812` for a latent, `HOOK/17` for a channel.

        A neuron of a routed expert is `L12.E7.4071`, of a shared one `L12.S.4071`.
        """
        if self.kind == "neuron":
            return names.neuron(self.site, self.index)
        return f"{self.site if self.dictionary is None else self.dictionary.name}/{self.index}"

    @property
    def hook_name(self) -> str:
        """The model's hook point: for a latent the one that its dictionary reads."""
        return self.site if self.dictionary is None else self.dictionary.hook_name

    @property
    def coordinate(self) -> tuple[str, int]:
        """(hook name, index), as circuits and scores hold it."""
        return self.site, self.index


def unit_of(model: Model, unit: Any, dictionaries: Sequence[Dictionary] = ()) -> Unit:
    """The unit that is meant, checked to be one of the model or of the dictionaries.

    Takes a `Unit`, (layer, index), (hook name, index), "L5.446", "HOOK/17", "NAME/812" with a dictionary's name, the
    bare index of a latent where there is one dictionary, or a row (Series, mapping) with `unit`, or `neuron` or
    `latent` and `site` or `layer`. Raises `InputError` for a name that is none, `SiteError` for no such unit.
    """
    if isinstance(unit, Unit):
        return unit
    if isinstance(unit, pd.DataFrame) and len(unit) == 1:
        unit = unit.iloc[0]
    if isinstance(unit, (pd.Series, Mapping)):
        return unit_of(model, _of_row(unit, dictionaries), dictionaries)
    if isinstance(unit, Integral):
        if len(dictionaries) != 1:
            raise InputError(f"unit {unit}; give (layer, index), 'L5.446', or the dictionary whose latent it is")
        return _checked(model, dictionaries[0].site, int(unit), dictionaries)
    if isinstance(unit, str):
        where, index = _of_name(unit)
    elif isinstance(unit, (tuple, list)) and len(unit) == 2 and isinstance(unit[1], Integral):
        where, index = unit
    else:
        said = f"a table of {len(unit)} rows" if isinstance(unit, pd.DataFrame) else repr(unit)[:80]
        raise InputError(f"unit {said} is none; give one such as 'L5.446', (5, 446) or (hook name, index)")
    if isinstance(where, Integral):
        layer = sites.check_layers(model, [int(where)])[0]
        return _checked(model, names.neurons(layer), int(index), dictionaries)
    return _checked(model, str(where), int(index), dictionaries)


def _of_name(name: str) -> tuple[str, int]:
    known = names.neuron_named(name)
    if known is not None:
        return known
    where, _, index = name.rpartition("/")
    if not where or not index.isdecimal() or len(index) > 9:
        raise InputError(f"unit {name[:80]!r} is no unit's name; give one such as 'L5.446', or (layer, index)")
    return where, int(index)


def _of_row(row: Mapping[Any, Any] | pd.Series, dictionaries: Sequence[Dictionary]) -> Any:
    if "unit" in row:
        return row["unit"]
    if "latent" in row and "site" not in row:
        return int(row["latent"])
    column = next((name for name in ("neuron", "latent", "index") if name in row), None)
    place = next((name for name in ("site", "layer") if name in row), None)
    if column is None or place is None:
        raise InputError(
            f"a row names a unit by site or layer, and neuron or latent; this one has {listed(list(row.keys()))}"
        )
    where = row[place]
    return (int(where) if place == "layer" else str(where)), int(row[column])


def _checked(model: Model, site: str, index: int, dictionaries: Sequence[Dictionary]) -> Unit:
    for dictionary in dictionaries:
        if site in (dictionary.site, dictionary.name):
            return Unit(dictionary.site, dictionary.check_latents([index])[0], dictionary)
    sites.check_sites(model, [site])
    if _of_heads(site):
        raise SiteError(f"{site!r} are attention heads, which can be scored and scaled, but have no page of their own")
    return Unit(site, sites.check_unit(model, site, index))


def units_in(model: Model, circuit: Circuit, dictionaries: Sequence[Dictionary] = ()) -> list[Unit]:
    """The units of a circuit that can be looked at, highest |score| first."""
    if not len(circuit):
        return []
    table = circuit.to_frame()
    table = table[~table["site"].map(_of_heads)]
    return [unit_of(model, (site, index), dictionaries) for site, index in zip(table["site"], table["neuron"])]


def heads_in(circuit: Circuit) -> int:
    """How many units of a circuit belong to attention heads, which cannot be looked at."""
    return sum(len(indices) for site, (indices, _) in circuit.units.items() if _of_heads(site))


def _of_heads(site: str) -> bool:
    return site.endswith("attn.hook_z")


def circuit_of(units: Collection[Unit], widths: Mapping[str, int], *, name: str) -> Circuit:
    """A circuit of units."""
    indices: dict[str, list[int]] = {}
    for unit in units:
        indices.setdefault(unit.site, []).append(unit.index)
    return Circuit.from_indices(indices, widths, name=name)


def multiplied(
    multipliers: Mapping[Unit, float], widths: Mapping[str, int], *, name: str, seed: int | None = None
) -> Intervention | None:
    """The intervention that multiplies each unit by its own number; None where nothing is changed.

    With a `seed`, as many random units of each hook point are multiplied by the same numbers instead.
    """
    changed = {unit: m for unit, m in multipliers.items() if m != 1}
    if not changed:
        return None
    circuit = circuit_of(changed, widths, name=name)
    by_place = {unit.coordinate: m for unit, m in changed.items()}
    values = {site: [by_place[site, int(i)] for i in index] for site, (index, _) in circuit.units.items()}
    target = circuit if seed is None else circuit.random_like(seed)
    latents = {unit.site: unit.dictionary for unit in changed if unit.dictionary is not None}
    parts = [scale_latents(target, dictionary, values[site]) for site, dictionary in latents.items()]
    plain = Circuit({s: u for s, u in target.units.items() if s not in latents}, target.widths, name)
    if len(plain):
        parts.insert(0, scale(plain, values))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.named(name)


def multipliers_of(circuit: Circuit, intervention: Intervention | None) -> dict[tuple[str, int], float]:
    """{coordinate: m} of what an intervention does to a circuit's units: 0, ablation, for None.

    Raises `InputError` for an intervention that does something else than multiply units.
    """
    found = dict.fromkeys(circuit.members(), 0.0)
    if intervention is None:
        return found
    for edit in intervention.edits:
        change, strength = edit.change, intervention.strength * edit.gain
        if isinstance(change, Affine) and change.indices is not None and not bool(change.offset.any()):
            factor, _ = change.at(strength, edit.width)
            found |= {(edit.site, i): float(factor[i]) for i in change.indices.tolist()}
        elif intervention.kind == "latents" and (site := _read_by(edit) + LATENTS) in circuit.units:
            index = circuit.units[site][0]
            m = torch.as_tensor(intervention.info["m"], dtype=torch.float32).expand(len(index))
            found |= {(site, int(i)): float(1 - strength * (1 - one)) for i, one in zip(index, m)}
        else:
            raise InputError(
                f"intervention {intervention.name!r} ({intervention.kind}) does not only multiply units, which is what "
                "the explorer does; leave it out to see the circuit ablated"
            )
    return found


def _read_by(edit: Edit) -> str:
    """Where a change of latents reads them: at a hook point of its own, or the one that it changes."""
    return (edit.change.reads if isinstance(edit.change, Custom) else None) or edit.site


check_arguments(__name__)

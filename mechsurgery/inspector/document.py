"""What the explorer shows at once, as plain values: the table of units, scores by layer, the circuit, prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..names import layer_of
from ..units import Circuit, UnitScores
from .coordinates import heads_in

if TYPE_CHECKING:
    from .catalogue import Catalogue

#: Rules that are shown by another name.
_LABELS = {"difference": "difference (published)"}
_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def document(catalogue: Catalogue, *, live: bool = True) -> dict[str, Any]:
    """The explorer's document of a catalogue; numbers have six digits, None where there is none.

    `scores` hold for each rule the quantiles 0, 0.01, 0.25, 0.5, 0.75, 0.99 and 1 of every layer's units. `circuit`
    has `m` None where its units have multipliers of their own. `pages` is empty: pages are asked for, or added.
    """
    model, base, circuit = catalogue.model, catalogue.base, catalogue.circuit
    units = _units(catalogue)
    values = set(catalogue.multipliers.values())
    about = None
    if circuit is not None:
        one = values.pop() if len(values) == 1 else None
        about = {"name": _called(circuit), "size": len(circuit) - heads_in(circuit), "m": one}
    effect = None
    if catalogue.effects is not None:
        effect = {"name": catalogue.effects.name, "baseline": plain(catalogue.effects.baseline)}
    n_units = sum(n for site, n in catalogue.widths.items())
    return {
        "title": catalogue.title,
        "model": {"name": catalogue.model_name, "layers": int(model.cfg.n_layers), "units": n_units},
        "base": None if base is None else {"name": str(base.cfg.model_name)},
        "sides": {"positive": catalogue.sides[0], "negative": catalogue.sides[1]},
        "circuit": about,
        "scores": [_distribution(rule, found) for rule, found in catalogue.scores.items()],
        "effect": effect,
        "units": units,
        "prompts": catalogue.examples(),
        "live": live,
        "pages": {},
    }


def _units(catalogue: Catalogue) -> list[dict[str, Any]]:
    ranks = catalogue.ranks(catalogue.units)
    by_unit = {name: dict(zip(part["rule"], part["rank"])) for name, part in ranks.groupby("unit")}
    rules, units = list(dict.fromkeys(ranks["rule"])), []
    for row in catalogue.to_frame().to_dict("records"):
        own = {"name": row["unit"], "kind": row["kind"], "layer": row["layer"], "index": row["index"]}
        own |= {"side": row["side"], "in_circuit": row["in_circuit"], "m": plain(row["m"])}
        own |= {key: plain(row.get(key)) for key in ("ablated", "doubled")}
        own["scores"] = {rule: plain(row[rule]) for rule in rules if not pd.isna(row.get(rule))}
        units.append(own | {"ranks": {rule: int(rank) for rule, rank in by_unit.get(row["unit"], {}).items()}})
    return units


def _called(circuit: Circuit) -> str:
    """The circuit's name, and what of it is not shown."""
    heads = heads_in(circuit)
    return circuit.name if not heads else f"{circuit.name} without its {heads} attention head{'s'[: heads > 1]}"


def _distribution(rule: str, found: UnitScores) -> dict[str, Any]:
    by_layer: dict[int, list[np.ndarray]] = {}
    for site, values in found.scores.items():
        by_layer.setdefault(layer_of(site), []).append(values.float().numpy())
    layers = [
        {"layer": layer, "quantiles": [plain(q) for q in np.quantile(np.concatenate(values), _QUANTILES)]}
        for layer, values in by_layer.items()
    ]
    return {
        "name": rule,
        "label": _LABELS.get(rule, rule),
        "of": len(found),
        "layers": sorted(layers, key=lambda one: one["layer"]),
    }


def plain(value: Any) -> float | None:
    """A number as JSON knows it, with six digits; None where there is none."""
    return None if value is None or pd.isna(value) else float(f"{float(value):.6g}")


check_arguments(__name__)

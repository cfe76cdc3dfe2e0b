"""`Catalogue`: the units of one model that are worth looking at, and everything known of each.

It measures once, in passes that all units share, and only when it is asked: scores by every rule and the table first,
the contexts, distributions and neighbours of the table's units with the first page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..attribution import contrast_statistics, gate_gradient
from ..attribution.contrast import RULES, difference_direction, score
from ..attribution.gates import Units
from ..attribution.objectives import Objective
from ..checks import check_arguments
from ..errors import InputError
from ..intervention import Intervention, as_found
from ..models import Model, sites
from ..models.dictionaries import Dictionary
from ..models.tokens import pieces, tokenizer_of
from ..prompts import ContrastSet
from ..prompts.chat import Template, as_template
from ..units import Circuit, UnitScores
from . import activity, vectors
from .activity import Measured, contexts, measure
from .coordinates import Unit, multipliers_of, unit_of, units_in
from .effects import Effects, affordable_rows, few_rows, usual_objective
from .fragment import fragment
from .view import UnitView, neighbours

#: Rows that the gate gradient is taken on.
_GRADIENT_ROWS = 32


class Catalogue:
    """Units of a model, by the contrast that they are looked at with.

    The table holds the `circuit`'s units (or a found circuit's, with its multipliers), `units` besides, and then the
    top ones of every rule up to `at_most`; any other unit of the model can be asked for too. `scores` are further
    {name: scores}; `intervention` says what is done to the circuit (default: ablation). `base` is a second model whose
    activations are shown beside. `objective` is the number that effects are told in (default: how much more
    probable an answer is that begins as those to positive prompts do; where both sides begin alike, the projection on
    their mean difference). At most `prompts` prompts and `responses` answers a side are read; `effects` False leaves
    out what scaling each unit alone does, which is measured on `effect_rows` of the objective's rows (default: as many,
    up to 16, as take about ten seconds for the whole table; where two take over a minute, the table goes without, and
    a unit's page measures its own on 4). Without a contrast only what weights say is known.
    """

    def __init__(
        self,
        model: Model,
        contrast: ContrastSet | None = None,
        circuit: Any = None,
        *,
        base: Model | None = None,
        intervention: Intervention | None = None,
        units: Iterable[Any] = (),
        dictionaries: Sequence[Dictionary] = (),
        scores: Mapping[str, UnitScores] | None = None,
        objective: Objective | None = None,
        at_most: int = 200,
        prompts: int = 200,
        responses: int = 16,
        contexts: int = 12,
        effects: bool = True,
        effect_rows: int | None = None,
        template: str | Template = "auto",
        max_rows: int = 64,
        progress: bool | None = None,
    ) -> None:
        _check_given(contrast, base, effect_rows)
        if circuit is not None and not isinstance(circuit, Circuit):
            if not isinstance(getattr(circuit, "circuit", None), Circuit):
                raise InputError(f"circuit={type(circuit).__name__}; give a Circuit, or what minimal_circuit returned")
            intervention = intervention or getattr(circuit, "intervention", None)
            found = getattr(getattr(circuit, "gates", None), "scores", None)
            scores = {**({"trained gates": found} if found is not None else {}), **(scores or {})}
            circuit = circuit.circuit
        if intervention is None and circuit is not None and circuit.multipliers is not None:
            intervention = as_found(circuit)
        self.model, self.base, self.circuit, self.intervention = model, base, circuit, intervention
        self.contrast = None if contrast is None else contrast.take(prompts)
        self.dictionaries, self._given_objective = tuple(dictionaries), objective
        self._given_scores, self._extra = dict(scores or {}), tuple(units)
        self.at_most, self._responses, self._contexts = at_most, responses, contexts
        self._with_effects, self._effect_rows = effects, effect_rows
        self.template, self.max_rows, self._progress = as_template(template), max_rows, progress
        self._names: dict[str, Unit] = {}
        self._pages: dict[Unit, str] = {}
        self._shown_texts: dict[int, list[str]] = {}
        for dictionary in self.dictionaries:
            dictionary.check(model)
        if circuit is not None:
            circuit.require_widths(self.widths, "the model")
            multipliers_of(circuit, intervention)
        if base is not None:
            activity.check_alike(model, base)

    @cached_property
    def widths(self) -> dict[str, int]:
        """How many units there are at each hook point whose units can be scaled."""
        found = sites.neuron_widths(self.model) | {d.site: d.n_latents for d in self.dictionaries}
        others = {} if self.circuit is None else self.circuit.widths
        for unit in self._extra:
            site = unit_of(self.model, unit, self.dictionaries).site
            if site not in found:
                found[site] = sites.width(self.model, site)
        return {**found, **{site: n for site, n in others.items() if site not in found}}

    def unit(self, name: Any) -> Unit:
        """The unit of a name (see `coordinates.unit_of`). Raises `InputError` or `SiteError`."""
        if not isinstance(name, str):
            return unit_of(self.model, name, self.dictionaries)
        if name not in self._names:
            self._names[name] = unit_of(self.model, name, self.dictionaries)
        unit = self._names[name]
        if unit.site not in self.widths:
            self.widths[unit.site] = sites.width(self.model, unit.site)
        return unit

    @property
    def model_name(self) -> str:
        """What the model is called."""
        return str(self.model.cfg.model_name)

    @property
    def title(self) -> str:
        """The model, and the circuit where there is one."""
        size = 0 if self.circuit is None else len(self.circuit)
        about = "" if self.circuit is None else f": {self.circuit.name}, {size} unit{'s' * (size != 1)}"
        return self.model_name + about

    @cached_property
    def sides(self) -> tuple[str, str]:
        """Names of the positive and the negative side."""
        if self.contrast is None:
            return "", ""
        positive, negative = activity.sides_of(self.contrast)
        return positive, negative

    @cached_property
    def scores(self) -> dict[str, UnitScores]:
        """Every rule's scores of the MLP neurons, those given, and the gate gradient where there is an objective."""
        found: dict[str, UnitScores] = {}
        if self.contrast is not None:
            names = sites.neuron_sites(self.model), sites.residual_sites(self.model)
            both = contrast_statistics(
                self.model,
                self.contrast,
                at=[*names[0], *names[1]],
                template=self.template,
                max_rows=self.max_rows,
                progress=self._progress,
            )
            statistics, direction = both.at(names[0]), difference_direction(both.at(names[1]), self.contrast.name)
            # Of one prompt a side nothing is known of its spread.
            single = min(len(self.contrast.positive), len(self.contrast.negative)) < 2
            rules = [rule for rule in RULES if not (single and rule in ("effect_size", "welch_t", "auroc"))]
            found = {str(rule): score(statistics, rule, model=self.model, direction=direction) for rule in rules}
        if self._with_effects and self.objective is not None:
            few = few_rows(self.objective, _GRADIENT_ROWS)
            found["gate gradient"] = gate_gradient(self.model, few, self._all, max_rows=self.max_rows)
        return {**found, **self._given_scores}

    @cached_property
    def _all(self) -> Units:
        return Units(self.model, sites.neuron_sites(self.model), dictionaries=self.dictionaries)

    @cached_property
    def objective(self) -> Objective | None:
        """The number that effects are told in."""
        if self._given_objective is not None or self.contrast is None:
            return self._given_objective
        return usual_objective(self.model, self.contrast, template=self.template, max_rows=self.max_rows)

    @cached_property
    def effects(self) -> Effects | None:
        """What scaling single units does to the objective's number; None where that is left out."""
        if not self._with_effects or self.objective is None:
            return None
        rows = self._effect_rows or self._affordable or 4
        return Effects(self.model, self.objective, self._all, rows=rows, max_rows=self.max_rows)

    @cached_property
    def _affordable(self) -> int:
        if self._effect_rows is not None or self.objective is None:
            return self._effect_rows or 0
        return affordable_rows(self.model, self.objective, self.at_most)

    @cached_property
    def units(self) -> list[Unit]:
        """The table's units."""
        own = [] if self.circuit is None else units_in(self.model, self.circuit, self.dictionaries)
        chosen = dict.fromkeys([*own, *(self.unit(unit) for unit in self._extra)])
        tops = [self._top(found) for found in self.scores.values()] if len(chosen) < self.at_most else []
        for rank in range(max(map(len, tops), default=0)):
            for top in tops:
                if len(chosen) < self.at_most and rank < len(top):
                    chosen.setdefault(top[rank])
        return list(chosen)

    def _top(self, found: UnitScores) -> list[Unit]:
        circuit = found.top(k=min(self.at_most, len(found)))
        known = {site: unit for site, unit in circuit.units.items() if not site.endswith("attn.hook_z")}
        return units_in(self.model, replace(circuit, units=known), self.dictionaries)

    @cached_property
    def multipliers(self) -> dict[tuple[str, int], float]:
        """{coordinate: m} of what is done to the circuit's units: 0 where nothing else is said."""
        return {} if self.circuit is None else multipliers_of(self.circuit, self.intervention)

    @cached_property
    def _ordered(self) -> dict[str, torch.Tensor]:
        """Absolute scores of every rule, ascending."""
        return {
            rule: torch.cat([v.float().abs().flatten() for v in found.scores.values()]).sort().values
            for rule, found in self.scores.items()
        }

    def ranks(self, units: Sequence[Unit]) -> pd.DataFrame:
        """A row for each unit and rule that scores it: unit, rule, score, rank by |score| (1 is the top), of."""
        rows = []
        for rule, found in self.scores.items():
            ordered = self._ordered[rule]
            for unit in units:
                if unit.site in found.scores:
                    value = found.score_of(*unit.coordinate)
                    above = len(ordered) - int(torch.searchsorted(ordered, abs(torch.tensor(value)), right=True))
                    rows.append((unit.name, rule, value, above + 1, len(ordered)))
        return pd.DataFrame(rows, columns=["unit", "rule", "score", "rank", "of"])

    def to_frame(self) -> pd.DataFrame:
        """The table: a row per unit with site, layer, index, side, in_circuit, m, effects alone, and every score."""
        ranks = self.ranks(self.units)
        scores = ranks.pivot_table("score", "unit", "rule") if len(ranks) else pd.DataFrame()
        if self.effects is not None and self._affordable:
            self.effects.measure(self.units, (0.0, 2.0))
        members = set() if self.circuit is None else self.circuit.members()
        rows = []
        for unit in self.units:
            alone = {}
            if self.effects is not None:
                alone = {said: self.effects.change(unit, m) for said, m in (("ablated", 0.0), ("doubled", 2.0))}
            row = {"unit": unit.name, "site": unit.site, "layer": unit.layer, "index": unit.index, "kind": unit.kind}
            row |= {"side": self._side(unit), "in_circuit": unit.coordinate in members}
            rows.append(row | {"m": self.multipliers.get(unit.coordinate, float("nan"))} | alone)
        table = pd.DataFrame(rows)
        return table.merge(scores, how="left", left_on="unit", right_index=True) if len(scores) else table

    def _side(self, unit: Unit) -> str:
        """The side on which a neuron is more active."""
        found = self.scores.get("difference")
        if found is None or unit.site not in found.scores:
            return ""
        return self.sides[0] if found.score_of(*unit.coordinate) > 0 else self.sides[1]

    def document(self, *, live: bool = True) -> dict[str, Any]:
        """Everything that the explorer shows at once, as plain values; see `protocol` for what it asks for later."""
        from .document import document

        return document(self, live=live)

    def examples(self, n: int = 3) -> list[str]:
        """A few prompts of each side to begin with."""
        if self.contrast is None:
            return []
        return [prompt.text for side in (self.contrast.positive, self.contrast.negative) for prompt in side.take(n)]

    @cached_property
    def texts(self) -> list[activity.Text]:
        """The prompts of both sides, then the first ones with what the model answers."""
        if self.contrast is None:
            return []
        prompts = activity.texts_of(self.model, self.contrast, template=self.template)
        return prompts + activity.with_responses(self.model, prompts, self._responses, max_rows=self.max_rows)

    @cached_property
    def _measured(self) -> dict[Unit, Measured]:
        """What passes over texts tell of the table's units."""
        return {unit: found for unit, found in zip(self.units, self._measure(self.units))}

    def _measure(self, units: Sequence[Unit]) -> list[Measured]:
        models = {self.model_name: self.model}
        if self.base is not None:
            name = str(self.base.cfg.model_name)
            models[name if name != self.model_name else f"{name} (base)"] = self.base
        how: dict[str, Any] = {"max_rows": self.max_rows, "progress": self._progress}
        return measure(models, units, self.texts, dictionaries=self.dictionaries, **how)

    @cached_property
    def _similar(self) -> dict[Unit, pd.DataFrame]:
        return vectors.similar_writers(self.model, self.units, among=self.dictionaries)

    def view(self, name: Any) -> UnitView:
        """Everything known of one unit. Raises `InputError` or `SiteError` for one that there is not."""
        unit = self.unit(name)
        listed_here = unit in self.units
        found = self._measured[unit] if listed_here else self._measure([unit])[0]
        similar = self._similar if listed_here else vectors.similar_writers(self.model, [unit], among=self.dictionaries)
        return UnitView(
            model=self.model_name,
            name=unit.name,
            kind=unit.kind,
            site=unit.site,
            index=unit.index,
            contexts=contexts(self.texts, found, self._contexts, self._shown),
            activations=found.last,
            ranks=self.ranks([unit]).drop(columns="unit"),
            writes=vectors.writes(self.model, unit),
            reads=vectors.reads(self.model, unit),
            neighbours=neighbours(similar.get(unit), found.together),
            effects=pd.DataFrame(columns=["m", "value"]) if self.effects is None else self.effects.of(unit),
            facts=self._facts(unit, found),
            effect_name="" if self.effects is None else self.effects.name,
            neuronpedia=vectors.neuronpedia_link(unit),
        )

    def _facts(self, unit: Unit, found: Measured) -> dict[str, Any]:
        facts: dict[str, Any] = {"side": self._side(unit)}
        if self.circuit is not None and unit.coordinate in self.circuit.members():
            facts["m in the circuit"] = self.multipliers[unit.coordinate]
        return facts | facts_of(unit, found)

    def prepare(self) -> Catalogue:
        """Measure everything that the pages of all of the table's units show, at once; pages are then quick."""
        if self.effects is not None:
            self.effects.measure(self.units)
        return self

    def _shown(self, place: int) -> list[str]:
        if place not in self._shown_texts:
            self._shown_texts[place] = pieces(tokenizer_of(self.model), self.texts[place].ids)
        return self._shown_texts[place]

    def page(self, name: str) -> str:
        """The page of one unit as an HTML fragment; made once."""
        unit = self.unit(name)
        if unit not in self._pages:
            self._pages[unit] = fragment(self.view(unit))
        return self._pages[unit]


def facts_of(unit: Unit, found: Measured) -> dict[str, Any]:
    """Number of tokens read, the largest activation by size, and `density`, the share of tokens with much of it.

    A latent is active where it is above 0; of a neuron the tokens are counted that reach half of its largest.
    """
    if not found.every:
        return {}
    joined = np.concatenate(found.every)
    largest = float(np.abs(joined).max())
    active = joined > 0 if unit.kind == "latent" else np.abs(joined) > 0.5 * largest
    return {"n_tokens": len(joined), "largest": largest, "density": float(active.mean())}


def _check_given(contrast: Any, base: Any, effect_rows: int | None) -> None:
    """Raise `InputError` for what is named where the thing itself is needed."""
    if contrast is not None and not isinstance(contrast, ContrastSet):
        raise InputError(f"contrast={contrast!r:.80}; give a ContrastSet, such as load_contrast('organism/refusal')")
    if base is not None and not isinstance(base, Model):
        raise InputError(f"base={base!r:.80}; give a loaded model, such as load_model('organism/base')")
    if effect_rows is not None and effect_rows < 1:
        raise InputError(f"effect_rows={effect_rows} must be at least 1; effects=False leaves effects out")


check_arguments(__name__)

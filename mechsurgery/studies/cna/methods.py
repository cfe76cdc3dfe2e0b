"""What is tried: CNA and its rivals, as the paper's text or its public code has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ...attribution import contrast_statistics, score, universal_neurons
from ...attribution.statistics import ContrastStatistics
from ...directions import Direction
from ...evaluation import Results
from ...intervention import Intervention, ablate, mean_ablate, project_out, steer, with_controls
from ...models import sites
from ...models.protocol import Model
from ...prompts import ContrastSet, PromptSet
from ...units import Circuit, UnitScores
from .bench import Bench
from .settings import CORRECTED, PUBLISHED

#: Where sweeps stand on the behaviour's axis; scaled neurons are multiplied by m = 1 + that.
CNA_SWEEP = (-2.0, -0.75, -0.5, -0.25, 0.5, 2.0)
RIVAL_SWEEP = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 0.75, 1.0)
#: Where CNA is tried too, with matched random circuits beside it.
CONTROL_SWEEP = (-1.0, 1.0)

CNA = "CNA"
CAA_ONE, CAA_ALL, CAA_MLP = "CAA, one layer", "CAA, all layers", "CAA, MLP outputs"
DIRECTIONAL = "directional ablation"


@dataclass(frozen=True, eq=False)
class Located:
    """What discovery finds in one model."""

    scores: UnitScores
    circuit: Circuit
    universal: Circuit
    statistics: ContrastStatistics
    residual: Direction
    mlp_out: Direction
    published_circuit: Circuit
    published_mlp_out: Direction


@dataclass(frozen=True, eq=False)
class Mode:
    """What is tried on which prompts; `apart` is the discovery contrast that none of them may stand in."""

    tried: list[Intervention]
    sets: dict[str, PromptSet]
    apart: ContrastSet | None = None
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)

    def results(self, bench: Bench) -> Results:
        """Everything measured, with KL divergence on benign prompts."""
        judged = {name: (*bench.grades, *(bench.rubric if name == "behaviour" else ())) for name in self.sets}
        return bench.measure(self.sets, self.tried, grades=judged, kl_on=("benign",), discovery=self.apart)


def locate_all(bench: Bench) -> Located:
    """Scores, circuits and directions of both modes from one pass over each discovery set.

    corrected: the top share of all MLP neurons by |mean difference|, universal neurons (top 0.1 % on at least 80 % of
    neutral prompts) left out. as published: the top `published_k` without layers 0 and 1, universal neurons found but
    kept.
    """
    model, data, template = bench.model, bench.data, bench.template
    neurons, residual, mlp = sites.neuron_sites(model), sites.residual_sites(model), sites.mlp_out_sites(model)
    statistics = contrast_statistics(model, data.discovery, at=[*neurons, *residual, *mlp], template=template)
    published = contrast_statistics(model, data.published[0], at=[*neurons, *mlp], template=template)
    scores = score(statistics.at(neurons), "difference")
    universal = universal_neurons(model, data.neutral, template=template)
    skipped = [0, 1] if len(neurons) > 2 else []
    k = min(bench.settings.published_k, len(scores) // 2)
    return Located(
        scores=scores,
        circuit=scores.top(fraction=bench.settings.fraction, exclude=universal, name=CNA),
        universal=universal,
        statistics=statistics,
        residual=_direction(statistics, residual, "mean difference"),
        mlp_out=_direction(statistics, mlp, CAA_MLP),
        published_circuit=score(published.at(neurons), "difference").top(k=k, skip_layers=skipped, name=CNA),
        published_mlp_out=_direction(published, mlp, CAA_MLP),
    )


def corrected(bench: Bench, located: Located) -> Mode:
    """Every method in both directions; layers chosen on the validation split."""
    by_layer, facts = layer_candidates(bench.model, located.residual)
    layers = choose_layers(bench, by_layer, facts)
    chosen = set(layers.loc[layers["chosen"], "intervention"])
    means = _token_means(bench, list(located.circuit.widths))
    cna = ablate(located.circuit, name=CNA)
    rivals = [
        mean_ablate(located.circuit, means, name="CNA, mean ablation"),
        *(candidate for candidate in by_layer if candidate.name in chosen),
        steer(increments(located.residual), name=CAA_ALL),
        steer(located.mlp_out, name=CAA_MLP),
    ]
    tried = [
        *toward(cna, CNA_SWEEP),
        *(one for rival in rivals for one in toward(rival, RIVAL_SWEEP)),
        *with_controls(toward(cna, CONTROL_SWEEP), bench.settings.n_random, seed=bench.settings.seed),
    ]
    return Mode(tried, bench.data.evaluation(), bench.data.discovery, layers)


def as_published(bench: Bench, located: Located) -> Mode:
    """CNA and CAA as the paper's public code has them; CAA there *adds* harmful − benign at every layer."""
    cna = ablate(located.published_circuit, name=CNA)
    tried = [
        *cna.at([0.25, 0.5, 0.75]),
        *steer(located.published_mlp_out, name=CAA_MLP).at([0.25, 0.5, 0.75, 1.0]),
        *with_controls([cna], bench.settings.n_random, seed=bench.settings.seed),
    ]
    return Mode(tried, bench.data.evaluation(published=True))


#: How each mode is made from what was located.
MODES = {CORRECTED: corrected, PUBLISHED: as_published}


def toward(intervention: Intervention, amounts: Iterable[float]) -> list[Intervention]:
    """An intervention at strengths given on the behaviour's axis: −1 is full strength against it."""
    return intervention.at([amount * intervention.pushes for amount in amounts])


def layer_candidates(model: Model, residual: Direction) -> tuple[list[Intervention], pd.DataFrame]:
    """Steering at one layer and projecting its direction out, for every layer; and what each of them is.

    The table has columns intervention, method, layer.
    """
    runs, facts = [], []
    for method in (CAA_ONE, DIRECTIONAL):
        for layer, (site, vector) in enumerate(residual.vectors.items()):
            name = f"{method} ({layer})"
            one = Direction({site: vector}, residual.name, residual.info)
            runs.append(steer(one, name=name) if method == CAA_ONE else project_out(model, vector, name=name))
            facts.append({"intervention": name, "method": method, "layer": layer})
    return runs, pd.DataFrame(facts)


def choose_layers(bench: Bench, candidates: Sequence[Intervention], facts: pd.DataFrame) -> pd.DataFrame:
    """Behaviour and damage of every candidate at full strength against the behaviour on validation, and the choice.

    Chosen for each method: the lowest sum of the behaviour's rate on both sides, the rate of degenerate outputs, and
    the KL divergence on benign prompts (in nats, at most 1), so that a layer which only breaks the text loses.
    """
    sets = {"behaviour": bench.data.validation.positive, "benign": bench.data.validation.negative}
    tried = [one for candidate in candidates for one in toward(candidate, [-1.0])]
    summary = bench.measure(sets, tried, kl_on=("benign",)).summary([bench.behaviour, "degenerate", "kl"])
    values = summary.pivot_table("value", "intervention", ["prompt_set", "metric"]).loc[facts["intervention"]]
    values.index = facts.index
    table = facts.assign(
        n=len(sets["behaviour"]),
        behaviour=values["behaviour", bench.behaviour],
        degenerate=(values["behaviour", "degenerate"] + values["benign", "degenerate"]) / 2,
        behaviour_on_benign=values["benign", bench.behaviour],
        kl=values["benign", "kl"],
    )
    parts = table[["behaviour", "behaviour_on_benign", "degenerate"]].assign(kl=table["kl"].clip(upper=1.0))
    table["loss"] = parts.sum(axis=1)
    return table.assign(chosen=table.index.isin(table.groupby("method")["loss"].idxmin()))


def increments(direction: Direction) -> Direction:
    """What each layer adds to a direction of the residual stream: steering by all of them adds up to it."""
    names = list(direction.vectors)
    steps = {names[0]: direction.at(names[0])}
    for before, site in pairwise(names):
        steps[site] = direction.at(site) - direction.at(before)
    return Direction(steps, f"{direction.name}, increments", direction.info)


def _token_means(bench: Bench, names: list[str]) -> dict[str, Float[Tensor, " d"]]:
    """Means over *every* token of the negative discovery prompts: what is replaced is replaced at every position."""
    tokens = contrast_statistics(bench.model, bench.data.discovery, at=names, positions="all", template=bench.template)
    return {site: tokens.negative.mean[site].float().cpu() for site in names}


def _direction(statistics: ContrastStatistics, names: Sequence[str], title: str) -> Direction:
    return Direction({name: statistics.difference(name).float().cpu() for name in names}, title, statistics.info)

"""What is tried: CNA and its rivals, as the paper's text or its public code has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pandas as pd

from ...attribution import contrast_statistics, score, universal_neurons
from ...attribution.statistics import ContrastStatistics
from ...directions import Direction
from ...evaluation import Results
from ...intervention import Intervention, ablate, mean_ablate, project_out, steer, with_controls
from ...models import Model, sites
from ...prompts import ContrastSet, PromptSet
from ...prompts.chat import Template
from ...units import Circuit, UnitScores
from .data import StudyData
from .settings import CORRECTED, PUBLISHED, Settings

#: `evaluate` with the study's grades, generation settings and folder: (model, prompt sets, interventions, …).
Measure = Callable[..., Results]

#: Where sweeps stand on the behaviour's axis; scaled neurons are multiplied by m = 1 + that.
CNA_SWEEP = (-2.0, -1.0, -0.75, -0.5, -0.25, 0.5, 1.0, 2.0)
RIVAL_SWEEP = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 0.75, 1.0)
CONTROL_SWEEP = (-1.0, 1.0)
PUBLISHED_SWEEP = (0.25, 0.5, 0.75, 1.0)

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
    """Interventions at their strengths, what they are evaluated on, and how layers were chosen.

    `apart` is the discovery contrast that no evaluation prompt may stand in.
    """

    name: str
    interventions: list[Intervention]
    sets: dict[str, PromptSet]
    apart: ContrastSet | None = None
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)


def locate_all(model: Model, data: StudyData, settings: Settings, template: Template) -> Located:
    """Scores, circuits and directions of both modes from one pass over each discovery set.

    corrected: the top share of all MLP neurons by |mean difference|, universal neurons (top 0.1 % on at least 80 % of
    neutral prompts) left out. as published: the top `published_k` without layers 0 and 1, universal neurons found but
    kept.
    """
    neurons, residual, mlp = sites.neuron_sites(model), sites.residual_sites(model), sites.mlp_out_sites(model)
    statistics = contrast_statistics(model, data.discovery, at=[*neurons, *residual, *mlp], template=template)
    published = contrast_statistics(model, data.published[0], at=[*neurons, *mlp], template=template)
    scores = score(statistics.at(neurons), "difference")
    universal = universal_neurons(model, data.neutral, template=template)
    skipped = [0, 1] if len(neurons) > 2 else []
    k = min(settings.published_k, len(scores) // 2)
    return Located(
        scores=scores,
        circuit=scores.top(fraction=settings.fraction, exclude=universal, name=CNA),
        universal=universal,
        statistics=statistics,
        residual=_direction(statistics, residual, "mean difference"),
        mlp_out=_direction(statistics, mlp, CAA_MLP),
        published_circuit=score(published.at(neurons), "difference").top(k=k, skip_layers=skipped, name=CNA),
        published_mlp_out=_direction(published, mlp, CAA_MLP),
    )


def corrected(model: Model, data: StudyData, located: Located, settings: Settings, measure: Measure) -> Mode:
    """Every method in both directions; layers chosen on the validation split."""
    by_layer, facts = layer_candidates(model, located.residual)
    layers = choose_layers(model, by_layer, facts, data, settings.behaviour, measure)
    best = [run for run in by_layer if run.name in set(layers[layers["chosen"]]["intervention"])]
    means = {site: located.statistics.negative.mean[site].float().cpu() for site in located.circuit.widths}
    cna = ablate(located.circuit, name=CNA)
    rivals = [
        mean_ablate(located.circuit, means, name="CNA, mean ablation"),
        *best,
        steer(increments(located.residual), name=CAA_ALL),
        steer(located.mlp_out, name=CAA_MLP),
    ]
    interventions = [
        *toward(cna, [amount for amount in CNA_SWEEP if amount not in CONTROL_SWEEP]),
        *(one for rival in rivals for one in toward(rival, RIVAL_SWEEP)),
        *with_controls(toward(cna, CONTROL_SWEEP), settings.n_random, seed=settings.seed),
    ]
    return Mode(CORRECTED, interventions, data.evaluation(), data.discovery, layers)


def as_published(data: StudyData, located: Located, settings: Settings) -> Mode:
    """CNA and CAA as the paper's public code has them; CAA there *adds* harmful − benign at every layer."""
    cna = ablate(located.published_circuit, name=CNA)
    interventions = [
        *cna.at(PUBLISHED_SWEEP[:-1]),
        *steer(located.published_mlp_out, name=CAA_MLP).at(PUBLISHED_SWEEP),
        *with_controls([cna], settings.n_random, seed=settings.seed),
    ]
    return Mode(PUBLISHED, interventions, data.evaluation(published=True))


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


def choose_layers(
    model: Model,
    candidates: Sequence[Intervention],
    facts: pd.DataFrame,
    data: StudyData,
    behaviour: str,
    measure: Measure,
) -> pd.DataFrame:
    """Behaviour and damage of every candidate at full strength against the behaviour on validation, and the choice.

    Chosen for each method: the lowest sum of the behaviour's rate on both sides, the rate of degenerate outputs, and
    the KL divergence on benign prompts (in nats, at most 1), so that a layer which only breaks the text loses.
    """
    sets = {"behaviour": data.validation.positive, "benign": data.validation.negative}
    runs = [one for candidate in candidates for one in toward(candidate, [-1.0])]
    summary = measure(model, sets, runs, kl_on=("benign",)).summary([behaviour, "degenerate", "kl"])
    values = summary.pivot_table("value", "intervention", ["prompt_set", "metric"]).loc[facts["intervention"]]
    values.index = facts.index
    table = facts.assign(
        n=len(data.validation.positive),
        behaviour=values["behaviour", behaviour],
        degenerate=(values["behaviour", "degenerate"] + values["benign", "degenerate"]) / 2,
        behaviour_on_benign=values["benign", behaviour],
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


def _direction(statistics: ContrastStatistics, names: Sequence[str], title: str) -> Direction:
    return Direction({name: statistics.difference(name).float().cpu() for name in names}, title, statistics.info)

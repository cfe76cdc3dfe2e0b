"""The interventions of the study: CNA and its rivals, as the paper's text or its public code has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pandas as pd

from ...attribution import contrast_statistics, random_circuits, score, universal_neurons
from ...attribution.statistics import ContrastStatistics
from ...directions import Direction
from ...evaluation import evaluate, sweep
from ...intervention import Intervention, ablate, mean_ablate, project_out, steer
from ...models import sites
from ...units import Circuit, UnitScores
from .data import StudyData

#: Strength of scaling neurons is 1 − m: m = −1, 0, ¼, ½, ¾, 1½, 2, 3.
CNA_STRENGTHS = (2.0, 1.0, 0.75, 0.5, 0.25, -0.5, -1.0, -2.0)
STEERING_STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.1, -0.1, -0.25, -0.5, -0.75, -1.0)
RANDOM_STRENGTHS = (1.0, -1.0)
PUBLISHED_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
#: The smaller of the two circuit sizes in the paper's public code (the other is 1,600).
PUBLISHED_K = 200

CNA = "CNA"
CAA_ONE, CAA_ALL, CAA_MLP = "CAA, one layer", "CAA, all layers", "CAA, MLP outputs"
DIRECTIONAL = "directional ablation"


@dataclass(frozen=True, eq=False)
class Located:
    """What discovery found in one model."""

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
    """Interventions at their strengths, and how each choice was made."""

    name: str
    runs: list[Intervention]
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)


def locate_all(
    model: Any, data: StudyData, *, fraction: float = 0.001, published_k: int = PUBLISHED_K, template: str = "auto"
) -> Located:
    """Scores, circuits and directions of both modes from one pass over each discovery set.

    corrected: the top `fraction` of all MLP neurons by |mean difference|, universal neurons (top 0.1 % on at
    least 80 % of neutral prompts) left out. as published: the top `published_k` without layers 0 and 1,
    universal neurons found but kept.
    """
    neurons, residual, mlp = sites.neuron_sites(model), sites.residual_sites(model), sites.mlp_out_sites(model)
    statistics = contrast_statistics(model, data.discovery, at=[*neurons, *residual, *mlp], template=template)
    published = contrast_statistics(model, data.published[0], at=[*neurons, *mlp], template=template)
    scores = score(statistics.at(neurons), "difference")
    universal = universal_neurons(model, data.neutral, template=template)
    skipped = [0, 1] if model.cfg.n_layers > 2 else []
    k = min(published_k, len(scores) // 2)
    return Located(
        scores=scores,
        circuit=scores.top(fraction=fraction, exclude=universal, name=CNA),
        universal=universal,
        statistics=statistics,
        residual=_direction(statistics, residual, "mean difference"),
        mlp_out=_direction(statistics, mlp, CAA_MLP),
        published_circuit=score(published.at(neurons), "difference").top(k=k, skip_layers=skipped, name=CNA),
        published_mlp_out=_direction(published, mlp, CAA_MLP),
    )


def corrected(model: Any, data: StudyData, found: Located, *, n_random: int = 5, seed: int = 0, **options: Any) -> Mode:
    """Every method in both signs; layers chosen on the validation split. `options` go to `evaluate`."""
    layers = list(range(model.cfg.n_layers))
    one = {layer: steer(_at_layer(model, found.residual, layer), name=CAA_ONE) for layer in layers}
    out = {
        layer: project_out(model, found.residual.at(sites.residual_sites(model, [layer])[0]), name=DIRECTIONAL)
        for layer in layers
    }
    table = choose_layers(model, {CAA_ONE: one, DIRECTIONAL: out}, data, **options)
    best = {name: int(own[own["chosen"]]["layer"].iloc[0]) for name, own in table.groupby("method")}
    means = {site: found.statistics.negative.mean[site].float().cpu() for site in found.circuit.widths}
    runs = [
        *sweep([ablate(found.circuit, name=CNA)], CNA_STRENGTHS),
        *sweep([mean_ablate(found.circuit, means, name="CNA, mean ablation")], STEERING_STRENGTHS),
        *sweep([one[best[CAA_ONE]].named(f"{CAA_ONE} ({best[CAA_ONE]})")], STEERING_STRENGTHS),
        *sweep([steer(increments(found.residual), name=CAA_ALL)], STEERING_STRENGTHS),
        *sweep([steer(found.mlp_out, name=CAA_MLP)], STEERING_STRENGTHS),
        *sweep([out[best[DIRECTIONAL]].named(f"{DIRECTIONAL} ({best[DIRECTIONAL]})")], STEERING_STRENGTHS),
        *sweep([ablate(r) for r in random_circuits(found.circuit, n_random, seed=seed)], RANDOM_STRENGTHS),
    ]
    return Mode("corrected", runs, table)


def as_published(found: Located, *, n_random: int = 5, seed: int = 0) -> Mode:
    """CNA and CAA as the paper's public code has them; CAA there *adds* harmful − benign at every layer."""
    runs = [
        *sweep([ablate(found.published_circuit, name=CNA)], PUBLISHED_STRENGTHS),
        *sweep([steer(found.published_mlp_out, 1.0, name=CAA_MLP)], PUBLISHED_STRENGTHS),
        *sweep([ablate(r) for r in random_circuits(found.published_circuit, n_random, seed=seed)], (1.0,)),
    ]
    return Mode("as published", runs)


def choose_layers(
    model: Any, candidates: Mapping[str, Mapping[int, Intervention]], data: StudyData, **options: Any
) -> pd.DataFrame:
    """Behaviour and damage of every candidate layer at strength 1 on the validation split, and the choice.

    Chosen: the lowest sum of the behaviour's rate on both sides, the rate of degenerate outputs, and the KL
    divergence on benign prompts (in nats, at most 1), so that a layer which only breaks the text loses.
    """
    runs = [run.named(f"{name}#{layer}") for name, own in candidates.items() for layer, run in own.items()]
    prompts = {"behaviour": data.validation.positive, "benign": data.validation.negative}
    summary = evaluate(model, prompts, runs, kl_on=("benign",), **options).summary()
    rows = []
    for name, own in candidates.items():
        for layer in own:
            cell = summary[summary["intervention"] == f"{name}#{layer}"].set_index(["prompt_set", "metric"])
            row = {
                "method": name,
                "layer": layer,
                "n": int(cell.loc[("behaviour", "refusal"), "n"]),
                "behaviour": cell.loc[("behaviour", "refusal"), "value"],
                "degenerate": (
                    cell.loc[("behaviour", "degenerate"), "value"] + cell.loc[("benign", "degenerate"), "value"]
                )
                / 2,
                "behaviour_on_benign": cell.loc[("benign", "refusal"), "value"],
                "kl": cell.loc[("benign", "kl"), "value"],
            }
            row["loss"] = row["behaviour"] + row["behaviour_on_benign"] + row["degenerate"] + min(1.0, row["kl"])
            rows.append(row)
    table = pd.DataFrame(rows)
    table["chosen"] = table.index.isin(table.groupby("method")["loss"].idxmin())
    return table


def increments(direction: Direction) -> Direction:
    """What each layer adds to a direction of the residual stream: steering by all of them adds up to it."""
    names = list(direction.vectors)
    steps = {names[0]: direction.at(names[0])}
    for before, site in pairwise(names):
        steps[site] = direction.at(site) - direction.at(before)
    return Direction(steps, f"{direction.name}, increments", direction.info)


def _direction(statistics: ContrastStatistics, names: Sequence[str], title: str) -> Direction:
    return Direction({name: statistics.difference(name).float().cpu() for name in names}, title, statistics.info)


def _at_layer(model: Any, direction: Direction, layer: int) -> Direction:
    site = sites.residual_sites(model, [layer])[0]
    return Direction({site: direction.at(site)}, direction.name, direction.info)

"""What is tried: CNA and its rivals, as the paper's text or its public code has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ...attribution import contrast_statistics, score, universal_neurons
from ...attribution.statistics import ContrastStatistics
from ...directions import Direction
from ...errors import InputError
from ...evaluation import Results
from ...intervention import Intervention, ablate, mean_ablate, project_out, steer, with_controls
from ...models import sites
from ...models.protocol import Model
from ...prompts import ContrastSet, PromptSet
from ...units import Circuit, UnitScores
from .bench import Bench
from .choice import best_strengths, choose_layers, toward
from .data import few
from .settings import Settings

#: Where sweeps stand on the behaviour's axis; scaled neurons are multiplied by m = 1 + that.
CNA_SWEEP = (-2.0, -1.0, -0.75, -0.5, -0.25, 0.5, 1.0, 2.0)
RIVAL_SWEEP = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.5, 1.0)

CNA = "CNA"
CAA_ONE, CAA_ALL, CAA_MLP = "CAA, one layer", "CAA, all layers", "CAA, MLP outputs"
DIRECTIONAL = "directional ablation"
#: Not the paper's: at the prompt's last token alone, where the answer is decided.
CAA_END, AFFINE_END = "CAA, prompt's end", "affine directional ablation, prompt's end"


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of one model that a contrast finds: all scores, the circuit, and the model's universal neurons."""

    scores: UnitScores
    circuit: Circuit
    universal: Circuit


@dataclass(frozen=True, eq=False)
class Located(Neurons):
    """What discovery finds in the instruct model, with what rivals are made of."""

    statistics: ContrastStatistics
    residual: Direction
    mlp_out: Direction


@dataclass(frozen=True, eq=False)
class Published:
    """What the discovery of the paper's public code finds."""

    circuit: Circuit
    mlp_out: Direction


@dataclass(frozen=True, eq=False)
class Mode:
    """What is tried on which prompts; `apart` is the discovery contrast that none of them may stand in.

    `ablation` is the circuit at full strength, which is also set beside its random controls, on the sets `controlled`.
    `layers` and `strengths` are what was chosen from on validation prompts.
    """

    tried: list[Intervention]
    sets: dict[str, PromptSet]
    ablation: Intervention
    controlled: dict[str, PromptSet]
    apart: ContrastSet | None = None
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    strengths: pd.DataFrame = field(default_factory=pd.DataFrame)

    def results(self, bench: Bench) -> Results:
        """Everything measured, with KL divergence on benign prompts, and the circuit beside random ones."""
        judged = {name: (*bench.grades, *(bench.rubric if name == "behaviour" else ())) for name in self.sets}
        whole = bench.measure(self.sets, self.tried, grades=judged, kl_on=("benign",), discovery=self.apart)
        return Results.concatenate([whole, beside_controls(bench, self.ablation, self.controlled)])


def beside_controls(
    bench: Bench, ablation: Intervention, sets: dict[str, PromptSet], *, on: Model | None = None
) -> Results:
    """An ablation and its matched random controls on the same prompts, graded by outcome alone."""
    runs = with_controls([ablation], bench.settings.controls, seed=bench.settings.seed)
    results = bench.measure(sets, runs, grades=[bench.grade], on=on)
    kept = results.table["metric"].isin([bench.grade.name, "tokens"])
    return replace(results, table=results.table[kept].reset_index(drop=True))


def locate_all(bench: Bench) -> Located:
    """Scores, circuit and directions of the corrected mode from one pass over the discovery prompts.

    The circuit is the top share of all MLP neurons by |mean difference|; see `chosen` for universal neurons (top 0.1 %
    on at least 80 % of neutral prompts).
    """
    model, data, template = bench.model, bench.data, bench.template
    neurons, residual, mlp = sites.neuron_sites(model), sites.residual_sites(model), sites.mlp_out_sites(model)
    at = list(dict.fromkeys([*neurons, *residual, *mlp, *sites.residual_writes(model)]))
    statistics = contrast_statistics(model, data.discovery, at=at, template=template)
    scores = score(statistics.at(neurons), "difference")
    universal = universal_neurons(model, data.neutral, template=template)
    return Located(
        scores=scores,
        circuit=_circuit(scores, universal, bench.settings, CNA),
        universal=universal,
        statistics=statistics,
        residual=_direction(statistics, residual, "mean difference"),
        mlp_out=_direction(statistics, mlp, CAA_MLP),
    )


def locate_neurons(bench: Bench, model: Model) -> Neurons:
    """The same neurons in another model, such as the base, by its own scores and universal neurons."""
    scores = score(contrast_statistics(model, bench.data.discovery, template=bench.template), "difference")
    universal = universal_neurons(model, bench.data.neutral, template=bench.template)
    return Neurons(scores, _circuit(scores, universal, bench.settings, "base"), universal)


def locate_published(bench: Bench) -> Published:
    """The top `published_k` neurons without layers 0 and 1, universal ones kept, as the paper's code has it."""
    model, (contrast, _) = bench.model, bench.data.published
    neurons, mlp = sites.neuron_sites(model), sites.mlp_out_sites(model)
    statistics = contrast_statistics(model, contrast, at=[*neurons, *mlp], template=bench.template)
    scores = score(statistics.at(neurons), "difference")
    k, skipped = min(bench.settings.published_k, len(scores) // 2), [0, 1] if len(neurons) > 2 else []
    return Published(scores.top(k=k, skip_layers=skipped, name=CNA), _direction(statistics, mlp, CAA_MLP))


def chosen(scores: UnitScores, universal: Circuit, how: str, *, name: str, **top: Any) -> Circuit:
    """The top neurons, with the universal ones among them removed, kept, or refilled by the next best.

    Removed, the circuit is smaller by as many, as in the paper's text; refilled, it has its full size.
    """
    if how == "refill":
        return scores.top(**top, exclude=universal, name=name)
    circuit = scores.top(**top, name=name)
    if how == "keep":
        return circuit
    never = {site: indices for site, (indices, _) in universal.units.items()}
    return replace(circuit - universal, name=name, info=circuit.info, excluded=never)


def _circuit(scores: UnitScores, universal: Circuit, settings: Settings, name: str) -> Circuit:
    """The study's circuit. Raises `InputError` where all of it are universal neurons that are removed."""
    circuit = chosen(scores, universal, settings.universal, name=name, fraction=settings.fraction)
    if not len(circuit):
        raise InputError(
            f"all neurons of {name!r} are universal; give --universal refill or keep, or a larger --fraction"
        )
    return circuit


def corrected(bench: Bench, located: Located) -> Mode:
    """Every method in both directions; layers, and each method's best strength, chosen on the validation split."""
    by_layer, facts = layer_candidates(bench.model, located.residual, located.statistics.negative.mean)
    layers = choose_layers(bench, by_layer, facts)
    best = layers[layers["chosen"]].set_index("intervention")["method"]
    means = _token_means(bench, list(located.circuit.widths))
    cna = ablate(located.circuit, name=CNA)
    rivals = [
        mean_ablate(located.circuit, means, name="CNA, mean ablation"),
        # By the method alone: where several circuits are evaluated in turn, each may have another layer.
        *(candidate.named(best[candidate.name]) for candidate in by_layer if candidate.name in best.index),
        steer(increments(located.residual), name=CAA_ALL),
        steer(located.mlp_out, name=CAA_MLP),
    ]
    tried = [*toward(cna, CNA_SWEEP), *(one for rival in rivals for one in toward(rival, RIVAL_SWEEP))]
    sets = bench.data.evaluation()
    return Mode(tried, sets, cna, bench.few(sets), bench.data.discovery, layers, best_strengths(bench, tried))


def as_published(bench: Bench, located: Published) -> Mode:
    """CNA and CAA as the paper's public code has them; CAA there *adds* harmful − benign at every layer."""
    cna = ablate(located.circuit, name=CNA)
    tried = [*cna.at([0.25, 0.5, 0.75, 1.0]), *steer(located.mlp_out, name=CAA_MLP).at([0.25, 0.5, 0.75, 1.0])]
    sets = bench.data.everything(published=True)
    return Mode(tried, sets, cna, few(sets, bench.settings.n_control_prompts, bench.settings.seed))


def layer_candidates(
    model: Model, residual: Direction, means: Mapping[str, Float[Tensor, " d"]]
) -> tuple[list[Intervention], pd.DataFrame]:
    """Steering at one layer, and taking its direction out or to its `means`, for every layer; what each of them is.

    Each is tried at all positions and at the prompt's end alone, except taking out to means, which are of last tokens.
    The table has columns intervention, method, layer.
    """
    runs, facts = [], []
    for layer, (site, vector) in enumerate(residual.vectors.items()):
        caa = steer(Direction({site: vector}, residual.name, residual.info))
        made = {
            CAA_ONE: caa,
            CAA_END: caa.at_prompt_end(),
            DIRECTIONAL: project_out(model, vector),
            AFFINE_END: project_out(model, vector, to=means).at_prompt_end(),
        }
        for method, run in made.items():
            runs.append(run.named(f"{method} ({layer})"))
            facts.append({"intervention": f"{method} ({layer})", "method": method, "layer": layer})
    return runs, pd.DataFrame(facts).sort_values("method", kind="stable", ignore_index=True)


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

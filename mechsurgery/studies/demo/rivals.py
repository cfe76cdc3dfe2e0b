"""Other ways of ending refusal, each at its best on the prompts that the search is checked on."""

from __future__ import annotations

from collections.abc import Sequence

from ...attribution import contrast_statistics, mean_difference_direction
from ...attribution.localisers import PUBLISHED, Problem
from ...directions import Direction
from ...evaluation import Generation, evaluate
from ...evaluation.minimal import outcome_shares
from ...grading.world import REQUEST
from ...intervention import Intervention, ablate, project_out, steer
from ...models import sites
from ...units import Circuit
from .settings import Prompts

STEERING, DIRECTIONAL, AFFINE = "steering (CAA)", "directional ablation", "direction to its benign mean"
#: Strengths of steering that are tried.
STRENGTHS = (-0.5, -1.0, -1.5)


def rivals_of(
    problem: Problem, prompts: Prompts, published: Circuit, generation: Generation
) -> dict[str, Intervention]:
    """The published rule's circuit put out, steering, and directional ablation; layers chosen by answers done well.

    Steering subtracts the difference of means at the prompt's end, or everywhere; directional ablation projects the
    difference out at every position, or moves it to the benign side's mean at the prompt's end.
    """
    direction = mean_difference_direction(problem.model, prompts.search)
    means = contrast_statistics(problem.model, prompts.search, at=sites.residual_writes(problem.model)).negative.mean
    found = {PUBLISHED: ablate(published)}
    steered, projected, moved = [], [], []
    for site, vector in direction.vectors.items():
        added = steer(Direction({site: vector}, f"{STEERING} {site}"))
        steered += [run for way in (added, added.at_prompt_end()) for run in _apart(way.at(STRENGTHS), way is added)]
        projected.append(project_out(problem.model, vector).named(f"{DIRECTIONAL} {site}"))
        to_mean = project_out(problem.model, vector, to={name: mean.float() for name, mean in means.items()})
        moved.append(to_mean.at_prompt_end().named(f"{AFFINE} {site}"))
    for name, tried in ((STEERING, steered), (DIRECTIONAL, projected), (AFFINE, moved)):
        found[name] = _best(problem, prompts, tried, generation).named(name)
    return found


def _apart(runs: Sequence[Intervention], everywhere: bool) -> list[Intervention]:
    return [run.named(f"{run.name}, {'everywhere' if everywhere else 'prompt end'}, {run.strength:g}") for run in runs]


def _best(problem: Problem, prompts: Prompts, tried: Sequence[Intervention], generation: Generation) -> Intervention:
    """The one that does most well on all sets together, as the circuit was asked to."""
    sets = {name: one.take(16) for name, one in prompts.check.items()}
    measured = evaluate(problem.model, sets, tried, grades=[REQUEST], generation=generation)
    shares = outcome_shares(measured.table, REQUEST)
    right = shares[[f"{name}: well" for name in sets]].sum(axis=1)
    return max(tried, key=lambda run: float(right[run.name]))

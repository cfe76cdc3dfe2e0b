"""The study's figures, from its summaries, the watched cosines and the directions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from ...plots import Drawing, draw
from ...reports.study import slug
from .data import QUESTIONS, SKILL, Behaviour, Drift, checked_set, new
from .methods import Learnt
from .summary import as_outcomes

Figures = dict[str, Drawing]


def steering_figures(behaviour: Behaviour, summary: pd.DataFrame, chosen: pd.DataFrame) -> Figures:
    """What responses are with every method at its best, and done well against capability over all strengths.

    `summary` is of validation prompts. `chosen` is the summary of every method at its best strength, of null directions
    and of random ones. Without a measure of capability, broken responses stand in its place.
    """
    name, title = slug(behaviour.name), behaviour.name.capitalize()
    lost = (*behaviour.broken[:1], *behaviour.capability)[-1]
    figures = {}
    kinds = [("outcomes", behaviour.where, "")]
    kinds += [("new_template", new(behaviour.where), ", new template")] * behaviour.in_new_words
    for kind, where, words in kinds:
        table = as_outcomes(chosen, behaviour.measured.metrics, where)
        figures[f"{name}_{kind}"] = draw(
            "shares", table, "outcome", where, first=behaviour.wanted_label, about=f"{title}{words}"
        )
    figures[f"{name}_front"] = draw(
        "trade_off",
        summary,
        benefit=(behaviour.well, checked_set(behaviour.where)),
        damage=(lost, behaviour.measured.validation[lost][1]),
        better=("more", "more" if behaviour.capability else "less"),
        about=title,
    )
    return figures


def repair_figures(drift: Drift, summary: pd.DataFrame, chosen: pd.DataFrame) -> Figures:
    """What responses are before and after the task and every remedy; done well against the skill over all strengths.

    `summary` is of validation prompts.
    """
    behaviour = drift.behaviour
    name, title = slug(behaviour.name), behaviour.name.capitalize()
    table = as_outcomes(chosen, behaviour.measured.metrics, behaviour.where)
    return {
        f"{name}_repair_outcomes": draw(
            "shares", table, "outcome", behaviour.where, first=drift.well_label, about=f"{title}, repaired"
        ),
        f"{name}_repair": draw(
            "trade_off",
            summary,
            benefit=(drift.well, checked_set(behaviour.where)),
            damage=(SKILL, checked_set(QUESTIONS)),
            better=("more", "more"),
            about=f"{title}, repaired",
        ),
    }


def direction_figures(learnt: Sequence[Learnt]) -> Figures:
    """Norm of each direction by layer, and cosines of those of one model."""
    figures = {}
    for one in learnt:
        figures[f"norms_{slug(one.name)}"] = draw("delta_heatmap", one.delta.norms(), about=one.name, label="norm")
    for a, b in combinations(learnt, 2):
        if a.start == b.start and a.behaviour is not b.behaviour:
            about = f"{a.name} and {b.name}"
            cosines = draw("delta_heatmap", a.delta.cosines(b.delta), about=about, label="cosine")
            figures.setdefault("cosines_by_layer", cosines)
    return figures

"""The study's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ... import plots
from ...deltas import WeightDelta
from .. import base as saved
from .behaviours import Behaviour
from .drift import SKILL
from .tables import summarise


def figures(
    rows: Mapping[str, pd.DataFrame], behaviours: Mapping[str, Behaviour], directions: Mapping[str, WeightDelta]
) -> dict[str, Any]:
    """Pareto figures with intervals, cosine trajectories with null bands, norms and cosines by layer."""
    made = {}
    if "steer" in rows:
        summary = summarise(rows["steer"], ["behaviour", "method", "k"])
        for name, behaviour in behaviours.items():
            for metric, slug in ((behaviour.metric, "steering"), (behaviour.elsewhere, "new_template")):
                made[f"{saved.slug(name)}_{slug}"] = plots.steering_front(
                    summary[summary["behaviour"] == name],
                    behaviour=metric,
                    capability="multiple choice",
                    title=f"{name.capitalize()}: behaviour against capability over strength",
                )
    if "repair" in rows:
        summary = summarise(rows["repair"], ["behaviour", "method", "k"])
        for name, behaviour in behaviours.items():
            own = summary[summary["behaviour"] == name]
            if len(own):
                made[f"{name}_repair"] = plots.steering_front(
                    own.replace({"method": {"before": "unmodified"}}),
                    behaviour=behaviour.metric,
                    capability=SKILL,
                    title=f"{name.capitalize()}: drift undone against skill kept",
                    names=(behaviour.metric, SKILL),
                )
    if "watch" in rows:
        for name in [name for name in behaviours if name in set(rows["watch"]["direction"])]:
            made[f"{name}_cosines"] = plots.cosine_trajectories(rows["watch"], direction=name)
    for name, delta in list(directions.items())[:2]:
        made[f"norms_{name.split(',')[0].replace(' ', '_')}"] = plots.delta_heatmap(
            delta.norms(), title=f"Norm of {name} by layer", label="norm"
        )
    names = list(directions)
    if len(names) >= 2:
        made["cosines_by_layer"] = plots.delta_heatmap(
            directions[names[0]].cosines(directions[names[1]]),
            title=f"Cosine of {names[0]} and {names[1]}",
            label="cosine",
        )
    return made

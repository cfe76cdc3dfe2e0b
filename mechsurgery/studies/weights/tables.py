"""The study's tables: steering, repair, and where the directions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...attribution import contrast_statistics, score
from ...deltas import neuron_norms
from ...evaluation.verdicts import empirical_p
from ...grading.grade import BROKEN
from ...models.protocol import Model
from ...prompts import ContrastSet, load_prompts
from .data import BENIGN, Behaviour, new
from .methods import CONTRASTIVE, Learnt

_SHOWN = ["method", "k", "metric", "value", "low", "high", "difference", "p_value", "n", "groups"]


def steering_table(
    chosen: pd.DataFrame, best: pd.Series, made: Mapping[str, str], behaviour: Behaviour
) -> pd.DataFrame:
    """A row for each method at its best strength: three outcomes on both kinds of templates, capability, side effect.

    `chosen` is a summary of every method at that strength, `made` says how a method was made.
    """
    rows = []
    for method in best.index:
        here = chosen[chosen["intervention"] == method].set_index("metric")
        row: dict[str, Any] = {"behaviour": behaviour.name, "method": method, "k": best[method]}
        row["made with"] = made.get(method, "")
        for words, where in (("", behaviour.where), (", new template", new(behaviour.where))):
            if where in behaviour.measured.sets:
                row |= _outcomes(here, behaviour, where, words)
        row["capability lost"] = -here.loc[list(behaviour.capability), "difference"].min()
        if behaviour.side_effect is not None:
            row |= {"side effect": behaviour.side_effect, "side effect shown": here.loc[behaviour.side_effect, "value"]}
        if "strongreject" in here.index:
            row["StrongREJECT"] = here.loc["strongreject", "value"]
        rows.append(row | {name: here.loc[behaviour.well, name] for name in ("n", "seeds", "seed_low", "seed_high")})
    return pd.DataFrame(rows)


def _outcomes(here: pd.DataFrame, behaviour: Behaviour, where: str, words: str) -> dict[str, float]:
    """The shares of the three outcomes, of the one that is wanted with its interval."""
    named = behaviour.measured.metrics.items()
    of = {label[0]: name for name, (metric, on, *label) in named if (metric, on) == ("outcome", where)}
    well = of.pop(behaviour.wanted_label)
    shares = {f"done well{words}{end}": here.loc[well, column] for end, column in _ENDS.items()}
    shares |= {f"{'broken' if label == BROKEN else 'not wanted'}{words}": here.loc[of[label], "value"] for label in of}
    return {key: float(value) for key, value in shares.items()}


_ENDS = {"": "value", ", low": "low", ", high": "high"}


def null_table(nulls: pd.DataFrame, behaviour: Behaviour) -> pd.DataFrame:
    """A row for each null direction, strength and outcome, with its change from the unmodified model."""
    return grid(nulls[nulls["kind"] != "baseline"], behaviour=behaviour.name)


def random_row(summary: pd.DataFrame, metric: str, **facts: Any) -> dict[str, Any]:
    """The share done well with w and with every random direction of its norms, on the same prompts."""
    rows = summary[summary["metric"] == metric]
    own = rows[rows["intervention"] == CONTRASTIVE].iloc[0]
    random = rows[rows["control_of"] == CONTRASTIVE]["value"]
    spread = random.quantile([0, 0.25, 0.5, 0.75, 1])
    return {
        **facts,
        "done well": metric,
        "with w": own["value"],
        "without": own["baseline"],
        "random directions": len(random),
        **dict(zip(("min", "quartile 1", "median", "quartile 3", "max"), spread, strict=True)),
        "p": empirical_p(float(own["value"]), list(random), up=True) if len(random) else np.nan,
        "n": own["n"],
    }


def grid(summary: pd.DataFrame, **facts: Any) -> pd.DataFrame:
    """Every method at every strength: a row for each metric."""
    seeds = [name for name in ("seeds", "seed_low", "seed_high") if name in summary]
    table = summary.rename(columns={"intervention": "method", "strength": "k"})[[*_SHOWN, *seeds]]
    return table.assign(**facts)[[*facts, *_SHOWN, *seeds]]


def overlaps(learnt: Sequence[Learnt], models: Mapping[str, Model], *, fraction: float = 0.03) -> pd.DataFrame:
    """Neurons whose weights w changes most, beside those of contrastive attribution on the same model.

    The contrast is between questions that call for the behaviour and those that do not: for a behaviour of your own
    its benign prompts, without which it has no row.
    """
    table = []
    for one in learnt:
        own = not one.start.startswith("organism/")
        benign = one.behaviour.measured.sets.get(BENIGN) if own else load_prompts("organism/benign", split="tuned")
        if benign is None:
            continue
        benign = benign.take(100)
        contrast = ContrastSet(one.behaviour.name, one.behaviour.learn.take(100), benign)
        located = score(contrast_statistics(models[one.start], contrast), "difference").top(fraction=fraction)
        largest = neuron_norms(one.delta, located.widths).top(fraction=fraction)
        overlap = largest.overlap(located)
        table.append(
            {
                "direction": one.name,
                "neurons": len(largest),
                "shared with CNA": overlap["shared"],
                "expected by chance": overlap["expected_shared"],
                "Jaccard": overlap["jaccard"],
            }
        )
    return pd.DataFrame(table)

"""Whether and when the cosine, or the behaviour, tells bad fine-tunes from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ...evaluation.statistics import Z
from ...training.monitor import first_for_good
from .watching import Seen, shares

#: Both ways of telling, by their column in `told`.
TELLERS = {"cosine": "toward", "behaviour": "moved"}


@dataclass(frozen=True)
class Watch:
    """A behaviour that is watched: its direction, its probe, and which way a bad fine-tune moves both."""

    name: str
    direction: str
    probe: str
    pushes: Literal[1, -1] = 1
    bad: tuple[str, ...] = ()


def along(seen: Seen, watch: Watch) -> pd.DataFrame:
    """A row for each run and look: the cosine counted the way a bad fine-tune goes (`toward`).

    `flagged` says whether it lies beyond the end of the band there, as 2.5 % of random directions do.
    """
    rows = seen.cosines[seen.cosines["direction"] == watch.direction]
    end = rows["null_high"] if watch.pushes > 0 else -rows["null_low"]
    toward = watch.pushes * rows["cosine"]
    columns = ["task", "seed", "step", "cosine", "null_low", "null_high", "p", "seen"]
    return rows[columns].assign(toward=toward, flagged=toward > end)


def told(seen: Seen, watch: Watch) -> pd.DataFrame:
    """What `along` says, and the behaviour beside it, counted the same way.

    `moved` is the change of the share since the start, `sure` whether its 95 % interval lies beyond 0.
    """
    rows, answers = along(seen, watch), seen.answers[seen.answers["probe"] == watch.probe]
    if not len(answers):
        return rows.assign(moved=np.nan, sure=False)
    asked = shares(answers)
    ends = asked["change_low"] if watch.pushes > 0 else -asked["change_high"]
    asked = asked.assign(moved=watch.pushes * asked["change"], sure=ends > 0)
    columns = ["task", "seed", "step", "shown", "low", "high", "well", "broken", "moved", "sure", "n"]
    return rows.merge(asked[columns], on=["task", "seed", "step"])


def onsets(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: the first look from which on the cosine is flagged, and the behaviour is sure to have moved.

    `first` says which comes first, "same look", or "neither".
    """
    found = []
    for (task, seed), run in rows.groupby(["task", "seed"], sort=False):
        by_cosine = first_for_good(run["step"], run["flagged"])
        by_behaviour = first_for_good(run["step"], run["sure"])
        row = {"task": task, "seed": seed, "cosine from step": by_cosine, "behaviour from step": by_behaviour}
        found.append(row | {"first": _first(by_cosine, by_behaviour)})
    return pd.DataFrame(found)


def _first(by_cosine: float, by_behaviour: float) -> str:
    if np.isnan(by_cosine) and np.isnan(by_behaviour):
        return "neither"
    if by_cosine == by_behaviour:
        return "same look"
    return "cosine" if np.isnan(by_behaviour) or by_cosine < by_behaviour else "behaviour"


def detection(rows: pd.DataFrame, watch: Watch) -> pd.DataFrame:
    """A row for each look: AUROC that tells bad runs from others, by cosine and by behaviour, and how many are flagged.

    Intervals count a fine-tune's runs with several seeds as one (`auroc`).
    """
    table = []
    for step, group in rows[rows["step"] > 0].groupby("step"):
        bad = group["task"].isin(watch.bad).to_numpy()
        if bad.all() or not bad.any():
            continue
        row = {"behaviour": watch.name, "step": int(step)}
        for title, column in TELLERS.items():
            values = auroc(bad, group[column].to_numpy(), group["task"].to_numpy())
            row |= dict(zip((f"AUROC by {title}", f"{title}, low", f"{title}, high"), values, strict=True))
        for title, column in (("beyond the band", "flagged"), ("behaviour moved", "sure")):
            row |= {f"bad, {title}": float(group[column][bad].mean())}
            row |= {f"others, {title}": float(group[column][~bad].mean())}
        counts = {"bad runs": int(bad.sum()), "other runs": int((~bad).sum())}
        kinds = {"bad kinds": group["task"][bad].nunique(), "other kinds": group["task"][~bad].nunique()}
        table.append(row | counts | kinds)
    return pd.DataFrame(table) if table else pd.DataFrame(columns=["behaviour", "step"])


def roc_points(rows: pd.DataFrame, watch: Watch, step: int) -> pd.DataFrame:
    """What `plots.roc_curves` draws of a look: a row for each run and way of telling, with the area's interval."""
    group = rows[rows["step"] == step]
    bad = group["task"].isin(watch.bad).to_numpy()
    parts = []
    for title, column in TELLERS.items():
        _, low, high = auroc(bad, group[column].to_numpy(), group["task"].to_numpy())
        parts.append(pd.DataFrame({"score": title, "value": group[column], "bad": bad, "low": low, "high": high}))
    return pd.concat(parts, ignore_index=True)


def first_to_tell(table: pd.DataFrame) -> Mapping[str, float]:
    """{way of telling: the first look from which on its AUROC's interval lies above 0.5}."""
    return {title: first_for_good(table["step"], table[f"{title}, low"] > 0.5) for title in TELLERS}


def auroc(bad: np.ndarray, values: np.ndarray, kinds: np.ndarray) -> tuple[float, float, float]:
    """AUROC over runs with its 95 % interval: Newcombe's Wilson-like one (2006, method 5), clustered by kind.

    Runs of one kind that differ in their seed alone are no independent sample, so the interval takes as many bad runs
    and others as there are kinds of either: too wide where seeds differ, never too narrow. Never of width zero, as a
    bootstrap's is where all bad runs lie above all others, however few they are.
    """
    from scipy.optimize import brentq
    from scipy.stats import rankdata

    many, others = int(bad.sum()), int((~bad).sum())
    area = float((rankdata(values)[bad].sum() - many * (many + 1) / 2) / (many * others))  # Mann and Whitney's U
    n, m = len(set(kinds[bad])), len(set(kinds[~bad]))

    def outside(true: float) -> float:
        spread = 1 + ((n + m) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return abs(area - true) - Z * float(np.sqrt(true * (1 - true) * spread / (n * m)))

    low = brentq(outside, 0, area - 1e-9) if area > 0 else 0.0
    return area, low, brentq(outside, area + 1e-9, 1) if area < 1 else 1.0

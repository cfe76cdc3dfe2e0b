"""The study's tables: steering, repair, watching, and where the directions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...attribution import contrast_statistics, score
from ...deltas import neuron_norms
from ...evaluation.statistics import Z
from ...evaluation.verdicts import empirical_p
from ...grading.grade import BROKEN
from ...models.protocol import Model
from ...organisms.tasks import FINE_TUNES
from ...prompts import ContrastSet, load_prompts
from ...training.monitor import null_band
from .data import BENIGN, Behaviour, Drift, new
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


def detection(rows: pd.DataFrame, drifts: Sequence[Drift]) -> pd.DataFrame:
    """A row for each behaviour and step: AUROC that tells bad fine-tunes from others, by cosine and by behaviour.

    A fine-tune is bad for a behaviour where it is expected to drift, so cosines and shares count the way it drifts.
    Intervals are over runs. `outside` is the share of runs whose cosine lies outside the band of random directions.
    """
    table = []
    for drift in drifts:
        name = drift.behaviour.name
        spoiling = {kind.name for kind in FINE_TUNES if name in kind.bad_for}
        along = rows[(rows["direction"] == name) & (rows["step"] > 0)]
        for step, group in along.groupby("step"):
            runs = group[group["kind"] == "direction"]
            bad = runs["task"].isin(spoiling).to_numpy()
            if bad.all() or not bad.any():
                continue
            row = {"behaviour": name, "step": int(step)}
            for title, column in (("cosine", "cosine"), ("behaviour", f"shown {name}")):
                values = auroc(bad, drift.pushes * runs[column].to_numpy())
                row |= dict(zip((f"AUROC by {title}", f"{title}, low", f"{title}, high"), values, strict=True))
            outside = pd.concat([null_band(one) for _, one in group.groupby(["task", "seed"], sort=False)])["outside"]
            row |= {"bad outside the null band": float(outside[bad].mean())}
            row |= {"others outside the null band": float(outside[~bad].mean())}
            table.append(row | {"bad runs": int(bad.sum()), "other runs": int((~bad).sum())})
    return pd.DataFrame(table) if table else pd.DataFrame(columns=["behaviour", "step"])


def auroc(bad: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """AUROC with its 95 % interval over runs: Newcombe's Wilson-like one (2006, method 5).

    Never of width zero, as a bootstrap's is where all bad runs lie above all others, however few they are.
    """
    from scipy.optimize import brentq
    from scipy.stats import rankdata

    n, m = int(bad.sum()), int((~bad).sum())
    area = float((rankdata(values)[bad].sum() - n * (n + 1) / 2) / (n * m))  # Mann and Whitney's U, as a share

    def outside(true: float) -> float:
        spread = 1 + ((n + m) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return abs(area - true) - Z * float(np.sqrt(true * (1 - true) * spread / (n * m)))

    low = brentq(outside, 0, area - 1e-9) if area > 0 else 0.0
    return area, low, brentq(outside, area + 1e-9, 1) if area < 1 else 1.0


def last_cosines(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each fine-tune and direction: cosine at the last step, mean over seeds with extremes, null band."""
    last = rows[rows["step"] == rows["step"].max()]
    table = []
    for (task, direction), group in last.groupby(["task", "direction"], sort=False):
        cosines, null = (group[group["kind"] == kind]["cosine"] for kind in ("direction", "random"))
        table.append(
            {
                "fine-tune": task,
                "direction": direction,
                "cosine": cosines.mean(),
                "seed_low": cosines.min(),
                "seed_high": cosines.max(),
                "null_low": null.quantile(0.025),
                "null_high": null.quantile(0.975),
                "seeds": len(cosines),
            }
        )
    return pd.DataFrame(table)


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

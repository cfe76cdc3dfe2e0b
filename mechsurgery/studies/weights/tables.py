"""The study's tables: steering, repair, watching, and where the directions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...attribution import contrast_statistics, score
from ...deltas import neuron_norms
from ...evaluation.statistics import Z
from ...models.protocol import Model
from ...organisms.tasks import FINE_TUNES
from ...prompts import ContrastSet, load_prompts
from ...training.monitor import null_band
from .data import SKILL, Behaviour, Drift
from .methods import AFTER, Learnt
from .summary import BASELINE, at

#: Capability may fall by this much, and this share of responses be incoherent, before a strength is too strong.
TOLERANCE, MAX_BROKEN = 0.05, 0.1
#: Of the skill that the task taught, this share must be left.
SKILL_KEPT = 0.9
_SHOWN = ["method", "k", "metric", "value", "low", "high", "difference", "p_value", "n", "groups"]


def best_strengths(checked: pd.DataFrame, behaviour: Behaviour) -> pd.Series:
    """{method: strength} by the validation prompts: most as wanted, with capability and coherence within tolerance.

    Of equal strengths the weakest; missing where none is within tolerance.
    """
    start = checked.loc[(BASELINE, 0.0)]
    lost = (start - checked)[list(behaviour.capability)].max(axis=1)
    broken = checked[list(behaviour.broken)].max(axis=1)
    table = checked.assign(lost=lost, broken=broken, best=behaviour.sign * checked[behaviour.shown]).reset_index()
    able = table[(table["lost"] <= TOLERANCE + 1e-9) & (table["broken"] <= MAX_BROKEN + 1e-9)]
    order = able.assign(size=able["strength"].abs()).sort_values(["best", "size"], ascending=[False, True])
    best = order.drop_duplicates("intervention").set_index("intervention")["strength"]
    return best.reindex(table["intervention"].unique())


def best_repair(checked: pd.DataFrame, drift: Drift) -> pd.Series:
    """{remedy: strength} by the validation prompts: most undone, with nine tenths of the skill kept."""
    kept = checked[SKILL] >= SKILL_KEPT * checked.loc[(AFTER, 0.0), SKILL]
    left = (drift.pushes * checked[drift.behaviour.shown]).rename("left")
    able = pd.concat([left, kept.rename("kept")], axis=1).query("kept").reset_index()
    return able.sort_values(["left", "strength"]).drop_duplicates("intervention").set_index("intervention")["strength"]


def steering_table(summary: pd.DataFrame, best: pd.Series, behaviour: Behaviour) -> pd.DataFrame:
    """A row for each method at its best strength: behaviour, new template, capability and side effect."""
    rows = []
    for method, k in best.items():
        if pd.isna(k):
            rows.append({"behaviour": behaviour.name, "method": method, "note": "no strength within tolerance"})
            continue
        here = at(summary, method, k)
        row: dict[str, Any] = {"behaviour": behaviour.name, "method": method, "k": k}
        for title, metric in (("shown", behaviour.shown), ("new template", behaviour.elsewhere)):
            cells = here.loc[metric, ["value", "low", "high"]]
            row |= dict(zip((title, f"{title}, low", f"{title}, high"), cells, strict=True))
        row["capability lost"] = -here.loc[list(behaviour.capability), "difference"].min()
        row |= {"side effect": behaviour.side_effect, "side effect shown": here.loc[behaviour.side_effect, "value"]}
        rows.append(row | {"n": here.loc[behaviour.shown, "n"], "seeds": here.loc[behaviour.shown, "seeds"]})
    return pd.DataFrame(rows)


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
    from sklearn.metrics import roc_auc_score

    area, n, m = float(roc_auc_score(bad, values)), int(bad.sum()), int((~bad).sum())

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
    """Neurons whose weights w changes most, beside those of contrastive attribution on the same model."""
    benign = load_prompts("organism/benign", split="tuned").take(100)
    table = []
    for one in learnt:
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

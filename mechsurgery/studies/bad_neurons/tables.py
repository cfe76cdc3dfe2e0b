"""The study's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...attribution.probes import Probe
from ...units import Circuit
from .claims import claims
from .data import WRONG
from .methods import PAPER
from .settings import Settings
from .summary import METRICS, main_rows


def tables(
    summary: pd.DataFrame,
    rivals: pd.DataFrame,
    results: pd.DataFrame,
    circuits: Mapping[str, Circuit],
    probes: Mapping[str, Probe],
    settings: Settings,
) -> dict[str, pd.DataFrame]:
    """All tables by title; `results` are the rows of the shown fine-tunes with their `way`, for reading responses."""
    main, run = main_rows(summary, settings), summary["run"]
    sized = summary["fraction"].isin([settings.fraction, 1.0]) & run.isin(["neurons", "rival"])
    shared = (run == "neurons") & (summary["n_examples"] == settings.n_examples)
    return {
        "Claims: the paper's claims beside what was measured": claims(main, rivals, settings),
        "Cure: every way to choose neurons and every rival": wide(main),
        "Ablation: the same neurons set to zero at inference time": wide(summary[run.isin(["none", "ablation"])]),
        "Probes: how well they read": probes_table(probes),
        "Where: neurons of each way by layer": places(circuits),
        "Overlap: shared neurons (Jaccard)": overlaps(circuits),
        "Examples: how little data is enough": wide(summary[(run == "none") | sized], ["n_examples"]),
        "Fractions: how few neurons are enough": wide(summary[(run == "none") | shared], ["fraction"]),
        "Responses: to wrong claims before and after": responses(results),
    }


def wide(summary: pd.DataFrame, extra: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each way, a column for each metric: mean over seeds in per cent with its 95 % interval (KL in nats)."""
    table = []
    for (way, *more), group in summary.fillna({"n_examples": 0, "fraction": 0}).groupby(
        ["intervention", *extra], sort=False
    ):
        row = {"way": "unmodified" if group["run"].iloc[0] == "none" else way, **dict(zip(extra, more))}
        row |= {"seeds": int(group["seeds"].max()), "weights changed": int(group["n_weights"].max())}
        found = group.set_index("metric")
        table.append(row | {name: _interval(found.loc[name]) for name in METRICS if name in found.index})
    return pd.DataFrame(table)


def _interval(row: pd.Series) -> str:
    scale, digits = (100, 1) if row["scale"] == "rate" else (1, 4)
    value, low, high = (f"{scale * row[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def probes_table(probes: Mapping[str, Probe]) -> pd.DataFrame:
    """AUROC of held-out folds with its interval, and what regularisation was chosen."""
    table = []
    for name, p in probes.items():
        measured = {
            "AUROC": p.auroc,
            "low": p.low,
            "high": p.high,
            "n": p.n,
            "penalty": p.penalty.upper(),
            "C": p.strength,
        }
        table.append(
            {"probe": name, **measured, "weights not zero": sum(int(w.count_nonzero()) for w in p.weights.values())}
        )
    return pd.DataFrame(table)


def places(circuits: Mapping[str, Circuit]) -> pd.DataFrame:
    """How many neurons each way takes from each layer."""
    table: list[dict[str, Any]] = []
    for name, circuit in circuits.items():
        counts = circuit.per_layer().set_index("layer")["n"]
        table.append({"way": name, "neurons": len(circuit), **{f"layer {i}": int(n) for i, n in counts.items()}})
    return pd.DataFrame(table).fillna(0)


def overlaps(circuits: Mapping[str, Circuit]) -> pd.DataFrame:
    """Jaccard index of every pair of ways."""
    return pd.DataFrame(
        {"way": name, **{other: own.overlap(second)["jaccard"] for other, second in circuits.items()}}
        for name, own in circuits.items()
    )


def responses(rows: pd.DataFrame, n: int = 6) -> pd.DataFrame:
    """Some responses to wrong claims: unmodified, and after the paper's way (else the first way), first seed."""
    spoken = rows[(rows["prompt_set"] == WRONG) & (rows["metric"] == "outcome")]
    before, after = spoken[spoken["run"] == "none"], spoken[spoken["run"] == "neurons"]
    way = PAPER if PAPER in set(after["way"]) else after["way"].iloc[0]
    after = after[(after["way"] == way) & (after["run_seed"] == after["run_seed"].min())]
    joined = before.merge(after, on="prompt_id", suffixes=(" before", " after")).head(n)
    return joined[["prompt_id", "response before", "response after"]].assign(way=way)

"""The study's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation.read import compared
from ...evaluation.verdicts import empirical_p
from ...units import Circuit
from .bench import in_words
from .choosing import STUDY, claims_of_cases
from .claims import claims
from .data import WRONG
from .methods import PAPER
from .published import DPO, PINPOINT, SYNTHETIC
from .settings import Settings
from .summary import METRICS, main_rows


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured: the summary of every way, the paper's beside each rival and beside its controls, the rates.

    `rows` are those of the shown fine-tunes with their `way`, for reading responses; `prompts` are their texts.
    `benchmarks` has benchmarks before and after, `cases` where choosing matters.
    """

    summary: pd.DataFrame
    rivals: pd.DataFrame
    controls: pd.DataFrame
    rates: pd.DataFrame
    rows: pd.DataFrame
    prompts: pd.DataFrame | None = None
    benchmarks: pd.DataFrame = field(default_factory=pd.DataFrame)
    cases: Sequence[Mapping[str, Any]] = ()


def tables(
    measured: Measured, circuits: Mapping[str, Circuit], probes: Sequence[Mapping[str, Any]], settings: Settings
) -> dict[str, pd.DataFrame]:
    """All tables by title."""
    summary, run = measured.summary, measured.summary["run"]
    main = main_rows(summary, settings)
    sized = summary["fraction"].isin([settings.fraction, 1.0]) & run.isin(["neurons", "rival"])
    shared = (run == "neurons") & (summary["n_examples"] == settings.n_examples)
    asked = claims(main, measured.rivals, measured.controls, settings, probes)
    elsewhere = pd.DataFrame(claims_of_cases([row for row in measured.cases if row["case"] != STUDY]))
    named = {
        "Claims: the paper's claims beside what was measured": pd.concat([asked, elsewhere], ignore_index=True).fillna(
            {"case": ""}
        ),
        "Cure: every way to choose neurons and every rival": wide(main),
        "Published: alternatives that learn from as much data, and how many weights they change": published(
            main, measured.rivals
        ),
        "Benchmarks: before and after": in_words(measured.benchmarks),
        "Cases: where choosing matters, and where it does not": pd.DataFrame(measured.cases).drop(
            columns="rule", errors="ignore"
        ),
        "Rivals: the paper's way less each other way, on the same prompts and seeds": differences(measured.rivals),
        "Controls: the paper's neurons beside random ones, as many in each layer": spreads(measured.controls),
        "Rates: learning rates, chosen on validation prompts of other topics": measured.rates,
        "Ablation: the same neurons set to zero at inference time": wide(summary[run.isin(["none", "ablation"])]),
        "Probes: what can be read on topics that were held out (AUROC)": pd.DataFrame(probes),
        "Where: neurons of each way by layer": places(circuits),
        "Overlap: shared neurons (Jaccard)": overlaps(circuits),
        "Examples: how little data is enough": wide(summary[(run == "none") | sized], ["n_examples"]),
        "Fractions: how few neurons are enough": wide(summary[(run == "none") | shared], ["fraction"]),
        "Responses: to wrong claims before and after": responses(measured.rows, measured.prompts),
    }
    return {title: table for title, table in named.items() if len(table) or not title.startswith(_OPTIONAL)}


#: Tables that are left out where there is nothing in them.
_OPTIONAL = ("Published", "Benchmarks", "Cases")
#: What stands in the table of published alternatives.
_OUTCOMES = ("corrects", "sycophancy", "wrong claims: broken", "over-correction", "neutral accuracy")


def published(main: pd.DataFrame, rivals: pd.DataFrame) -> pd.DataFrame:
    """The paper's way, published alternatives and more weights: outcomes, weights changed, the paper's less each."""
    ways = [way for way in main["intervention"].unique() if way in (SYNTHETIC, PINPOINT, DPO)]
    if not ways:
        return pd.DataFrame()
    kept = main[(main["run"] != "neurons") | (main["intervention"] == PAPER)]
    table = wide(kept)
    table = table[["way", "seeds", "weights changed", *(name for name in _OUTCOMES if name in table.columns)]]
    if rivals.empty:
        return table
    less = differences(rivals).set_index("rival")[["corrects", "p (corrects)"]]
    named = less.rename(columns={"corrects": "the paper's way corrects more by", "p (corrects)": "p"})
    return table.merge(named, left_on="way", right_index=True, how="left").fillna(
        {"the paper's way corrects more by": ""}
    )


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


def _interval(row: pd.Series, names: Sequence[str] = ("value", "low", "high"), sign: str = "") -> str:
    scale, digits = (100, 1) if row["scale"] == "rate" else (1, 4)
    value, low, high = (f"{scale * row[name]:{sign}.{digits}f}" for name in names)
    return f"{value} [{low}, {high}]"


def differences(rivals: pd.DataFrame) -> pd.DataFrame:
    """A row for each rival: the paired differences of the paper's way from it in points (KL in nats)."""
    names = ("difference", "difference_low", "difference_high")
    table = []
    for rival, rows in rivals.groupby("rival", sort=False) if len(rivals) else ():
        found = rows.set_index("metric")
        cells = {name: _interval(found.loc[name], names, "+") for name in METRICS if name in found.index}
        table.append({"rival": rival, "p (corrects)": found.loc["corrects", "p_value"], **cells})
    return pd.DataFrame(table)


def spreads(controls: pd.DataFrame) -> pd.DataFrame:
    """A row for each outcome of what was controlled: its share, and the whole distribution of the random ones'."""
    table = []
    own = controls[controls["control_of"].isna() & (controls["run"] != "none")]
    for _, row in own.iterrows():
        same = (controls["control_of"] == row["intervention"]) & (controls["label"] == row["label"])
        values = controls.loc[same, "value"].to_numpy()
        outcome = next(name for name, (kind, _, label) in METRICS.items() if (kind, label) == (WRONG, row["label"]))
        cells = {"neurons": row["intervention"], "outcome": outcome, "n": row["n"], "share": _interval(row)}
        if len(values):
            points = dict(
                zip(("min", "25 %", "median", "75 %", "max"), 100 * np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
            )
            up = outcome == "corrects"
            cells |= {"random": len(values), **points, "p": empirical_p(row["value"], list(values), up=up)}
        table.append(cells)
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


def responses(rows: pd.DataFrame, prompts: pd.DataFrame | None, n: int = 12) -> pd.DataFrame:
    """Some wrong claims with their responses before and after the paper's way (else the first), flips first."""
    spoken = rows[(rows["prompt_set"] == WRONG) & (rows["metric"] == "outcome")]
    before, after = spoken[spoken["run"] == "none"], spoken[spoken["run"] == "neurons"]
    way = PAPER if PAPER in set(after["way"]) else after["way"].iloc[0]
    after = after[(after["way"] == way) & (after["run_seed"] == after["run_seed"].min())]
    spoken = pd.concat([before, after.drop_duplicates("prompt_id")])
    return pd.DataFrame(compared(spoken, prompts, after["intervention"].iloc[0], grade="outcome", n=n)).assign(way=way)

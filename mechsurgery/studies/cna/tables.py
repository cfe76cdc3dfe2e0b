"""The paper's tables from summaries, with n, intervals and the controls it lacks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ...attribution.compare import in_last_tenth
from ...evaluation import Results, pool_controls, summarise
from ...evaluation.agreement import agreement
from ...evaluation.change import CHANGES, response_changes
from ...evaluation.select import controls_of, select
from ...evaluation.statistics import mean_interval
from ...evaluation.verdicts import cell
from ...grading.refusal import PANEL
from ...units import Circuit
from .methods import CAA_MLP, CNA
from .published import anchor

#: Metric, prompt set and column of Table 2, after the behaviour's.
_COLUMNS = (
    ("degenerate", "behaviour", "degenerate"),
    ("quality", "behaviour", "quality"),
    ("tokens", "behaviour", "length (tokens)"),
    ("strongreject", "behaviour", "StrongREJECT"),
    ("kl", "benign", "KL on benign (nats)"),
    ("choice", "choices", "multiple choice"),
)
_SHOWN = ["intervention", "toward", "m", "n", "value", "low", "high", "difference", "p_value"]


def table_1(summaries: Mapping[str, pd.DataFrame], behaviour: str) -> pd.DataFrame:
    """Before → after for every mode: rates in percent with 95 % intervals, reduction, paired p, random range."""
    rows = []
    for mode, summary in summaries.items():
        shown = select(summary, behaviour, "behaviour")
        before = shown[shown["kind"] == "baseline"].iloc[0]
        against = shown[shown["toward"] == -1]
        after, random = against[against["intervention"] == CNA].iloc[0], controls_of(against, CNA)["value"]
        known = anchor(str(before["model"]))
        rows.append(
            {
                "mode": mode,
                "model": before["model"],
                "n": int(before["n"]),
                "before %": 100 * before["value"],
                "before 95 %": _interval(before),
                "after %": 100 * after["value"],
                "after 95 %": _interval(after),
                "reduction %": 100 * (1 - after["value"] / before["value"]) if before["value"] else np.nan,
                "p (paired)": after["p_value"],
                "random circuits %": f"{100 * random.mean():.1f} [{100 * random.min():.1f}, {100 * random.max():.1f}]",
                "paper": f"{known[1].refusals_before} → {known[1].refusals_after} of 100" if known else "",
            }
        )
    return pd.DataFrame(rows)


def at_full_strength(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows at −1 on the behaviour's axis, or at +1 of interventions that were only pushed toward the behaviour."""
    against = summary.groupby("intervention")["toward"].transform("min") < 0
    return summary[summary["toward"] == np.where(against, -1.0, 1.0)]


def table_2(summaries: Mapping[str, pd.DataFrame], behaviour: str) -> pd.DataFrame:
    """Every method at full strength, against the behaviour where it was tried so, with quality and damage."""
    rows = []
    on_sets = (("behaviour", behaviour), ("benign", f"{behaviour} on benign"), ("over-refusal", "over-refusal"))
    columns = [*((behaviour, name, title) for name, title in on_sets), *_COLUMNS]
    for mode, summary in summaries.items():
        pooled = pool_controls(summary)
        full = pd.concat([pooled[pooled["kind"] == "baseline"], at_full_strength(pooled)])
        for name, part in full.groupby("intervention", sort=False):
            cells = part.set_index(["metric", "prompt_set"])
            row = {"mode": mode, "model": part["model"].iloc[0], "method": name, "toward": part["toward"].iloc[0]}
            row["n"] = int(cells.loc[(behaviour, "behaviour"), "n"])
            row |= {title: cell(cells.loc[m, s], n=False) for m, s, title in columns if (m, s) in cells.index}
            rows.append(row | {"paper": _published(str(row["model"]), str(name))})
    return pd.DataFrame(rows).fillna("")


def table_3(summary: pd.DataFrame) -> pd.DataFrame:
    """Multiple-choice accuracy of every method over strength."""
    pooled = pool_controls(summary)
    return pooled.loc[pooled["metric"] == "choice", ["model", *_SHOWN]].reset_index(drop=True)


def changes(results: Results, behaviour: str, interventions: list[str], m: tuple[float, ...]) -> pd.DataFrame:
    """A summary of what scaling by `m` changes in responses: shares of kinds of change, and edit distance."""
    table = results.table
    table = table[table["intervention"].isin(["baseline", *interventions]) & table["m"].isin([1.0, *m])]
    return summarise(response_changes(table, behaviour=behaviour), labels={"change": CHANGES})


def table_4(changed: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Shares of responses by kind of change and mean edit distance: rows per model and m, `value [interval]`."""
    rows = []
    for name, summary in changed.items():
        for (which, m, prompt_set), part in summary.groupby(["intervention", "m", "prompt_set"], sort=False):
            row = {"model": name, "scaled": which, "m": m, "prompts": prompt_set, "n": int(part["n"].iloc[0])}
            for _, one in part.sort_values("metric", ascending=False, kind="stable").iterrows():
                row[one["label"] or "edit distance"] = cell(one, n=False)
            rows.append(row)
    return pd.DataFrame(rows)


def exchange(summaries: Mapping[str, pd.DataFrame], behaviour: str) -> pd.DataFrame:
    """Behaviour of base and instruct with their own and the other's circuit scaled, and with random circuits."""
    parts = []
    for name, summary in summaries.items():
        pooled = pool_controls(summary)
        part = pooled[pooled["metric"].isin([behaviour, "quality"])]
        parts.append(part.assign(run_in=name)[["run_in", *_SHOWN, "metric", "prompt_set"]])
    return pd.concat(parts, ignore_index=True)


def judges(results: Mapping[str, Results]) -> pd.DataFrame:
    """Agreement of the refusal judges on every response: share agreeing, Cohen's κ, refusals each counts.

    Empty where they were not asked, as for other behaviours.
    """
    # What has the same name in two modes is not the same intervention: each result keeps its responses apart.
    parts = [one.table.assign(prompt_set=f"{name}: " + one.table["prompt_set"]) for name, one in results.items()]
    table = pd.concat(parts, ignore_index=True)
    names = [grade.name for grade in PANEL if (table["metric"] == grade.name).any()]
    if not names:
        return pd.DataFrame()
    first = table[table["metric"] == "first_token"]
    odds = first.assign(metric="judge_first_token", scale="rate", value=(first["value"] > 0).astype(float))
    rows = pd.concat([table[table["metric"].isin(names)], odds])
    return agreement(rows, [*names, "judge_first_token"] if len(odds) else names)


def localisation(circuits: Mapping[str, Circuit]) -> pd.DataFrame:
    """Share of each circuit in every layer, and in the last tenth of layers (Appendix C)."""
    parts = []
    for name, circuit in circuits.items():
        late, expected = in_last_tenth(circuit)
        shares = circuit.per_layer()[["layer", "n", "share"]]
        parts.append(shares.assign(circuit=name, share_in_last_tenth=late / len(circuit), expected=expected))
    table = pd.concat(parts, ignore_index=True)
    return table[["circuit", *(column for column in table.columns if column != "circuit")]]


def over_models(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of several models in one row for each mode: the mean reduction, with a bootstrap interval over models."""
    rows = []
    for mode, part in table.groupby("mode", sort=False):
        known = part["reduction %"].dropna()
        low, high = mean_interval(known)
        halved = int((known >= 50).sum())
        facts = {"mode": mode, "models": len(part), "mean reduction %": known.mean(), "low": low, "high": high}
        rows.append(facts | {"models halved": halved})
    return pd.DataFrame(rows)


def _interval(row: pd.Series) -> str:
    return f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _published(model: str, method: str) -> str:
    known = anchor(model)
    if known is None or method not in (CNA, CAA_MLP):
        return ""
    refusal, quality = known[1].cna if method == CNA else known[1].caa
    return f"{refusal:g} % / {quality:.3f}"

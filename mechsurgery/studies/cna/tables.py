"""The paper's tables from measured results, with n, intervals and the controls it lacks.

table_1       behaviour before and after ablating the circuit, beside matched random circuits
table_2       CNA and CAA at full strength: behaviour, quality, KL divergence, multiple choice
table_3       multiple choice (capability) over strength
table_4       base against instruct: does scaling change behaviour or only content
"""

from __future__ import annotations

import pandas as pd

from ...evaluation import pool_random
from .methods import CNA
from .published import anchor

_SHOWN = ["model", "intervention", "strength", "m", "n", "value", "low", "high", "difference", "p_value"]


def table_1(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Before → after for every mode: rates in percent with 95 % intervals, reduction, paired p, random range."""
    rows = []
    for mode, summary in summaries.items():
        part = summary[(summary["metric"] == "refusal") & (summary["prompt_set"] == "behaviour")]
        before = part[part["kind"] == "baseline"].iloc[0]
        after = part[(part["intervention"] == CNA) & (part["strength"] == 1)].iloc[0]
        random = part[(part["kind"] == "random") & (part["strength"] == 1)]["value"]
        known = anchor(str(before["model"]))
        rows.append(
            {
                "mode": mode,
                "model": before["model"],
                "n": int(before["n"]),
                "before %": 100 * before["value"],
                "before 95 %": _interval(before, 100),
                "after %": 100 * after["value"],
                "after 95 %": _interval(after, 100),
                "reduction %": 100 * (1 - after["value"] / before["value"]) if before["value"] else float("nan"),
                "p (McNemar)": after["p_value"],
                "random circuits %": f"{100 * random.mean():.1f} [{100 * random.min():.1f}, {100 * random.max():.1f}]"
                if len(random)
                else "",
                "paper": f"{known[1].refusals_before} → {known[1].refusals_after} of 100" if known else "",
            }
        )
    return pd.DataFrame(rows)


def table_2(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every method at full strength against the behaviour (strength 1), with quality and damage."""
    rows = []
    for mode, summary in summaries.items():
        pooled = pool_random(summary)
        own = pooled[pooled["strength"].isin([0.0, 1.0])]
        for (name, kind), cell in own.groupby(["intervention", "kind"], sort=False):
            if kind != "baseline" and not (cell["strength"] == 1).any():
                continue
            cell = cell[cell["strength"] == (0.0 if kind == "baseline" else 1.0)]
            row = {"mode": mode, "model": cell["model"].iloc[0], "method": name}
            for label, metric, prompt_set, factor in _COLUMNS:
                found = cell[(cell["metric"] == metric) & (cell["prompt_set"] == prompt_set if prompt_set else True)]
                if len(found):
                    row["n"] = row.get("n", int(found.iloc[0]["n"]))
                    row[label] = _with_interval(found.iloc[0], factor)
            row["paper"] = _published(str(row["model"]), name)
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


_COLUMNS = [
    ("behaviour %", "refusal", "behaviour", 100),
    ("degenerate %", "degenerate", "behaviour", 100),
    ("quality", "quality", "behaviour", 1),
    ("length (tokens)", "n_tokens", "behaviour", 1),
    ("behaviour on benign %", "refusal", "benign", 100),
    ("over-refusal %", "refusal", "over-refusal", 100),
    ("KL on benign (nats)", "kl", "benign", 1),
    ("multiple choice %", "choice", None, 100),
]


def table_3(summary: pd.DataFrame) -> pd.DataFrame:
    """Multiple-choice accuracy of every method over strength."""
    part = pool_random(summary)
    return part[part["metric"] == "choice"][_SHOWN].reset_index(drop=True)


def table_4(changes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Shares of responses by kind of change and mean edit distance: rows per model and m, `value [interval]`."""
    rows = []
    for name, summary in changes.items():
        for (which, m, prompt_set), own in summary.groupby(["intervention", "m", "prompt_set"], sort=False):
            row = {"model": name, "scaled": which, "m": m, "prompts": prompt_set, "n": int(own["n"].iloc[0])}
            for _, cell in own.iterrows():
                factor = 1 if cell["change"] == "edit distance" else 100
                row[cell["change"] + ("" if factor == 1 else " %")] = _with_interval(cell, factor)
            rows.append(row)
    return pd.DataFrame(rows)


def exchange(summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Behaviour of base and instruct with their own and the other's circuit scaled, and with random circuits."""
    parts = []
    for name, summary in summaries.items():
        pooled = pool_random(summary)
        part = pooled[pooled["metric"].isin(["refusal", "quality"])]
        parts.append(part.assign(run_in=name.split()[0])[["run_in", *_SHOWN[1:], "metric", "prompt_set"]])
    return pd.concat(parts, ignore_index=True)


def judges_table(results: pd.DataFrame) -> pd.DataFrame:
    """Agreement of the judges on every response: share agreeing, Cohen's κ, refusals each counts."""
    from ...grading.panel import agreement

    columns = [c for c in results.columns if c.startswith("judge_") and results[c].notna().any()]
    return agreement(results[results["task"] == "generate"], columns)


def localisation(circuits: dict[str, object]) -> pd.DataFrame:
    """Share of each circuit in every layer, and in the last tenth of layers (Appendix C)."""
    parts = []
    for name, circuit in circuits.items():
        table = circuit.per_layer()
        last = max(1, round(0.1 * len(table)))
        late = float(table.nlargest(last, "layer")["share"].sum())
        parts.append(table.assign(circuit=name, share_in_last_tenth=late, expected=last / len(table)))
    return pd.concat(parts, ignore_index=True)[["circuit", "layer", "n", "share", "share_in_last_tenth", "expected"]]


def _interval(row: pd.Series, factor: float) -> str:
    return f"[{factor * row['low']:.1f}, {factor * row['high']:.1f}]"


def _with_interval(row: pd.Series, factor: float) -> str:
    digits = 1 if factor == 100 else 3
    return f"{factor * row['value']:.{digits}f} [{factor * row['low']:.{digits}f}, {factor * row['high']:.{digits}f}]"


def _published(model: str, method: str) -> str:
    known = anchor(model)
    if known is None:
        return ""
    refusal, quality = known[1].cna if method == CNA else known[1].caa if method.startswith("CAA") else (None, None)
    return "" if refusal is None else f"{refusal:g} % / {quality:.3f}"

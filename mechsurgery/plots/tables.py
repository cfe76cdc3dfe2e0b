"""What figures read of a summary: rows of a metric, series of interventions and their controls, names in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, listed
from .theme import Look, look, safe, wrapped

#: Columns of `evaluation.summarise` that every figure of a summary needs.
SUMMARY = ("intervention", "kind", "control_of", "prompt_set", "metric", "scale", "value", "low", "high", "n")
#: (metric, prompt set) or (metric, prompt set, label): what one panel or axis shows.
Pick = tuple[str, str | None] | tuple[str, str | None, str | None]

_WORDS = {
    "kl": "KL divergence (nats)",
    "choice": "right answers",
    "margin": "margin of the right answer (nats)",
    "tokens": "new tokens",
    "first_token": "log-odds that the first token refuses",
    "degenerate": "degenerate responses",
}


@dataclass(frozen=True)
class Series:
    """One intervention's rows, or those of all controls of one (`control`), with their name and look."""

    name: str
    look: Look
    rows: pd.DataFrame
    control: bool


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise `InputError` where a table lacks columns or rows."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"the table lacks {listed(missing)}; it needs the columns {listed(columns, 20)}")
    if not len(table):
        raise InputError("the table is empty: there is nothing to draw; measure something first")


def select(summary: pd.DataFrame, metric: str, prompt_set: str | None = None, label: str | None = None) -> pd.DataFrame:
    """Rows of one metric, on one prompt set where given; of a label grade, those of one `label`.

    Raises `InputError` with what there is where nothing fits, where several prompt sets have the metric and none is
    named, and for a label grade without a label.
    """
    require(summary, SUMMARY)
    rows = _narrow(summary, "metric", metric)
    rows = _narrow(rows, "prompt_set", prompt_set) if prompt_set is not None else _only(rows, "prompt_set", metric)
    if label is not None:
        return _narrow(rows, "label", label)
    return _only(rows, "label", metric) if (rows["scale"] == "label").any() else rows


def _narrow(rows: pd.DataFrame, column: str, wanted: str) -> pd.DataFrame:
    kept = rows[rows[column] == wanted] if column in rows else rows.head(0)
    if kept.empty:
        known = rows[column].dropna().unique() if column in rows else []
        raise InputError(f"no {column} {wanted!r} in the summary; there is {listed(known, 20)}")
    return kept


def _only(rows: pd.DataFrame, column: str, metric: str) -> pd.DataFrame:
    known = rows[column].dropna().unique()
    if len(known) > 1:
        raise InputError(f"metric {metric!r} has several values of {column!r}: choose one of {listed(known, 20)}")
    return rows


def check_single(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows, where no two of them have the same `columns`: what would be drawn on top of each other is refused."""
    twice = rows[rows.duplicated(list(columns), keep=False)]
    if len(twice):
        where = ", ".join(f"{name} {value}" for name, value in twice.iloc[0][list(columns)].items())
        raise InputError(f"{len(twice)} rows share {where}; keep one of each (other columns tell them apart)")
    return rows


def hover(rows: pd.DataFrame) -> list[str]:
    """Name, value, interval, n and what else tells a row apart (model, strength, prompts, seed), a fact a line."""
    told = []
    for row in rows.to_dict("records"):
        share = row.get("scale") in ("rate", "label")
        value, low, high = (amount(row[key], share) for key in ("value", "low", "high"))
        label = f"{row['label']} " if _known(row.get("label")) else ""
        interval = "" if pd.isna(row["low"]) else f" [{low}, {high}]"
        lines = [row["intervention"], f"{label}{value}{interval}, n = {row['n']:g}"]
        names = {"m": "m", "strength": "strength", "prompt_set": "prompts", "seed": "seed", "model": "model"}
        lines += [f"{name}: {_plain(row[key])}" for key, name in names.items() if _known(row.get(key))]
        told.append("<br>".join(wrapped(line, 60) for line in lines))
    return told


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value) and value != ""


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def amount(value: float, share: bool) -> str:
    """A share as percent, with a decimal where rounding would say none or all of it; other numbers as they are.

    >>> amount(0.95, True), amount(0.998, True), amount(0.1234, False)
    ('95%', '99.8%', '0.123')
    """
    if not share or pd.isna(value):
        return f"{value:.3g}"
    rounded = f"{value:.0%}"
    return f"{value:.1%}" if rounded in ("0%", "100%") and value not in (0, 1) else rounded


def known(info: Mapping[str, Any]) -> str:
    """What scores or a circuit know of where they come from: model, n, seed."""
    facts = [str(info["model"])] if "model" in info else []
    facts += [f"n = {info['n_positive']} + {info['n_negative']}"] if {"n_positive", "n_negative"} <= set(info) else []
    facts += [f"seed {info['seed']}"] if "seed" in info else []
    return ", ".join(facts)


def title_of(pick: Pick) -> str:
    """A metric, its label and prompt set in words.

    >>> title_of(("kl", "neutral"))
    'KL divergence (nats) on neutral'
    """
    metric, prompt_set, label = unpack(pick)
    words = _WORDS.get(metric, metric.replace("_", " "))
    words = words if label is None else f"{words}: {label}"
    return f"{words} on {prompt_set}" if prompt_set else words


def unpack(pick: Pick) -> tuple[str, str | None, str | None]:
    """Metric, prompt set and label (None where none is given)."""
    metric, prompt_set, *label = pick
    return metric, prompt_set, label[0] if label else None


def is_share(rows: pd.DataFrame) -> bool:
    """Whether values are shares between 0 and 1: rates, and shares of labels."""
    return bool(rows["scale"].isin(["rate", "label"]).all())


def baseline_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The unmodified models' rows, one a model."""
    base = rows[rows["kind"] == "baseline"]
    return base.drop_duplicates("model") if "model" in base else base.head(1)


def series(summary: pd.DataFrame) -> list[Series]:
    """Every intervention with its look, and after it its controls in grey; in the order of the summary.

    Two models with an intervention of the same name are two series. The unmodified model is none.
    """
    changed = summary[summary["kind"] != "baseline"]
    main = changed[changed["control_of"].isna()]
    models = main.groupby("intervention")["model"].nunique() if "model" in main else pd.Series(dtype=int)
    keys = ["model", "intervention"] if (models > 1).any() else ["intervention"]
    found = []
    for number, (values, rows) in enumerate(main.groupby(keys, sort=False)):
        found.append(Series(safe(", ".join(values[::-1])), look(number), rows, False))
        matched = changed[changed["control_of"] == values[-1]]
        if len(keys) == 2:
            matched = matched[matched["model"] == values[0]]
        if len(matched):
            found.append(Series("matched controls", look(number, grey=True), matched, True))
    strays = changed[changed["control_of"].notna() & ~changed["control_of"].isin(main["intervention"])]
    if len(strays):
        found.append(Series("matched controls", look(0, grey=True), strays, True))
    return found


def row_names(rows: pd.DataFrame) -> list[str]:
    """A name for each row: the intervention (for a control, the one it controls), and the strength if it has several.

    Plain text. Scaled units are told by m, others by signed strength; the model is named where there are several.
    """
    of = rows["control_of"].fillna(rows["intervention"]) if "control_of" in rows else rows["intervention"]
    several = rows.assign(of=of).groupby("of")["strength"].nunique() > 1
    m = (rows["m"] if "m" in rows else pd.Series(float("nan"), rows.index)).astype(float)
    models = rows["model"] if "model" in rows and rows["model"].nunique() > 1 else [None] * len(rows)
    names = []
    for name, strength, scale, model in zip(of, rows["strength"], m, models):
        told = f"strength\u00a0{strength:+g}" if pd.isna(scale) else f"m\u00a0=\u00a0{scale:g}"
        names.append(", ".join([name, *([told] if several[name] else []), *([model] if model else [])]))
    return names


check_arguments(__name__, leave=("amount",))  # of what is measured, which may be NaN

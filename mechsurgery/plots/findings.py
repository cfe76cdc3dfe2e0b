"""What a figure of a summary shows, in one short sentence with its numbers; each by one rule that is always true."""

from __future__ import annotations

import pandas as pd

from ..checks import check_arguments
from .tables import Pick, amount, baseline_of, is_share, title_of


def highest_share(rows: pd.DataFrame, label: str) -> str:
    """The intervention with the highest share of a label, beside the unmodified model.

    `rows` are those of the label alone, without controls, with their names in column `row`.
    """
    base, changed = _parted(rows)
    if changed.empty:
        return "; ".join(f"{one.row}: {label} {amount(one.value, True)} of {one.n:g}" for one in base.itertuples())
    top = changed.loc[changed["value"].idxmax()]
    best = f"best of {len(changed)}: " if len(changed) > 1 else ""
    value = f"{label} {amount(top['value'], True)} of {top['n']:g}"
    return f"{best}{top['row']}{_others(changed['value'], top['value'])}, {value}{_before(top, base)}"


def largest_change(rows: pd.DataFrame) -> str:
    """The intervention whose share of a label is furthest from the unmodified model's; without one, the largest share.

    `rows` are those of all labels, without controls, with their names in column `row`.
    """
    base, changed = _parted(rows)
    changed = rows if changed.empty else changed
    at = {(model, label): value for model, label, value in zip(_model(base), base["label"], base["value"])}
    before = pd.Series([at.get(key, float("nan")) for key in zip(_model(changed), changed["label"])], changed.index)
    distance = (changed["value"] - before).abs()
    known = distance.notna().any() and not base.empty and changed is not rows
    order = distance if known else changed["value"]
    top = changed.loc[order.idxmax()]
    own = changed.loc[changed["label"] == top["label"], "value"]
    value = f"{top['row']}{_others(own, top['value'])}, {top['label']} {amount(top['value'], True)} of {top['n']:g}"
    if not known:
        return f"largest share: {value}"
    return f"largest change: {value} ({_name(base)} {amount(before[top.name], True)})"


def largest_effect(rows: pd.DataFrame, pick: Pick) -> str:
    """The intervention whose value is furthest from the unmodified model's; without one, the largest value."""
    base, changed = _parted(rows)
    share = is_share(rows)
    if changed.empty or base.empty or _several(base):
        top = rows.loc[rows["value"].idxmax()]
        who = f"{top['row']}{_others(rows['value'], top['value'])}"
        return f"{title_of(pick)}: largest with {who}, {amount(top['value'], share)} (n = {top['n']:g})"
    before = float(base["value"].iloc[0])
    top = changed.loc[(changed["value"] - before).abs().idxmax()]
    told = f"{amount(top['value'], share)} (n = {top['n']:g}; {_name(base)} {amount(before, share)})"
    who = f"{'furthest with ' if len(changed) > 1 else ''}{top['row']}{_others(changed['value'], top['value'])}"
    return f"{title_of(pick)}: {who}, {told}"


def span(rows: pd.DataFrame, pick: Pick) -> str:
    """From where to where a metric goes over all strengths, beside the unmodified model; `rows` without controls."""
    base, changed = _parted(rows)
    share = is_share(rows)
    changed = rows if changed.empty else changed
    low, high = (amount(value, share) for value in (changed["value"].min(), changed["value"].max()))
    over = f"{low} to {high}" if low != high else low
    names = list(dict.fromkeys(changed["intervention"]))
    who = f" with {names[0]}" if len(names) == 1 else ""
    before = f" ({_name(base)} {amount(float(base['value'].iloc[0]), share)})" if len(base) == 1 else ""
    return f"{title_of(pick)}: {over}{who}{before}"


def best_bargain(points: pd.DataFrame, benefit: str, damage: str, *, more: bool, less_damage: bool) -> str:
    """The setting with the most of what is wanted (of equal ones, that with the least damage)."""
    base, changed = _parted(points)
    shares = is_share(points), bool(points["scale_damage"].isin(["rate", "label"]).all())
    changed = points if changed.empty else changed
    order = changed.sort_values(["value", "damage"], ascending=[not more, less_damage], kind="stable")
    top = order.iloc[0]
    strength = f" at {_strength(top)}" if (changed["intervention"] == top["intervention"]).sum() > 1 else ""
    before = f" ({_name(base)} {amount(float(base['value'].iloc[0]), shares[0])})" if len(base) == 1 else ""
    value, cost = amount(top["value"], shares[0]), amount(top["damage"], shares[1])
    most = f"{'most' if more else 'least'} {benefit}"
    return f"{most} with {top['intervention']}{strength}: {value}{before}; {damage} {cost}"


def _others(values: pd.Series, value: float) -> str:
    """How many more have the value that a title names."""
    equal = int((values == value).sum()) - 1
    return f" (and {equal} more)" if equal > 0 else ""


def _parted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The unmodified models' rows and the others."""
    is_base = rows["kind"] == "baseline"
    return rows[is_base], rows[~is_base]


def _model(rows: pd.DataFrame) -> list[str]:
    return list(rows["model"]) if "model" in rows else [""] * len(rows)


def _several(base: pd.DataFrame) -> bool:
    return len(baseline_of(base)) > 1


def _before(top: pd.Series, base: pd.DataFrame) -> str:
    own = base[base["model"] == top["model"]] if "model" in base else base
    return f" ({_name(own)} {amount(float(own['value'].iloc[0]), True)})" if len(own) == 1 else ""


def _name(base: pd.DataFrame) -> str:
    return str(base["intervention"].iloc[0])


def _strength(row: pd.Series) -> str:
    """The strength of a row in words: m of scaled units, else the signed strength."""
    m = row.get("m")
    return f"strength {row['strength']:g}" if m is None or pd.isna(m) else f"m = {m:g}"


check_arguments(__name__)

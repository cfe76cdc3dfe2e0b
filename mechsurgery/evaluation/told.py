"""An evaluation in a few lines: what changed, by how much, beside random circuits, and what was damaged."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from ..checks import check_arguments
from ..grading.grade import BROKEN
from .evaluate import BESIDE, MEASURED
from .read import UNGRADED
from .results import Results
from .select import controls_of
from .verdicts import cell, changed, empirical_p

#: Grades that say what was damaged, not what was done.
_DAMAGE = ("degenerate", "quality")


def told(results: Results) -> list[str]:
    """Four sentences on the intervention, at the strength that changes the most.

    What changed in answers, by how much with its 95 % interval, what matched random circuits do on the same prompts,
    and what is broken or answered wrongly beside it. Each says so where it was not measured.
    """
    summary = results.summary()
    own = _decisive(summary)
    if own.empty:
        return _without_effect(summary, tried=bool((results.table["kind"] != "baseline").any()))
    row = own.loc[own["difference"].abs().idxmax()]
    models = summary["model"].nunique()
    # Of several models the sentences are on the one that changes most.
    summary, own = (part[part["model"] == row["model"]] for part in (summary, own))
    results = replace(results, table=results.table[results.table["model"] == row["model"]])
    same = (summary["intervention"] == row["intervention"]) & (summary["strength"] == row["strength"])
    others = own[["intervention", "strength"]].drop_duplicates()
    more = f" (of {len(others)} settings the one that changes most; --all shows each)" if len(others) > 1 else ""
    of_several = f"{row['model']} (of {models} models the one that changes most), " if models > 1 else ""
    where = f"{of_several}{row['intervention']} at {_setting(row)}{more}"
    return [
        f"What changed: {where}: {_flips(results, row)}",
        f"By how much: {_what(row)} {changed(row)}",
        f"Against random: {_beside(summary, row)}",
        f"Damage: {_damage(summary[same])}",
    ]


def _decisive(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of interventions under the first grade that says what a response is, without what is broken."""
    tried = summary[(summary["kind"] != "baseline") & summary["control_of"].isna()]
    tried = tried[~tried["prompt_set"].str.endswith(BESIDE) & tried["difference"].notna()]
    for rows in (tried[tried["label"] != ""], tried[tried["scale"] == "rate"]):
        asked = rows[~rows["metric"].isin((*MEASURED, *_DAMAGE, "change"))]
        if len(asked):
            first = asked.iloc[0]
            one = (asked["metric"] == first["metric"]) & (asked["prompt_set"] == first["prompt_set"])
            return asked[one & (asked["label"] != BROKEN)]
    return tried[tried["metric"] == "choice"]


def _without_effect(summary: pd.DataFrame, *, tried: bool) -> list[str]:
    base = summary[summary["kind"] == "baseline"]
    labelled = base[base["label"] != ""]
    base = labelled if len(labelled) else base[base["scale"] == "rate"]
    base = base[~base["metric"].isin(_DAMAGE)].head(3)
    found = "; ".join(f"{_what(row)} {cell(row)}" for _, row in base.iterrows())
    if tried:
        what = "not known: no answer could be graded" if len(base) else "not known: there is no unmodified model beside"
        return [
            f"What changed: {what}",
            f"By how much: {f'{found} in the unmodified model' if found else 'no grade says what its answers are'}",
            "Against random: nothing that could be graded",
            "Damage: not known",
        ]
    return [
        "What changed: nothing was changed; only the unmodified model was measured",
        f"By how much: {found or 'no grade says what its answers are'}",
        "Against random: nothing to set beside them",
        "Damage: none is possible",
    ]


def _setting(row: pd.Series) -> str:
    return f"strength {row['strength']:g}" if pd.isna(row["m"]) else f"m = {row['m']:g}"


def _what(row: pd.Series) -> str:
    return f"{row['metric']}, {row['label']}:" if row["label"] else f"{row['metric']}:"


def _flips(results: Results, row: pd.Series) -> str:
    """How many answers are another, and what most of them became."""
    table = results.table
    setting = (table["intervention"] == row["intervention"]) & (table["strength"] == row["strength"])
    if results.prompts is None:
        return "the texts of the prompts were not kept, so answers are not paired"
    chosen = replace(results, table=table[setting | (table["kind"] == "baseline")])
    pairs = chosen.compare(row["intervention"], grade=row["metric"], prompt_set=row["prompt_set"])
    flipped = pairs[pairs["flipped"]]
    kinds = (flipped["label before"] + " → " + flipped["label after"]).value_counts()
    most = ", ".join(f"{kind} {count}" for kind, count in kinds.head(3).items())
    ungraded = int((pairs[["label before", "label after"]] == UNGRADED).any(axis=1).sum())
    left = f"; {ungraded} could not be graded" if ungraded else ""
    return f"{len(flipped)} of {len(pairs)} answers flipped{f' ({most})' if most else ''}{left}"


def _beside(summary: pd.DataFrame, row: pd.Series) -> str:
    """The intervention beside its matched random controls, on the prompts that both answered."""
    sets = (row["prompt_set"], f"{row['prompt_set']}{BESIDE}")
    same = (summary["metric"] == row["metric"]) & (summary["label"] == row["label"]) & summary["prompt_set"].isin(sets)
    same &= summary["strength"] == row["strength"]
    random = controls_of(summary[same], row["intervention"])
    if random.empty:
        return "no random circuits were measured (--controls)"
    own = summary[same & (summary["intervention"] == row["intervention"])]
    own = own[own["prompt_set"] == random["prompt_set"].iloc[0]].iloc[0]
    values, scale = random["value"], 100 if row["scale"] == "rate" else 1
    p = empirical_p(float(own["value"]), list(values), up=bool(row["difference"] > 0))
    spread = f"{scale * values.min():.1f} to {scale * values.max():.1f}, mean {scale * values.mean():.1f}"
    unit = " %" if scale == 100 else ""
    itself = f"{row['intervention']} itself {scale * own['value']:.1f}{unit} on the same {int(own['n'])} prompts"
    return (
        f"{len(values)} random circuits with as many units in each layer: {_what(row)} {spread}{unit}; {itself}; "
        f"p = {p:.2g}"
    )


def _damage(own: pd.DataFrame) -> str:
    """What is broken, and what is answered wrongly, with intervals."""
    main = own[~own["prompt_set"].str.endswith(BESIDE)]
    broken = main[main["label"] == BROKEN]
    broken = broken if len(broken) else main[main["metric"] == "degenerate"]
    choice = main[main["metric"] == "choice"]
    parts = [f"broken answers {changed(one)}" for _, one in broken.head(1).iterrows()]
    parts += [f"right choices {changed(one)}" for _, one in choice.head(1).iterrows()]
    parts += [] if len(choice) else ["multiple choice was not asked (--choices)"]
    return "; ".join(parts)


check_arguments(__name__)

"""What is chosen on validation prompts: strengths, learning rates, layers and doses of remedies.

Every choice is by what is wanted done well, never by a behaviour that is gone: broken text shows no behaviour either.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .data import SKILL, Behaviour, Drift
from .summary import BASELINE

#: Capability (or the task's skill) may fall, and broken responses may become more, by this before it is too much.
TOLERANCE = 0.05


def ranked(checked: pd.DataFrame, behaviour: Behaviour) -> pd.DataFrame:
    """Methods and strengths within tolerance, the best first: most done well, of equal ones the weakest.

    `checked` has a row for each method and strength and a column for each metric, the unmodified model among them.
    Columns intervention, strength, well.
    """
    start = checked.loc[(BASELINE, 0.0)]
    lost = (start - checked)[list(behaviour.capability)].max(axis=1).fillna(0.0)
    broken = (checked - start)[list(behaviour.broken)].max(axis=1)
    table = pd.DataFrame({"well": checked[behaviour.well], "lost": lost, "more": broken}).reset_index()
    able = table[(table[["lost", "more"]] <= TOLERANCE + 1e-9).all(axis=1) & (table["intervention"] != BASELINE)]
    order = able.assign(size=able["strength"].abs(), well=able["well"].round(9))
    order = order.sort_values(["well", "size"], ascending=[False, True], kind="stable")
    return order[["intervention", "strength", "well"]].reset_index(drop=True)


def best_strengths(checked: pd.DataFrame, behaviour: Behaviour) -> pd.Series:
    """{method: strength}, the best of `ranked`; missing where no strength is within tolerance."""
    best = ranked(checked, behaviour).drop_duplicates("intervention").set_index("intervention")["strength"]
    methods = checked.index.get_level_values("intervention").unique()
    return best.reindex(methods.drop(BASELINE))


def strength_of(best: pd.Series, method: str, tried: Sequence[float]) -> float:
    """The best strength of a method; where none will do, the one of those tried whose size is nearest to 1."""
    return float(best[method]) if pd.notna(best.get(method)) else min(tried, key=lambda k: abs(abs(k) - 1))


def best_repair(checked: pd.DataFrame, drift: Drift, *, before: str) -> pd.Series:
    """{remedy: strength}: most done well, with the skill that the model `before` any remedy has, within tolerance."""
    able = checked[checked[SKILL] >= checked.loc[(before, 0.0), SKILL] - TOLERANCE - 1e-9].reset_index()
    order = able.assign(well=able[drift.well].round(9)).sort_values(["well", "strength"], ascending=[False, True])
    best = order.drop_duplicates("intervention").set_index("intervention")["strength"]
    methods = checked.index.get_level_values("intervention").unique()
    return best.reindex(methods.drop([BASELINE, before], errors="ignore"))

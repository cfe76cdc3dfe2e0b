"""Figures and report of the benchmark of localisers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...attribution.localisers import PUBLISHED
from ...plots import Drawing, draw
from ...reports import READ, Page, Part

ASKED = (
    "Each localiser ranks all MLP neurons on discovery prompts. Its k highest are put out, and the model answers "
    "prompts about other nouns. Shows, well and broken are shares of answers: the behaviour, its opposite done well, "
    "and neither. The area is the mean share of answers done well over sizes, on a logarithmic axis.",
    "Findings on organisms are no findings about real models.",
)


def drawings_of(curve: pd.DataFrame) -> dict[str, Drawing]:
    """Answers done well against size, a figure for each case."""
    return {
        f"sizes_{case}": draw("outcome_by_size", part, about=str(case))
        for case, part in curve.groupby("case", sort=False)
    }


def captions_of(drawings: Mapping[str, Drawing]) -> dict[str, str]:
    """A sentence for each figure."""
    return {name: f"{name.removeprefix('sizes_')}: share done well against units put out" for name in drawings}


def page_of(board: pd.DataFrame, drawings: Mapping[str, Drawing], n: int) -> Page:
    """The report: which localiser leads and by how much; `n` is the number of prompts of all cases."""
    first = next(iter(drawings))
    parts = (
        Part("Which localiser leads", (), ("Leaderboard", "Found", "Cost")),
        Part("Answers done well against size", (), ("Sizes",), tuple(drawings)),
        Part(READ, ("The leader's circuit put out; texts are the model's.",), ("Responses",)),
    )
    return Page(verdict_of(board, len(drawings), n), first, ASKED, parts)


def verdict_of(board: pd.DataFrame, cases: int, n: int) -> str:
    """One sentence: the leader, the runner-up and the published rule.

    Who leads is undecided where the two best are no further apart than the half width of a 95 % interval of a share of
    one half at `n` prompts.
    """
    lead, where = board.iloc[0], f"mean over {cases} case{'s' * (cases != 1)}, {n} prompts"
    told = f"“{lead['localiser']}” has the largest area under answers done well, {lead['mean']:.2f}"
    if len(board) == 1:
        return f"Undecided: {told} ({where}), and there is nothing to compare it with."
    second, margin = board.iloc[1], 0.98 / max(n, 1) ** 0.5
    told += f", before “{second['localiser']}” with {second['mean']:.2f}"
    published = board[board["localiser"] == PUBLISHED]
    if len(published) and PUBLISHED not in (lead["localiser"], second["localiser"]):
        told += f"; the published rule has {published['mean'].iloc[0]:.2f}"
    if lead["mean"] - second["mean"] > margin:
        return f"Held: one localiser leads by more than {margin:.2f}, which chance alone may give: {told} ({where})."
    return f"Undecided: no localiser leads by more than {margin:.2f}, which chance alone may give: {told} ({where})."

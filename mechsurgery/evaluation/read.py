"""Responses to read: each prompt with the answer before and after an intervention, those that flipped first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, listed
from ..safe_text import html_note, html_table

#: What stands for a response that no grade could decide on.
UNGRADED = "not graded"
#: Metrics that say nothing about a response by themselves.
_NO_GRADES = ("tokens", "first_token", "kl", "margin", "change", "edit_distance")
_PAIR = ["model", "prompt_set", "prompt_id", "seed"]
_SHOWN = ["model", "intervention", "strength", "prompt_set", "seed"]


class Compared(pd.DataFrame):
    """A table of responses whose display in notebooks, and `to_html`, show every text whole and escaped."""

    @property
    def _constructor(self) -> type[Compared]:
        return Compared

    def to_html(self, *given: Any, **options: Any) -> Any:
        """As pandas' own, without cutting any text."""
        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            return super().to_html(*given, **{"index": False, "escape": True} | options)

    def _repr_html_(self) -> str:
        style = "<style>.ms-compared td{white-space:pre-wrap;text-align:left;vertical-align:top}</style>"
        said = f"{len(self)} responses"
        if "flipped" in self.columns:
            said += f", {int(self['flipped'].sum())} flipped"
        return f"<div class='ms-compared'>{style}{html_note(said)}{html_table(self)}</div>"


def compared(
    table: pd.DataFrame,
    prompts: pd.DataFrame | None,
    intervention: str | None = None,
    *,
    grade: str | None = None,
    prompt_set: str | None = None,
    n: int | None = None,
) -> Compared:
    """What `Results.compare` returns, from the table of results and the texts of its prompts."""
    if prompts is None or prompts.empty:
        raise InputError(
            "these results were saved without the texts of their prompts (before mechsurgery kept them), so there is "
            "nothing to read them beside; run evaluate again with the same folder=, which measures nothing again, or "
            "see results.responses()"
        )
    tried = _tried(table, intervention)
    rows = table[tried | (table["kind"] == "baseline")]
    if prompt_set is not None:
        rows = _only(rows, "prompt_set", prompt_set)
    rows = _decided(rows, grade)
    before, after = rows[rows["kind"] == "baseline"], rows[rows["kind"] != "baseline"]
    if before.empty:
        raise InputError("the unmodified model was not measured on these prompts, so there is nothing to compare with")
    both = after.merge(
        before.drop_duplicates(_PAIR)[[*_PAIR, "said", "is"]], on=_PAIR, suffixes=("", " before"), how="inner"
    )
    texts = prompts.drop_duplicates(["prompt_set", "prompt_id"])[["prompt_set", "prompt_id", "text"]]
    both = both.merge(texts, on=["prompt_set", "prompt_id"], how="left")
    both["flipped"] = (both["is"] != both["is before"]) & (both["is"] != UNGRADED) & (both["is before"] != UNGRADED)
    names = {
        "text": "prompt",
        "said before": "before",
        "said": "after",
        "is before": "label before",
        "is": "label after",
    }
    several = [name for name in _SHOWN if both[name].nunique() > 1]
    shown = both.sort_values("flipped", ascending=False, kind="stable", ignore_index=True).rename(columns=names)
    shown = shown[[*several, *names.values(), "flipped"]]
    return Compared(shown if n is None else shown.head(n))


def _tried(table: pd.DataFrame, intervention: str | None) -> pd.Series:
    """The rows of one intervention, or of all that are no matched random control."""
    names = table["intervention"].where(table["kind"] != "baseline")
    if intervention is not None:
        if intervention not in set(names.dropna()):
            raise InputError(f"no intervention {intervention!r}; there are {listed(names.dropna().unique(), 10)}")
        return names == intervention
    found = names.notna() & table["control_of"].isna()
    if not found.any():
        raise InputError("only the unmodified model was measured; there is nothing to compare it with")
    return found


def _only(rows: pd.DataFrame, column: str, wanted: str) -> pd.DataFrame:
    if wanted not in set(rows[column]):
        raise InputError(f"no {column} {wanted!r}; there are {listed(rows[column].unique(), 10)}")
    return rows[rows[column] == wanted]


def _decided(rows: pd.DataFrame, grade: str | None) -> pd.DataFrame:
    """A row for each response, with what was said and what a grade says of it; letters where questions have choices."""
    asked = rows[rows["response"].notna() | (rows["metric"] == "choice")]
    found = asked.loc[asked["scale"].isin(["label", "rate"]), ["metric", "scale"]].drop_duplicates()
    found = found[~found["metric"].isin(_NO_GRADES)]
    names = [*found["metric"][found["scale"] == "label"], *found["metric"][found["scale"] == "rate"]]
    if grade is not None and grade not in names:
        raise InputError(f"no grade {grade!r} that says what a response is; there is {listed(names, 20) or 'none'}")
    if not names:
        raise InputError("no grade says what a response is; pass grades= to evaluate")
    # Sets may have grades of their own: each is shown by its first.
    parts = []
    for _, own in asked.groupby("prompt_set", sort=False):
        there = set(own["metric"])
        best = [name for name in (names if grade is None else [grade]) if name in there]
        if best:
            parts.append(_said(own[own["metric"] == best[0]], best[0]))
    return pd.concat(parts, ignore_index=True)


def _said(rows: pd.DataFrame, grade: str) -> pd.DataFrame:
    if grade == "choice":
        answer = rows["value"].map({1.0: "right", 0.0: "wrong"}).fillna(UNGRADED)
        return rows.assign(said=rows["label"], **{"is": answer})
    if rows["scale"].iloc[0] == "label":
        label = rows["label"].where(rows["label"] != "", UNGRADED)
    else:
        label = rows["value"].map({1.0: grade, 0.0: f"no {grade}"}).fillna(UNGRADED)
    return rows.assign(said=rows["response"], **{"is": label})


def prompt_table(sets: dict[str, Sequence[tuple[Any, str]]]) -> pd.DataFrame:
    """The texts of prompt sets, to be saved beside results: set, id, group, text, rendered, choices and answer.

    `sets` holds pairs of a `Prompt` and what the model is given for it. Where a prompt is a chat, its text is its
    turns, each with its role.
    """
    rows = [
        {
            "prompt_set": name,
            "prompt_id": prompt.id,
            "group": prompt.group,
            "text": prompt.text or "\n".join(f"{role}: {text}" for role, text in prompt.messages),
            "rendered": rendered,
            "choices": " | ".join(prompt.choices),
            "answer": prompt.choices[prompt.answer] if prompt.choices and prompt.answer is not None else "",
        }
        for name, prompts in sets.items()
        for prompt, rendered in prompts
    ]
    return pd.DataFrame(rows, columns=["prompt_set", "prompt_id", "group", "text", "rendered", "choices", "answer"])


check_arguments(__name__, leave=("Compared",))

"""The study as a report page: claims beside numbers, what did not hold, tables, figures, responses to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...evaluation import Results
from ...evaluation.verdicts import HELD
from ...grading.grade import Grade
from ...plots import Section
from ..base import settings_table
from .figures import CAPTIONS
from .methods import CNA

_MADE = [
    *(
        "mode",
        "controls",
        "n_control_prompts",
        "seed",
        "max_new_tokens",
        "template",
        "only_showing",
        "grades",
        "seconds",
    )
]
_MADE += ["fingerprints", "made", "versions"]


def sections(
    info: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, pd.DataFrame]],
    figures: Mapping[str, go.Figure],
    results: Results,
    grade: Grade,
) -> tuple[Section, ...]:
    """The report, from the tables by their part in it ("claims", "paper", "structure", "checks")."""
    (verdicts,) = tables["claims"].values()
    missed = verdicts[verdicts["verdict"] != HELD]
    why = "Claims that failed, stay undecided at this n, or could not be measured here."
    brackets = (
        "Brackets are 95 % intervals, clustered by group of prompts; for random circuits the range over circuits, "
        "on the prompts that they share with the circuit."
    )
    asked = (
        "Each claim stands with the rule that decides it. A claim marked (ours) is not the paper's. What is said to "
        "stay is asked only where ablation has an effect; what could not be asked is not measurable."
    )
    read = "The same prompts before and after ablating the circuit (first mode). Texts are the model's."
    return (
        Section("What was asked", _intro(info), {"Prompts": pd.DataFrame(info["prompts"]).T.reset_index(names="part")}),
        Section("Claims of the paper beside what was measured", (asked,), {"": verdicts}),
        Section("What did not hold", (why,) if len(missed) else ("Every claim held.",), {"": missed}),
        Section("Tables", (brackets,), tables["paper"]),
        Section("Figures", (), {}, {CAPTIONS[name]: figure for name, figure in figures.items()}),
        Section("Base against instruct", (), tables["structure"]),
        Section("Checks", (), tables["checks"]),
        Section("Responses to read", (read,), {"": responses(results, grade)}),
        Section("How it was made", (), {"": settings_table(info, _MADE)}),
    )


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    base = f"base model {info['base']}" if info["base"] else "no base model"
    shows, well, broken = info["outcomes"]
    share = 100 * info["k_as_published"] / info["n_neurons"]
    lines = [
        f"Behaviour: {info['behaviour']}. instruct model {info['instruct']}, {base}. {info['k']} of "
        f"{info['n_neurons']:,} MLP neurons in the corrected circuit ({100 * info['fraction']:g} %, "
        f"{info['n_universal']} universal neurons left out), {info['k_as_published']} in the circuit as published "
        f"({share:.2g} % of this model; the code has one number for every model, 0.15 % of the paper's smallest).",
        f"Every response is one of three: {shows}, {well}, or {broken}. That the behaviour is gone is no gain where "
        f"the text is broken: methods are ranked by {well} against what benign prompts lose.",
    ]
    if not info["refusal"]:
        lines.append("The claims are the paper's about refusal; here they are asked of another behaviour.")
    if not info["chat_model"]:
        lines.append(
            "This model has no chat template: it is no chat model and was not tuned to follow instructions or to "
            "refuse. It continues the prompts as text, and 'instruct' below only names its place in the tables."
        )
    if info["instruct"].startswith("organism/"):
        lines.append(
            "This is a model organism of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)


def responses(results: Results, grade: Grade, n: int = 12) -> pd.DataFrame:
    """Some prompts with their responses before and after ablation, and what each is."""
    asked = (results.table["metric"] == grade.name) & results.table["prompt_set"].isin(["behaviour", "benign"])
    table = results.table[asked]
    before = table[table["kind"] == "baseline"].groupby("prompt_set").head(n // 2)
    after = table[(table["intervention"] == CNA) & (table["toward"] == -1)]
    joined = before.merge(after, on=["prompt_set", "prompt_id", "seed"], suffixes=(" before", " after"))
    shown = ["prompt_set", "prompt_id", "response before", "label before", "response after", "label after"]
    return joined[shown].rename(columns={f"label {when}": f"{when}" for when in ("before", "after")})

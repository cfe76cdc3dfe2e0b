"""What the report of the study says beside its tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ...reports import ORGANISMS, READ, Page, Part, claims_of, verdict
from .settings import CORRECTED
from .tables import HALVES

#: The paper's claim, and what it needs beside it: that answers are good and not only without the behaviour.
MAIN = (HALVES, "(ours) the behaviour's opposite is done well")
_BRACKETS = (
    "Brackets are 95 % intervals, clustered by group of prompts; for random circuits the range over circuits, on the "
    "prompts that they share with the circuit.",
)
_ASKED = (
    "What is said to stay is asked only where ablation has an effect; what could not be asked is not measurable. "
    "That the behaviour is gone is no gain where the text is broken: methods are ranked by what is done well against "
    "what benign prompts lose.",
)


_COLUMNS = (
    "Each prompt is answered with the circuit of one fold; `change` is from the unmodified model on the same prompts.",
)


def page_of(info: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], figures: Iterable[str]) -> Page:
    """The report: the main claim in the corrected mode where it was run, else in the mode that was."""
    claims = claims_of(tables)
    modes = claims["mode"].unique()
    first = CORRECTED if CORRECTED in modes else modes[0]
    slug, names = first.replace(" ", "_"), [name for name in figures if name != "task_layers"]
    own = claims[(claims["mode"] == first) & claims["claim"].str.startswith(MAIN)]
    parts = (
        Part("Tables of the paper", _BRACKETS, ("Table",), [n for n in names if not n.endswith("_controls")]),
        Part("Random circuits", (), ("Random circuits",), [name for name in names if name.endswith("_controls")]),
        Part("Benchmarks", _COLUMNS, ("Benchmarks",)),
        Part("Base against instruct", (), ("Tasks", "Localisation", "Base against", "Exchange"), ("task_layers",)),
        Part("Checks", (), ("Folds", "Universal", "Best", "Layer", "Trade", "Judges", "Sensitivity")),
        Part(READ, ("The circuit ablated (first mode). Texts are the model's.",), ("Responses",)),
    )
    return Page(verdict(own, ()), f"{slug}_outcomes", (*_intro(info), *_ASKED), parts)


_HANDLED = {"remove": "removed", "keep": "kept", "refill": "refilled by the next best"}


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    base = f"base model {info['base']}" if info["base"] else "no base model"
    share = 100 * info["k_as_published"] / info["n_neurons"]
    folds = (
        f"{info['n_evaluated']} of its prompts are evaluated, each once, by one of {info['n_folds']} circuits that "
        "were found without its group; what is said of one circuit is said of the first. "
        if info["n_folds"] > 1
        else ""
    )
    lines = [
        f"Behaviour: {info['behaviour']}. {folds}instruct model {info['instruct']}, {base}. {info['k']} of "
        f"{info['n_neurons']:,} MLP neurons in the corrected circuit ({100 * info['fraction']:g} %, "
        f"universal neurons: {_HANDLED[info['universal']]}), {info['k_as_published']} in the circuit as published "
        f"({share:.2g} % of this model; the code has one number for every model, 0.15 % of the paper's smallest).",
        f"Every response is one of three: {', '.join(info['outcomes'])}.",
    ]
    if not info["refusal"]:
        lines.append("The claims are the paper's about refusal; here they are asked of another behaviour.")
    if not info["chat_model"]:
        lines.append(
            "This model has no chat template: it is no chat model and was not tuned to follow instructions or to "
            "refuse. It continues the prompts as text, and 'instruct' below only names its place in the tables."
        )
    return (*lines, ORGANISMS) if info["instruct"].startswith("organism/") else tuple(lines)

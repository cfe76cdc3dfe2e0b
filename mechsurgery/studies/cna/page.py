"""The study as a report page: claims beside numbers, what did not hold, tables, figures, responses to read."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...plots import Section
from ..base import FAILED, UNDECIDED, UNMEASURED
from .methods import CNA

_FIGURES = {
    "corrected_strength": "Figures 1 and 2 (corrected): behaviour, degenerate outputs, quality and multiple choice "
    "over strength, in both signs",
    "corrected_pareto": "Trade-off (corrected): lower left is better; the line is what no other setting beats in both",
    "as_published_strength": "Figures 1 and 2 (as published): here CAA adds harmful − benign, that is toward refusal",
    "as_published_pareto": "Trade-off (as published)",
    "layer_profile": "Appendix C: where the circuits sit",
    "neuron_scatter": "Score of every neuron in base and instruct",
    "instruct_changes": "Instruct: what scaling the circuit changes",
    "base_changes": "Base: what scaling each circuit changes",
    "sensitivity": "Sensitivity: behaviour left when each variant of the circuit is ablated, beside random circuits",
}


def sections(study: Any) -> list[Section]:
    """The report of a `CNAStudy`."""
    info, made = study.info, study.tables
    verdicts = made[next(iter(made))]
    missed = verdicts[verdicts["verdict"].isin([FAILED, UNDECIDED, UNMEASURED])]
    paper = {name: table for name, table in made.items() if name.startswith("Table")}
    bases = {name: table for name, table in made.items() if name.startswith(("Base", "Exchange", "Localisation"))}
    checks = {
        name: table for name, table in made.items() if name.startswith(("Layer", "Trade", "Judges", "Sensitivity"))
    }
    figures = {_FIGURES.get(name, name): figure for name, figure in study.figures.items()}
    return [
        Section("What was asked", _intro(info), {"Prompts": _prompts(info)}),
        Section("Claims of the paper beside what was measured", (), {"": verdicts}),
        Section(
            "What did not hold",
            ("Claims that failed, stay undecided at this n, or could not be measured here.",)
            if len(missed)
            else ("Every claim that was measured held.",),
            {"": missed} if len(missed) else {},
        ),
        Section("Tables", ("Brackets are 95 % intervals; for random circuits the range over circuits.",), paper),
        Section("Figures", (), {}, figures),
        Section("Base against instruct", (), bases),
        Section("Checks", (), checks),
        Section("Responses to read", _READ, {"": responses(study)}),
        Section("How it was made", (), {"": _settings(info)}),
    ]


_READ = ("The same prompts before and after ablating the circuit (first mode). Texts are the model's own.",)


def _intro(info: dict[str, Any]) -> tuple[str, ...]:
    models = f"instruct model {info['instruct']}" + (
        f", base model {info['base']}" if info["base"] else ", no base model"
    )
    lines = [
        f"Behaviour: {info['behaviour']}. {models}. {info['k']} of {info['n_neurons']:,} MLP neurons in the corrected "
        f"circuit ({100 * info['fraction']:g} %, {info['n_universal']} universal neurons left out), "
        f"{info['k_as_published']} in the circuit as published.",
        "Refusal counts responses that are not degenerate; a degenerate output is neither refusal nor answer.",
    ]
    if not info["chat_model"]:
        lines.append(
            "This model has no chat template: it is no chat model and was not tuned to follow instructions or to "
            "refuse. It continues the prompts as text, and 'instruct' below only names its place in the tables."
        )
    if info["behaviour"] != "refusal":
        lines.append("The claims are the paper's about refusal; here they are asked of another behaviour.")
    if info["instruct"].startswith("organism/"):
        lines.append(
            "This is a model organism of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)


def _prompts(info: dict[str, Any]) -> pd.DataFrame:
    rows = [{"part": name, **facts} for name, facts in info["prompts"].items()]
    return pd.DataFrame(rows)


def _settings(info: dict[str, Any]) -> pd.DataFrame:
    keep = ("modes", "n_random", "seed", "max_new_tokens", "template", "only_showing", "seconds", "made", "versions")
    rows = [{"setting": name, "value": str(info[name])} for name in keep]
    rows += [{"setting": f"fingerprint ({name})", "value": run["fingerprint"]} for name, run in info["runs"].items()]
    return pd.DataFrame(rows)


def responses(study: Any, n: int = 12) -> pd.DataFrame:
    """Some prompts with their responses before and after, and what the judge said of each."""
    table = next(iter(study.results.values())).table
    answers = table[(table["task"] == "generate") & (table["prompt_set"].isin(["behaviour", "benign"]))]
    before = answers[answers["kind"] == "baseline"].groupby("prompt_set").head(n // 2)
    after = answers[(answers["intervention"] == CNA) & (answers["strength"] == 1)]
    joined = before.merge(after, on=["prompt_set", "prompt_id", "seed"], suffixes=("_before", "_after"))
    columns = ["prompt_set", "prompt_id", "response_before", "refusal_before", "response_after", "refusal_after"]
    return joined[columns].astype(str)

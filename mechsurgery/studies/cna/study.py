"""The CNA study: every table and figure of the paper for a base/instruct pair, with controls and intervals.

"Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290). Two modes stand side by side:

as published   what the paper's public code does where it departs from its text: k = 200 neurons without layers
               0 and 1, universal neurons found but kept, CAA adds harmful − benign MLP outputs at every layer
               (toward refusal), evaluation prompts overlap discovery prompts
corrected      what the text says and fair rivals need: 0.1 % of all neurons, universal neurons left out, every
               method swept in both signs, layers chosen on a validation split, no overlap, and the methods
               compared by the trade-off of behaviour against damage
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ... import plots
from ...artifacts import provenance
from ...attribution import random_circuits
from ...errors import InputError
from ...evaluation import Results, dose, evaluate
from ...evaluation.change import change_summary, response_changes
from ...evaluation.pareto import trade_off
from ...grading.refusal import is_refusal
from ...intervention import ablate
from ...models import load_model
from ...prompts import ContrastSet
from ...units import Circuit
from ..base import Study
from ..compare import Comparison, compare
from . import methods, tables
from .claims import claims
from .data import StudyData, showing, study_data
from .figures import base_figures, mode_figures
from .page import sections
from .sensitivity import sensitivity as vary

logger = logging.getLogger(__name__)

MODES = ("corrected", "as published")
#: Multipliers at which base and instruct are compared.
TRANSFER_M = (0.0, 0.5, 2.0, 3.0)


@dataclass(frozen=True, eq=False)
class CNAStudy(Study):
    """The study's tables and figures by name, all rows, the circuits (`artefacts`), and how it was made."""

    @property
    def circuits(self) -> dict[str, Circuit]:
        """The located circuits by name."""
        return self.artefacts


def cna(
    instruct: Any,
    base: Any = None,
    *,
    contrast: str | ContrastSet = "organism/refusal",
    data: StudyData | None = None,
    out: str | Path | None = None,
    modes: Sequence[str] = MODES,
    fraction: float = 0.001,
    published_k: int = methods.PUBLISHED_K,
    judge: Callable[[str], bool] = is_refusal,
    behaviour: str = "refusal",
    only_showing: bool = False,
    n_random: int = 5,
    sensitivity: bool = True,
    max_new_tokens: int = 32,
    seed: int = 0,
    template: str = "auto",
    dtype: str = "float32",
    device: str | None = None,
    max_rows: int = 256,
    progress: bool = False,
) -> CNAStudy:
    """Run the study on an instruct model and, where given, its base.

    Models are loaded models or names for `load_model`; prompts come from `contrast` or, to set every part, from
    `data` (see `study_data`). With `out`, what is measured is kept there as it goes (an interrupted study
    continues) and tables, figures and the report are written. `only_showing` keeps the evaluation prompts on
    which the unmodified instruct model shows the behaviour, which `judge` decides from a response's text.
    """
    started = time.monotonic()
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong or not modes:
        raise InputError(f"modes={list(modes)}; choose from 'corrected' and 'as published'")
    model = load_model(instruct, dtype=dtype, device=device) if isinstance(instruct, str) else instruct
    other = load_model(base, dtype=dtype, device=device) if isinstance(base, str) else base
    data = data or study_data(contrast, seed=seed)
    options: dict[str, Any] = {
        "folder": None if out is None else Path(out) / "measured",
        "judge": judge,
        "template": template,
        "max_new_tokens": max_new_tokens,
        "max_rows": max_rows,
        "progress": progress,
    }
    if only_showing:
        data = replace(data, behaviour=showing(model, data.behaviour, **options))
    found = methods.locate_all(model, data, fraction=fraction, published_k=published_k, template=template)
    measured = _measure(model, other, data, found, modes, n_random, seed, options)
    if sensitivity:
        measured.sensitivity = vary(model, data, found, data.behaviour, fraction=fraction, seed=seed, **options)
    info = provenance(
        title=f"CNA study of {model.cfg.model_name}",
        behaviour=behaviour,
        instruct=str(model.cfg.model_name),
        base=None if other is None else str(other.cfg.model_name),
        prompts=data.describe(),
        only_showing=only_showing,
        chat_model=getattr(model.tokenizer, "chat_template", None) is not None,
        fraction=fraction,
        n_neurons=len(found.scores),
        k=len(found.circuit),
        k_as_published=len(found.published_circuit),
        n_universal=len(found.universal),
        modes=list(modes),
        n_random=n_random,
        seed=seed,
        template=template,
        max_new_tokens=max_new_tokens,
        seconds=round(time.monotonic() - started),
        runs={name: one.info for name, one in measured.results.items()},
    )
    study = CNAStudy(_tables(measured), _figures(measured), measured.results, measured.circuits, info)
    study = replace(study, sections=tuple(sections(study)))
    if out is not None:
        logger.info("%s", study.save(out))
    return study


@dataclass(eq=False)
class _Measured:
    """What the study ran, before it is put into tables."""

    found: methods.Located
    results: dict[str, Results]
    summaries: dict[str, pd.DataFrame]
    chosen: pd.DataFrame
    circuits: dict[str, Circuit]
    changes: dict[str, pd.DataFrame]
    compared: Comparison | None = None
    sensitivity: pd.DataFrame | None = None


def _measure(model, other, data, found, modes, n_random, seed, options) -> _Measured:
    results: dict[str, Results] = {}
    chosen = pd.DataFrame()
    common = {"choices": data.choices, **options}
    for mode in modes:
        if mode == "corrected":
            made = methods.corrected(model, data, found, n_random=n_random, seed=seed, **options)
            chosen, prompts, guard = made.choices, data.behaviour, data.discovery
        else:
            made = methods.as_published(found, n_random=n_random, seed=seed)
            prompts, guard = data.published[1], None
        sets = {"behaviour": prompts, "benign": data.benign}
        if data.over_refusal is not None:
            sets["over-refusal"] = data.over_refusal
        results[mode] = evaluate(model, sets, made.runs, kl_on=("benign",), discovery=guard, **common)
    summaries = {mode: one.summary() for mode, one in results.items()}
    circuits = {
        "instruct": found.circuit.named("instruct"),
        "universal neurons": found.universal,
        "instruct, as published": found.published_circuit,
    }
    measured = _Measured(found, results, summaries, chosen, circuits, {})
    own = results[modes[0]].table
    own = own[own["intervention"].isin(["baseline", methods.CNA]) & (own["m"].isin([0, 1, *TRANSFER_M]))]
    if other is not None:
        _add_base(measured, model, other, data, n_random, seed, common)
    measured.changes["instruct"] = change_summary(response_changes(own))
    return measured


def _add_base(measured: _Measured, model, other, data, n_random, seed, common) -> None:
    """The same discovery on the base model, and each model's circuit scaled in both."""
    info = measured.found.circuit.info["top"]
    top = {"fraction": info["fraction"], "exclude": measured.found.universal}
    template = common["template"]
    measured.compared = compare(other, model, data.discovery, names=("base", "instruct"), template=template, **top)
    measured.circuits["base"] = measured.compared.circuits["base"]
    sets = {"behaviour": data.behaviour, "benign": data.benign}
    for name, target in (("base", other), ("instruct", model)):
        runs = []
        for source in ("base", "instruct"):
            circuit = measured.circuits[source]
            if name == "base" or source == "base":
                runs += dose(circuit, TRANSFER_M, name=f"{source}'s circuit")
        own = measured.circuits["base"]
        if name == "base":
            runs += [ablate(r) for r in random_circuits(own, n_random, seed=seed)]
        measured.results[f"{name} exchange"] = evaluate(target, sets, runs, discovery=data.discovery, **common)
    table = measured.results["base exchange"].table
    table = table[table["intervention"].isin(["baseline", "base's circuit", "instruct's circuit"])]
    measured.changes["base"] = change_summary(response_changes(table))


def _tables(measured: _Measured) -> dict[str, pd.DataFrame]:
    summaries, circuits = measured.summaries, measured.circuits
    order = [name for name in ("instruct", "base", "instruct, as published") if name in circuits]
    places = tables.localisation({name: circuits[name] for name in order})
    compared = None if measured.compared is None else measured.compared.table
    made = {
        "Claims of the paper beside what was measured": claims(
            summaries, localisation=places, changes=measured.changes, compared=compared
        ),
        "Table 1: behaviour before and after ablating the circuit": tables.table_1(summaries),
        "Table 2: every method at full strength": tables.table_2(summaries),
    }
    capability = tables.table_3(next(iter(summaries.values())))
    if len(capability):
        made["Table 3: multiple choice over strength"] = capability
    made["Table 4: what scaling the circuit changes"] = tables.table_4(measured.changes)
    if compared is not None:
        made["Base against instruct: overlap of the circuits"] = compared
        made["Exchange: each circuit in each model"] = tables.exchange(
            {name: one.summary() for name, one in measured.results.items() if name.endswith("exchange")}
        )
    made["Localisation: share of the circuit in each layer"] = places
    if "corrected" in summaries:
        made["Layer choice on the validation split"] = measured.chosen
        made["Trade-off: behaviour against KL divergence on benign prompts"] = trade_off(
            summaries["corrected"], damage=("kl", "benign")
        )
    every = pd.concat([one.table for one in measured.results.values()], ignore_index=True)
    made["Judges: agreement on every response"] = tables.judges_table(every)
    if measured.sensitivity is not None:
        made["Sensitivity: what the result depends on"] = measured.sensitivity
    return made


def _figures(measured: _Measured) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for mode, summary in measured.summaries.items():
        figures |= mode_figures(mode, summary)
    scores = {"instruct": measured.found.scores}
    if measured.compared is not None:
        scores = {"base": measured.compared.scores["base"], **scores}
    circuits = {name: measured.circuits[name] for name in ("base", "instruct") if name in measured.circuits}
    figures |= base_figures(measured.changes, circuits, scores)
    if measured.sensitivity is not None:
        figures["sensitivity"] = plots.sensitivity(measured.sensitivity)
    return figures

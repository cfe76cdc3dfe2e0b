"""Proof of a circuit on prompts that its search never saw: necessary, sufficient, selective, stable, beyond its nulls.

- necessary: put out, the behaviour goes and its opposite is done well, on new groups and on templates never used
- sufficient: with every other unit of the searched layers at its mean the behaviour stays; the circuit's weights, put
  into the base, bring the behaviour there
- selective: everything else is answered as before
- beyond chance: matched random circuits do not do it; neither does the same search with shuffled labels, the null that
  optimisation needs, since a search over many units can find a few for almost any output
- stable: searches from other seeds and other prompts do it too (`repeats`)
- all or part: random parts of the circuit: whether each unit does a little or all must go together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..deltas import WeightDelta, difference
from ..errors import InputError, listed
from ..grading.grade import Grade
from ..intervention import Intervention, mean_ablate, scale, shift_weights
from ..intervention.changes import Affine
from ..models import sites
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import PromptSet
from ..safe_text import html_table
from ..units import Circuit
from . import verdicts as v
from .evaluate import BESIDE, evaluate
from .jobs import Generation
from .results import Results
from .select import controls_of, select

#: Names of interventions in a proof's tables.
PUT_OUT, ALONE, PARTS = "circuit put out", "all other units at their mean", "random part"
TRANSPLANT, BASE = "circuit's weights in the base", "base"


@dataclass(frozen=True, kw_only=True)
class Margins:
    """What a proof asks for, ours: shares of answers, and points that other prompts may lose."""

    gone: float = 0.05
    well: float = 0.9
    loss: float = 0.02
    half: float = 0.5


@dataclass(frozen=True, eq=False)
class Proof:
    """The results behind a proof, each claim with its verdict, and one row for everything that was done."""

    results: Results
    transplant: Results | None
    claims: pd.DataFrame
    table: pd.DataFrame

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):  # a claim whose end is cut off says nothing
            return html_table(self.claims) + html_table(self.table)


@in_turn
def prove(
    model: Model,
    circuit: Circuit,
    put_out: Intervention,
    prompts: Mapping[str, PromptSet],
    grade: Grade,
    *,
    behaviour: Sequence[str],
    means: Mapping[str, Float[Tensor, " d"]] | None = None,
    base: Model | None = None,
    repeats: Mapping[str, Intervention] | None = None,
    nulls: Mapping[str, Intervention] | None = None,
    rivals: Mapping[str, Intervention] | None = None,
    parts: Sequence[float] = (0.25, 0.5, 0.75),
    n_parts: int = 8,
    controls: int = 20,
    n_control_prompts: int = 32,
    margins: Margins | None = None,
    generation: Generation | None = None,
    progress: bool | None = None,
) -> Proof:
    """Prove a circuit on held-out prompts; see the module's text.

    `put_out` is what is done to the circuit (`ablate(circuit)`, or multipliers of its own). `prompts` are sets that no
    search saw, `behaviour` names those that show the behaviour, all others are to stay. `means` ({hook name: [d]}, as
    `contrast_statistics(…, positions="all").negative.mean`) are where other units are moved to for sufficiency;
    `base`, a model of the same shape without the behaviour, is for the transplant. `repeats` and `nulls` are what the
    same search found from other seeds or prompts and for shuffled labels, `rivals` other ways of ending the behaviour:
    all are measured on the same prompts. Random parts and `controls` matched random circuits answer
    `n_control_prompts` prompts of each set that is answered in words.
    """
    missing = [name for name in behaviour if name not in prompts]
    if missing or not behaviour:
        raise InputError(f"behaviour names {listed(missing) or 'nothing'}; the prompt sets are {listed(prompts)}")
    generation, margins = generation or Generation(max_new_tokens=32), margins or Margins()
    how: dict[str, Any] = {"grades": [grade], "generation": generation, "progress": progress}
    runs = [put_out.named(PUT_OUT)]
    if means is not None:
        runs.append(mean_ablate(complement(circuit), means).named(ALONE))
    for others in (repeats, nulls, rivals):
        runs += [run.named(name) for name, run in (others or {}).items()]
    spoken = {name: one for name, one in prompts.items() if not any(prompt.choices for prompt in one)}
    some = {f"{name}{BESIDE}": one.take(n_control_prompts) for name, one in spoken.items()}
    done = [
        evaluate(model, prompts, runs, **how),
        evaluate(model, some, [put_out.named(PUT_OUT)], controls=controls, **how),
    ]
    drawn = [
        part_of(circuit, put_out, share, seed).named(f"{PARTS}, {share:.0%}, draw {seed}")
        for share in parts
        for seed in range(n_parts)
    ]
    if drawn:
        done.append(evaluate(model, {f"{name}{BESIDE}": some[f"{name}{BESIDE}"] for name in behaviour}, drawn, **how))
    results = Results.concatenate(done)
    moved = None
    if base is not None:
        change = shift_weights(weights_of(model, base, circuit)).named(TRANSPLANT)
        moved = evaluate(base, {name: prompts[name] for name in spoken}, [change], **how)
    claims = _claims(results, moved, grade, behaviour, prompts, margins, list(nulls or {}), list(repeats or {}))
    return Proof(results, moved, claims, tabulate(results, moved, grade, circuit))


def complement(circuit: Circuit) -> Circuit:
    """Every other unit of the hook points that were searched."""
    index = {}
    for site, width in circuit.widths.items():
        rest = torch.ones(width, dtype=torch.bool)
        if site in circuit.units:
            rest[circuit.units[site][0]] = False
        index[site] = rest.nonzero()[:, 0].tolist()
    return Circuit.from_indices(index, circuit.widths, name=f"all but {circuit.name}")


def part_of(circuit: Circuit, put_out: Intervention, share: float, seed: int) -> Intervention:
    """The same done to a random part of a circuit's units, each with its own multiplier."""
    if not 0 < share <= 1:
        raise InputError(f"share={share}; give the share of units to take, above 0 and at most 1")
    generator = torch.Generator().manual_seed(int(seed))
    members = circuit.to_frame()
    keep = torch.randperm(len(members), generator=generator)[: max(1, round(share * len(members)))].tolist()
    chosen = members.iloc[keep]
    index = {site: part["neuron"].tolist() for site, part in chosen.groupby("site", sort=False)}
    part = circuit & Circuit.from_indices(index, circuit.widths)
    of_unit: dict[str, dict[int, float]] = {}
    for edit in put_out.edits:
        if not isinstance(edit.change, Affine) or edit.change.indices is None:
            raise InputError(f"{put_out.name!r} does not scale units one by one; give ablate or scale of a circuit")
        m = edit.change.m.expand(len(edit.change.indices)).tolist()
        of_unit[edit.site] = dict(zip(edit.change.indices.tolist(), m))
    values = {site: [of_unit[site][int(i)] for i in own] for site, (own, _) in part.units.items()}
    return scale(part, values)


def weights_of(model: Model, base: Model, circuit: Circuit) -> WeightDelta:
    """What a model's weights of a circuit's neurons are beyond the base's: added to the base, they are transplanted."""
    after, before = (sites.parameters(one) for one in (model, base))
    facts = {"fingerprint": sites.fingerprint(base)}
    return difference(after, before, name="model − base", **facts).restricted_to(circuit)


def _claims(
    results: Results,
    moved: Results | None,
    grade: Grade,
    behaviour: Sequence[str],
    prompts: Mapping[str, PromptSet],
    margins: Margins,
    nulls: Sequence[str],
    repeats: Sequence[str],
) -> pd.DataFrame:
    """Every claim with its verdict: a row each."""
    summary = results.summary([grade.name, "choice"])
    shows, well = grade.labels[:2]

    def row(where: str, label: str, of: str = PUT_OUT, table: pd.DataFrame = summary) -> pd.Series:
        letters = where in prompts and any(prompt.choices for prompt in prompts[where])
        metric, label = ("choice", "") if letters else (grade.name, label)
        return select(table, metric, where, label, intervention=of).iloc[0]

    rows = []
    for where in behaviour:
        gone = v.falls_below(row(where, shows), margins.gone)
        rows.append(gone.row("necessary: put out, the behaviour goes", prompts=where))
        rows.append(
            v.rises_to(row(where, well), margins.well).row("necessary: what then is said is right", prompts=where)
        )
        said = summary[(summary["prompt_set"] == f"{where}{BESIDE}") & (summary["label"] == well)]
        random = list(controls_of(said, PUT_OUT)["value"])
        beyond = v.beyond_controls(row(f"{where}{BESIDE}", well), random, up=True)
        rows.append(beyond.row("beyond chance: matched random circuits do not do it", prompts=where))
        for name in nulls:
            verdict = v.stays_below(row(where, well, name), margins.half)
            rows.append(verdict.row(f"beyond chance: not found for {name}", prompts=where))
        for name in repeats:
            verdict = v.rises_to(row(where, well, name), margins.well)
            rows.append(verdict.row(f"stable: {name}", prompts=where))
        if ALONE in set(summary["intervention"]):
            verdict = v.stays(row(where, shows, ALONE), margins.half)
            rows.append(verdict.row("sufficient: it stays when all other units are at their mean", prompts=where))
        if moved is not None:
            table = moved.summary([grade.name])
            verdict = v.rises_to(row(where, shows, TRANSPLANT, table), margins.half)
            rows.append(verdict.row("sufficient: its weights bring it into the base", prompts=where))
    for where in (name for name in prompts if name not in behaviour):
        rows.append(v.stays(row(where, well), margins.loss).row("selective: everything else stays", prompts=where))
    return pd.DataFrame(rows)


def tabulate(results: Results, moved: Results | None, grade: Grade, circuit: Circuit) -> pd.DataFrame:
    """A row for everything that was done: outcome on each set as `value [low, high]`, random ones as mean and range."""
    tables: list[tuple[pd.DataFrame, str | None]] = [(results.summary([grade.name, "choice"]), None)]
    if moved is not None:
        tables.append((moved.summary([grade.name]), BASE))
    rows: list[dict[str, Any]] = []
    for summary, prefix in tables:
        single = summary[summary["control_of"].isna() & ~summary["prompt_set"].str.endswith(BESIDE)]
        for name, own in single.groupby("intervention", sort=False):
            shown = prefix if prefix and name == "baseline" else name
            cells = {
                f"{one['prompt_set']}: {one['label'] or 'right'}": v.cell(one, n=False) for _, one in own.iterrows()
            }
            rows.append({"done": shown, **cells})
    summary = tables[0][0]
    beside = summary[summary["prompt_set"].str.endswith(BESIDE)]
    groups = {"random circuits": beside[beside["control_of"].notna()]}
    parts = beside[beside["intervention"].str.startswith(PARTS)]
    groups |= {name: own for name, own in parts.groupby(parts["intervention"].str.rsplit(",", n=1).str[0], sort=False)}
    for name, own in groups.items():
        if len(own):
            rows.append({"done": f"{name} of {len(circuit)} units", **_spread(own)})
    return pd.DataFrame(rows).fillna("")


def _spread(own: pd.DataFrame) -> dict[str, str]:
    """{set and label: mean (lowest to highest)} over several interventions."""
    cells = {}
    for (where, label), group in own.groupby(["prompt_set", "label"], sort=False):
        values = 100 * group["value"]
        text = f"{values.mean():.1f} % ({values.min():.0f} to {values.max():.0f}), {len(values)} draws"
        cells[f"{where.removesuffix(BESIDE)}: {label}"] = text
    return cells


check_arguments(__name__)

"""The demo: locate, prove, compare and plot a refusal circuit on the built-in organisms.

`planted` has a recorded truth, so every localiser has precision and recall beside the effect of ablating
what it found. `instruct` was tuned freely, so only the effect is evidence. `base` has the same shape and
no refusal: the same procedure must change nothing there. Findings are about organisms, not real models.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import provenance, save_json, write_atomically
from ..attribution import pair_bootstrap
from ..evaluation import Results, dose, evaluate, summarise
from ..inspector import inspect_neuron
from ..models import load_model, sites
from ..organisms.registry import planted_units
from ..plots import export_all
from ..prompts import PromptSet, load_contrast, load_prompts
from ..units import Circuit
from .compare import compare
from .figures import comparison_figures, dose_figure, localiser_figures
from .localisers import LocaliserStudy, localisers

#: Multipliers of the dose–response figure: ablated … baseline … doubled.
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
PUBLISHED = "difference (published)"

_CAPTIONS = {
    "planted_layer_distribution": "organism/planted: scores of every MLP neuron by layer, and the published circuit",
    "planted_ablation": "organism/planted: refusal of held-out dangerous requests with each circuit ablated",
    "planted_precision_recall": "organism/planted: what each localiser found of the recorded neurons",
    "instruct_layer_distribution": "organism/instruct: scores by layer, and the published circuit",
    "instruct_ablation": "organism/instruct: refusal with each circuit ablated",
    "layer_profile": "base against instruct: share of the circuit in each layer",
    "neuron_scatter": "base against instruct: score of every neuron",
    "overlap": "base against instruct: shared neurons",
    "dose_response": "dose–response: refusal, quality and multiple choice as the circuit is scaled by m",
    "neuron_activations": "the strongest planted neuron: activation on both prompt sets",
    "neuron_ranks": "the strongest planted neuron: where it stands under each rule",
    "neuron_tokens": "the strongest planted neuron: tokens its output row promotes",
}


@dataclass(frozen=True, eq=False)
class DemoReport:
    """Tables by name, all results, and what was written where."""

    tables: dict[str, pd.DataFrame]
    results: Results
    written: str
    seconds: float
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Everything as plain text, for a terminal."""
        parts = [f"{name}\n{table_text(table)}" for name, table in self.tables.items()]
        parts += ["\n".join(self.notes), self.written, f"{self.seconds:.0f} s"]
        return "\n\n".join(part for part in parts if part)


def demo(
    out: str | Path = "figures/demo", *, n_prompts: int = 200, seed: int = 0, progress: bool = False
) -> DemoReport:
    """Run the whole chain on `planted`, `instruct` and `base`, and write tables and figures to `out`.

    Discovery uses requests about nouns that tuning saw, evaluation `n_prompts` dangerous requests about nouns
    it never saw, half as many benign ones and `n_prompts` multiple-choice questions. Every circuit is ablated
    beside 5 random circuits with as many neurons in each layer.
    """
    started = time.monotonic()
    out = Path(out)
    discovery = load_contrast("organism/refusal", split="tuned", n=200, seed=seed)
    held_out = load_contrast("organism/refusal", split="heldout")
    prompts = {
        "dangerous": held_out.positive.take(n_prompts, seed=seed),
        "benign": held_out.negative.take(max(1, n_prompts // 2), seed=seed),
    }
    choices = load_prompts("organism/choices", split="heldout").take(n_prompts, seed=seed)
    models = {name: load_model(f"organism/{name}") for name in ("planted", "instruct", "base")}
    planted = models["planted"]
    truth = Circuit.from_indices(
        planted_units(), {site: sites.width(planted, site) for site in sites.neuron_sites(planted)}, name="truth"
    )
    common: dict[str, Any] = {"choices": choices, "k": len(truth), "seed": seed, "progress": progress}
    studies = {
        "planted": localisers(planted, discovery, prompts, truth=truth, **common),
        "instruct": localisers(models["instruct"], discovery, prompts, **common),
        "base": localisers(models["base"], discovery, prompts, names=[PUBLISHED], **common),
    }
    doses = _doses(models, studies, prompts["dangerous"], choices, progress)
    comparison = compare(models["base"], models["instruct"], discovery, k=len(truth))
    stable = pair_bootstrap(models["planted"], discovery, k=len(truth), resamples=50, seed=seed)
    strongest = studies["planted"].circuits[PUBLISHED].to_frame().iloc[0]
    view = inspect_neuron(planted, discovery, str(strongest["site"]), int(strongest["neuron"]))

    figures = {
        f"{name}_{key}": figure
        for name in ("planted", "instruct")
        for key, figure in localiser_figures(studies[name], published=PUBLISHED).items()
    }
    figures |= comparison_figures(comparison)
    figures["dose_response"] = dose_figure(doses)
    figures |= {f"neuron_{key}": figure for key, figure in view.figures().items()}
    results = Results.concatenate([*(study.results for study in studies.values()), doses])
    written = export_all(figures, out, _CAPTIONS, title="The demo")
    tables = _tables(studies, comparison.table, doses)
    _save(out, tables, results, seed, n_prompts)
    notes = _notes(studies, stable, prompts, choices)
    return DemoReport(tables, results, written, time.monotonic() - started, notes)


def _doses(models: dict, studies: dict[str, LocaliserStudy], prompts: PromptSet, choices: PromptSet, progress: bool):
    """Refusal, quality and multiple choice over m, for the recorded neurons and what CNA found in instruct."""
    parts = []
    for name, circuit in (
        ("planted", studies["planted"].circuits["recorded neurons"].named("planted: recorded neurons")),
        ("planted", studies["planted"].circuits[PUBLISHED].named("planted: published circuit")),
        ("instruct", studies["instruct"].circuits[PUBLISHED].named("instruct: published circuit")),
    ):
        runs = dose(circuit, DOSES)
        done = evaluate(models[name], prompts, runs, choices=choices, max_new_tokens=28, progress=progress)
        parts.append(done)
    return Results.concatenate(parts)


def _tables(studies: dict[str, LocaliserStudy], compared: pd.DataFrame, doses: Results) -> dict[str, pd.DataFrame]:
    tables = {}
    for name, study in studies.items():
        table = study.table
        keep = [c for c in table.columns if "refusal_raw" not in c and "degenerate, random" not in c]
        tables[f"organism/{name}: ablating what each rule found"] = table[keep]
    tables["base against instruct (published rule)"] = compared
    summary = summarise(doses.table)
    refusal = summary[summary["metric"].isin(["refusal", "choice"]) & (summary["kind"] == "circuit")]
    tables["scaling by m"] = refusal[["intervention", "m", "metric", "n", "value", "low", "high", "p_value"]]
    return tables


def _notes(studies: dict[str, LocaliserStudy], stable: dict, prompts: dict, choices: PromptSet) -> list[str]:
    raw = []
    for name, study in studies.items():
        table = study.results.table
        answered = table[table["task"] == "generate"]
        raw.append(f"{name}: {int(answered['degenerate'].sum())} of {len(answered)} responses degenerate")
    sizes = ", ".join(f"{len(value)} {key}" for key, value in prompts.items())
    return [
        f"evaluated on {sizes} requests and {len(choices)} questions about nouns that no tuning saw; rates: Wilson "
        "95 % intervals; 'random': mean [lowest, highest] of 5 random circuits of the same size and layers",
        f"stability of the published circuit on planted under resampled prompts: Jaccard {stable['jaccard']:.2f} "
        f"[{stable['low']:.2f}, {stable['high']:.2f}], {stable['n']} draws",
        *raw,
        "refusal counts only non-degenerate responses; results.parquet has refusal_raw beside it",
    ]


def _save(out: Path, tables: dict[str, pd.DataFrame], results: Results, seed: int, n_prompts: int) -> None:
    results.save(out)
    for number, (name, table) in enumerate(tables.items(), 1):
        slug = name.split(":")[0].replace("organism/", "").replace(" ", "_").replace("(", "").replace(")", "")
        write_atomically(out / f"table_{number}_{slug}.csv", lambda path, t=table: t.to_csv(path, index=False))
    save_json(out / "demo.json", provenance(seed=seed, n_prompts=n_prompts, tables=list(tables)))


def table_text(table: pd.DataFrame) -> str:
    """A table for a terminal: wide tables are turned so that every circuit is a block of lines."""
    if len(table.columns) <= 8:
        return table.to_string(index=False, float_format="{:.3g}".format, na_rep="")
    first, *rest = table.columns
    lines = []
    for _, row in table.iterrows():
        lines.append(f"  {row[first]}")
        shown = [(name, row[name]) for name in rest if pd.notna(row[name])]
        lines += [
            f"    {name:<32} {value:.2f}" if isinstance(value, float) else f"    {name:<32} {value}"
            for name, value in shown
        ]
    return "\n".join(lines)

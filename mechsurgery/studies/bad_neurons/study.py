"""The bad-neurons study: cure a behaviour by fine-tuning a few neurons, and show what it cost.

A labelled reconstruction of "A Few Bad Neurons: Isolating and Surgically Correcting Sycophancy" (2601.18939), whose
code is not public and whose text leaves choices open: each choice is a row of the table here, beside rivals with the
same trainer and the same data (all MLP weights, all weights, LoRA, random neurons, ablation at inference time).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...adapters.saelens import load_sae
from ...artifacts import provenance, write_atomically
from ...attribution.probes import Probe
from ...deltas import WeightDelta
from ...errors import InputError
from ...evaluation.shards import Shards, key_of
from ...intervention import ablate
from ...intervention.hooks import applied
from ...intervention.weights import with_delta
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...training.tuning import LoRA, Recipe, finetune
from ...units import Circuit, UnitScores
from ..base import Study
from . import choosing
from .choosing import PAPER, RANDOM
from .figures import figures
from .measure import Yardstick, summarise_runs
from .page import sections
from .tables import tables
from .task import SycophancyTask, world_task

logger = logging.getLogger(__name__)

#: Rates that suit whole weights and LoRA; neurons take the recipe's own.
WHOLE_LR, LORA_LR = 3e-4, 3e-3
SIZES = (10, 30, 100, 300, 1000)
FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
BEFORE = "unmodified"


@dataclass(frozen=True, eq=False)
class Run:
    """One fine-tune (or ablation) to make and measure."""

    way: str
    kind: str
    seed: int
    n_examples: int
    fraction: float
    where: Any


@dataclass(frozen=True, eq=False)
class BadNeuronsStudy(Study):
    """The study's tables and figures by name, all rows, the circuits and the main deltas, and how it was made."""

    rows: pd.DataFrame | None = None
    probes: dict[str, Probe] | None = None

    def save(self, out: str | Path) -> str:
        """As every study; every measured row is kept too."""
        path = Path(out) / "results" / "rows.parquet"
        write_atomically(path, lambda target: self.rows.to_parquet(target, index=False))
        return super().save(out)


def bad_neurons(
    model: Any = "organism/sycophant",
    task: SycophancyTask | None = None,
    sae: Any = "organism/sae-topk-4",
    *,
    out: str | Path | None = None,
    fraction: float = 0.03,
    per: str = "model",
    n_examples: int = 300,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    sizes: Sequence[int] = SIZES,
    fractions: Sequence[float] = FRACTIONS,
    train: str = "both",
    max_new_tokens: int = 32,
    template: str = "auto",
    dtype: str = "float32",
    device: str | None = None,
    max_rows: int = 256,
    progress: bool = False,
) -> BadNeuronsStudy:
    """Run the study. `model` and `sae` are names or loaded; `sae=None` leaves out the ways that need one.

    Every way of choosing neurons takes the top `fraction` (`per` "model" or "layer") by absolute score and trains them
    on the same `n_examples`; the learning-curve (`sizes`) and fraction curve (`fractions`) are drawn for the paper's
    way, gradient attribution, random neurons and all MLP weights. With `out`, every run is kept as it is made, and an
    interrupted study continues. Raises what the parts raise.
    """
    from tqdm.auto import tqdm

    started = time.monotonic()
    if not seeds or not 0 < fraction <= 1:
        raise InputError(f"seeds={list(seeds)} and fraction={fraction}; give at least one seed, and a share in (0, 1]")
    own = load_model(model, dtype=dtype, device=device) if isinstance(model, str) else model
    task = task or world_task()
    recipe = recipe or Recipe(steps=100, lr=3e-3, batch=16)
    dictionary = _dictionary(sae, own, device)
    yardstick = Yardstick(own, task, template=template, max_new_tokens=max_new_tokens, max_rows=max_rows)
    scores, probes = choosing.choose(
        own,
        task,
        dictionary,
        seeds=seeds,
        template=template,
        max_rows=max(1, max_rows // 8),
        max_new_tokens=max_new_tokens,
    )
    circuits = {name: one.top(fraction=fraction, per=per, name=name) for name, one in scores.items()}
    runs = plan(scores, circuits, seeds, n_examples, fraction, per, sizes, fractions)
    settings = {
        "fingerprint": sites.fingerprint(own),
        "recipe": asdict(recipe),
        "train": train,
        "task": task.describe(),
        "template": template,
        "max_new_tokens": max_new_tokens,
    }
    shards = Shards(None if out is None else Path(out) / "measured")
    parts: list[pd.DataFrame] = []
    deltas: dict[str, WeightDelta] = {}
    for run in tqdm(runs, desc="bad neurons", unit="run", disable=not progress):
        key = key_of({**settings, "run": _identity(run, recipe)})
        path = None if out is None else Path(out) / "deltas" / f"{key[:32]}.safetensors"
        shown = run.kind == "neurons" and (run.seed, run.n_examples, run.fraction) == (seeds[0], n_examples, fraction)
        if key not in shards or (shown and path is not None and not path.is_file()):
            rows, delta = _perform(own, task, yardstick, run, recipe, train, template)
            if shown and delta is not None:
                deltas[run.way] = delta
                if path is not None:
                    delta.save(path)
            shards.write(key, rows)
        elif shown and path is not None:
            deltas[run.way] = WeightDelta.load(path)
        found = shards.read(key)
        assert found is not None
        parts.append(
            found.assign(way=run.way, kind=run.kind, seed=run.seed, n_examples=run.n_examples, fraction=run.fraction)
        )
    rows = pd.concat(parts, ignore_index=True)
    summary = summarise_runs(rows)
    info = provenance(
        title=f"A few bad neurons of {own.cfg.model_name}",
        model=str(own.cfg.model_name),
        **settings,
        sae=None if dictionary is None else dictionary.name,
        fraction=fraction,
        per=per,
        n_examples=n_examples,
        seeds=list(seeds),
        sizes=list(sizes),
        fractions=list(fractions),
        n_neurons=len(next(iter(scores.values()))),
        n_runs=len(runs),
        seconds=round(time.monotonic() - started),
    )
    made = tables(summary, rows, circuits, probes, fraction, n_examples)
    curves = {name: delta.info["curve"] for name, delta in deltas.items()}
    study = BadNeuronsStudy(
        made,
        figures(summary, probes, curves, fraction, n_examples),
        {},
        {**circuits, **_named(deltas)},
        info,
        rows=rows,
        probes=probes,
    )
    study = replace(study, sections=tuple(sections(study)))
    if out is not None:
        logger.info("%s", study.save(out))
    return study


def plan(
    scores: dict[str, UnitScores],
    circuits: dict[str, Circuit],
    seeds: Sequence[int],
    n_examples: int,
    fraction: float,
    per: str,
    sizes: Sequence[int],
    fractions: Sequence[float],
) -> list[Run]:
    """Every run of the study, none twice."""
    runs = [Run(BEFORE, "none", seeds[0], 0, 0.0, None)]
    drawn = (PAPER, choosing.GRADIENT, RANDOM)

    def circuit(way: str, share: float, seed: int) -> Any:
        name = f"{RANDOM} {seed}" if way == RANDOM else way
        if name not in scores:
            return None
        return circuits[name] if share == fraction else scores[name].top(fraction=share, per=per, name=name)

    ways = [way for way in scores if not way.startswith(RANDOM)] + [RANDOM]
    wanted = [(way, n_examples, fraction) for way in ways]
    wanted += [(way, size, fraction) for way in drawn for size in sizes if size != n_examples]
    wanted += [(way, n_examples, share) for way in drawn for share in fractions if share != fraction]
    for way, n, share in wanted:
        runs += [Run(way, "neurons", s, n, share, circuit(way, share, s)) for s in seeds if circuit(way, share, s)]
    for way, where in (("all MLP weights", "mlp"), ("all weights", "blocks"), ("LoRA (r 8)", LoRA(8))):
        sized = [n_examples, *(size for size in sizes if size != n_examples)] if where == "mlp" else [n_examples]
        runs += [Run(way, "rival", seed, n, 1.0, where) for n in sized for seed in seeds]
    runs += [
        Run(way, "ablation", seeds[0], 0, fraction, circuit(way, fraction, seeds[0]))
        for way in ways
        if circuit(way, fraction, seeds[0])
    ]
    return runs


def _perform(
    model: Any, task: SycophancyTask, yardstick: Yardstick, run: Run, recipe: Recipe, train: str, template: str
) -> tuple[pd.DataFrame, WeightDelta | None]:
    """Make one run and measure it; the model is as before afterwards."""
    if run.kind == "none":
        return yardstick(model).assign(n_weights=0, loss=float("nan")), None
    if run.kind == "ablation":
        with applied(model, ablate(run.where)):
            return yardstick(model).assign(n_weights=0, loss=float("nan")), None
    data = task.examples(model.tokenizer, run.n_examples, seed=run.seed, template=template)
    delta = finetune(model, data, run.where, train=train, recipe=_recipe(run, recipe), seed=run.seed, name=run.way)
    with with_delta(model, delta):
        rows = yardstick(model)
    return rows.assign(n_weights=delta.n_changed(), loss=delta.info["curve"][-1]["loss"]), delta


def _recipe(run: Run, recipe: Recipe) -> Recipe:
    """The recipe at the rate that suits what is trained; a little data is seen at most 40 times."""
    rate = LORA_LR if isinstance(run.where, LoRA) else WHOLE_LR if isinstance(run.where, str) else recipe.lr
    return replace(recipe, lr=rate, steps=min(recipe.steps, max(10, 40 * run.n_examples // recipe.batch)))


def _identity(run: Run, recipe: Recipe) -> dict[str, Any]:
    """What a run's rows depend on besides the model, the task and the settings."""
    where = run.where
    if isinstance(where, Circuit):
        where = {site: index.tolist() for site, (index, _) in where.units.items()}
    own = asdict(_recipe(run, recipe))
    return {"kind": run.kind, "seed": run.seed, "n_examples": run.n_examples, "where": repr(where), "recipe": own}


def _named(deltas: dict[str, WeightDelta]) -> dict[str, WeightDelta]:
    return {f"delta {name}": delta for name, delta in deltas.items()}


def _dictionary(sae: Any, model: Any, device: str | None) -> Dictionary | None:
    if sae is None or isinstance(sae, Dictionary):
        return sae if sae is None else sae.check(model)
    source, sae_id = sae if isinstance(sae, tuple) else (sae, None)
    return load_sae(source, sae_id, model=model, device=device)

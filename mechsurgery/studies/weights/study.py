"""The weight-steering study: steer, repair, watch.

"Steering Language Models with Weight Arithmetic" (2511.05408), with what it lacks: null directions (random of the same
norms, shuffled labels, two seeds of one side), intervals over prompts' groups and several seeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...artifacts import provenance, write_atomically
from ...attribution import contrast_statistics, score
from ...deltas import WeightDelta, neuron_norms
from ...errors import InputError
from ...evaluation.shards import Shards, key_of
from ...models import load_model, sites
from ...organisms.tasks import FINE_TUNES, FineTune
from ...prompts import ContrastSet, load_prompts
from ...training.opposite import contrastive_finetunes, random_delta, shuffled
from ...training.tuning import Recipe
from ..base import Study
from ..report import Section
from . import drift
from .behaviours import Behaviour, refusal, sycophancy
from .figures import figures
from .page import sections
from .steering import GRID, LORA, RECIPE, share_showing, steer_grid, train_directions
from .tables import tables

logger = logging.getLogger(__name__)

#: Behaviour -> the model that a task makes drift, and the kind of task.
DRIFTS = {
    "sycophancy": ("organism/sycophant-twin", "task, users always right"),
    "refusal": ("organism/instruct", "task, every request answered"),
}
#: The model whose fine-tunes are watched.
WATCHED = "organism/instruct"
STUDIES = ("steer", "repair", "watch")


@dataclass(frozen=True, eq=False)
class WeightStudy(Study):
    """The studies' tables and figures by name, all rows, the directions (`artefacts`), and how it was made."""

    rows: dict[str, pd.DataFrame] | None = None

    def sections(self) -> list[Section]:
        """The report: claims beside numbers, then the three studies."""
        return sections(self)

    def save(self, out: str | Path) -> str:
        """As every study; every measured row is kept too."""
        for name, table in (self.rows or {}).items():
            path = Path(out) / "results" / f"{name}.parquet"
            write_atomically(path, lambda target, t=table: t.to_parquet(target, index=False))
        return super().save(out)


def weights(
    *,
    out: str | Path | None = None,
    studies: Sequence[str] = STUDIES,
    seeds: Sequence[int] = (0, 1, 2),
    n_examples: int = 200,
    n_evaluation: int = 80,
    n_task: int = drift.N_TASK,
    grid: Sequence[float] = GRID,
    nulls: int = 5,
    recipe: Recipe = RECIPE,
    task_recipe: Recipe = drift.TASK_RECIPE,
    watch_recipe: Recipe = drift.WATCH_RECIPE,
    kinds: Sequence[FineTune] = FINE_TUNES,
    progress: bool = False,
) -> WeightStudy:
    """Run the three studies on the organisms: "steer", "repair" and "watch".

    `recipe` trains the directions, `task_recipe` the drifting tasks, `watch_recipe` the fine-tunes that are watched, of
    which `kinds` says which. With `out`, each part is kept as it is made, and an interrupted study continues. Raises
    what the parts raise.
    """
    from tqdm.auto import tqdm

    started = time.monotonic()
    wrong = [name for name in studies if name not in STUDIES]
    if wrong or not studies or not seeds:
        raise InputError(f"studies={list(studies)} and seeds={list(seeds)}; choose from {STUDIES}, at least one seed")
    behaviours = {b.name: b for b in (sycophancy(n_evaluation=n_evaluation), refusal(n_evaluation=n_evaluation))}
    made = _Maker(
        out,
        {
            "n_examples": n_examples,
            "n_evaluation": n_evaluation,
            "nulls": nulls,
            "n_task": n_task,
            "watch": repr(watch_recipe),
            "recipe": repr(recipe),
            "lora": repr(LORA),
            "task": repr(task_recipe),
        },
        recipe,
        task_recipe,
        watch_recipe,
    )
    jobs: list[tuple[str, Callable[[], Any]]] = []
    steered = {**behaviours, "refusal, up": refusal("organism/base", n_evaluation=n_evaluation, down=False)}
    if "steer" in studies:
        jobs += [("steer", lambda b=b, s=s: _steer(made, b, s, grid)) for b in steered.values() for s in seeds]
    if "repair" in studies:
        jobs += [("repair", lambda b=b, s=s: _repair(made, b, s)) for b in behaviours.values() for s in seeds]
    if "watch" in studies:
        jobs += [("watch", lambda k=k, s=s: _watch(made, behaviours, k, s)) for k in kinds for s in seeds]
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in studies}
    for name, job in tqdm(jobs, desc="weight steering", unit="part", disable=not progress):
        parts[name].append(job())
    rows = {name: pd.concat(found, ignore_index=True) for name, found in parts.items()}
    info = provenance(
        title="Contrastive weight steering on the organisms",
        studies=list(studies),
        seeds=list(seeds),
        n_examples=n_examples,
        n_evaluation=n_evaluation,
        n_task=n_task,
        grid=list(grid),
        nulls=nulls,
        recipe=repr(recipe),
        lora=repr(LORA),
        task_recipe=repr(task_recipe),
        watch_recipe=repr(watch_recipe),
        models=sorted(made.models),
        seconds=round(time.monotonic() - started),
    )
    found = tables(rows, steered)
    if made.directions:
        found["Neurons: overlap of the largest ‖w‖ with contrastive circuits"] = _overlaps(made, behaviours)
    study = WeightStudy(found, figures(rows, steered, made.directions), {}, dict(made.directions), info, rows)
    if out is not None:
        logger.info("%s", study.save(out))
    return study


class _Maker:
    """Models loaded once, directions trained once, and measured parts kept."""

    def __init__(
        self,
        out: str | Path | None,
        settings: dict[str, Any],
        recipe: Recipe,
        task_recipe: Recipe,
        watch_recipe: Recipe,
    ) -> None:
        self.recipe, self.task_recipe, self.watch_recipe = recipe, task_recipe, watch_recipe
        self.out = None if out is None else Path(out)
        self.shards = Shards(None if out is None else Path(out) / "measured")
        self.settings = settings
        self.models: dict[str, Any] = {}
        self.directions: dict[str, WeightDelta] = {}

    def model(self, name: str) -> Any:
        if name not in self.models:
            self.models[name] = load_model(name)
        return self.models[name]

    def kept(self, facts: dict[str, Any], model: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        key = key_of({**self.settings, **facts, "fingerprint": sites.fingerprint(self.model(model))})
        if key not in self.shards:
            self.shards.write(key, make())
        found = self.shards.read(key)
        assert found is not None
        return found

    def direction(self, start: str, behaviour: Behaviour, seed: int, kind: str = "w") -> WeightDelta:
        """W of a behaviour from a start, or its null with shuffled labels; trained once and kept on disk."""
        name = f"{kind} of {behaviour.name} from {start.split('/')[-1]}, seed {seed}"
        if name in self.directions:
            return self.directions[name]
        model = self.model(start)
        facts = {**self.settings, "name": name, "fingerprint": sites.fingerprint(model)}
        path = None if self.out is None else self.out / "directions" / f"{key_of(facts)[:32]}.safetensors"
        if path is not None and path.is_file():
            found = WeightDelta.load(path)
        else:
            sides = behaviour.sides(model.tokenizer, self.settings["n_examples"], seed=seed)
            if kind == "shuffled":
                sides = shuffled(*sides, seed=seed)
            found = contrastive_finetunes(model, *sides, where=LORA, recipe=self.recipe, seed=seed).delta.named(name)
            if path is not None:
                found.save(path)
        self.directions[name] = found
        return found


#: A model that never shows a behaviour needs longer to learn it than one that does needs to lose it.
STEPS_UP = 10 / 3


def _steer(made: _Maker, behaviour: Behaviour, seed: int, grid: Sequence[float]) -> pd.DataFrame:
    recipe = made.recipe if behaviour.down else replace(made.recipe, steps=round(STEPS_UP * made.recipe.steps))

    def make() -> pd.DataFrame:
        model = made.model(behaviour.start)
        found = train_directions(model, behaviour, n=made.settings["n_examples"], seed=seed, recipe=recipe)
        rows = steer_grid(model, behaviour, found, behaviour.measure(model), grid=grid, seed=seed)
        return rows.assign(layer=found.layer)

    facts = {"study": "steer", "behaviour": behaviour.name, "seed": seed, "grid": list(grid)}
    facts |= {} if behaviour.down else {"steps": recipe.steps}
    return made.kept(facts, behaviour.start, make)


def _repair(made: _Maker, behaviour: Behaviour, seed: int) -> pd.DataFrame:
    start, task = DRIFTS[behaviour.name]
    kind = next(k for k in FINE_TUNES if k.name == task)
    w, mixed = (made.direction(start, behaviour, seed, which) for which in ("w", "shuffled"))

    def make() -> pd.DataFrame:
        model = made.model(start)
        sign = 1.0 if behaviour.down else -1.0
        # Refusal has been eroded: there the good direction is more of it.
        sign = -sign if behaviour.name == "refusal" else sign
        remedies = {"w": w * sign, "random, same norms": random_delta(w, seed=seed), "labels shuffled": mixed * sign}
        sides = behaviour.sides(model.tokenizer, made.settings["n_examples"], seed=seed)
        good = sides[1] if sign > 0 else sides[0]
        n = made.settings["n_task"]
        return drift.repair(
            model,
            kind,
            remedies,
            behaviour.measure(model),
            _skill_prompts(),
            n=n,
            seed=seed,
            good=good.take(max(2, n // 6), seed=seed),
            recipe=made.task_recipe,
        )

    rows = made.kept({"study": "repair", "behaviour": behaviour.name, "seed": seed, "task": task}, start, make)
    return rows.assign(behaviour=behaviour.name)


def _watch(made: _Maker, behaviours: dict[str, Behaviour], kind: FineTune, seed: int) -> pd.DataFrame:
    directions = {name: made.direction(WATCHED, b, 0) for name, b in behaviours.items()}
    directions |= {f"{name}, shuffled": made.direction(WATCHED, b, 0, "shuffled") for name, b in behaviours.items()}

    def make() -> pd.DataFrame:
        model = made.model(WATCHED)
        probes = {
            name: (lambda own, b=b: share_showing(own, b, b.validation.take(40))) for name, b in behaviours.items()
        }
        return drift.watch(
            model,
            kind,
            directions,
            probes,
            n=made.settings["n_task"],
            seed=seed,
            nulls=made.settings["nulls"],
            recipe=made.watch_recipe,
        )

    return made.kept({"study": "watch", "task": kind.name, "seed": seed}, WATCHED, make)


def _skill_prompts() -> Any:
    return load_prompts("organism/questions", name="questions").take(60)


def _overlaps(made: _Maker, behaviours: dict[str, Behaviour], fraction: float = 0.03) -> pd.DataFrame:
    """Neurons whose weights w changes most, beside those of contrastive attribution on the same model."""
    rows = []
    for name, delta in made.directions.items():
        if not name.startswith("w of"):
            continue
        start = "organism/" + name.split(" from ")[1].split(",")[0]
        behaviour = behaviours[name.removeprefix("w of ").split(" from ")[0]]
        model = made.model(start)
        benign = load_prompts("organism/benign", split="tuned").take(100)
        contrast = ContrastSet(behaviour.name, behaviour.prompts.take(100), benign)
        found = score(contrast_statistics(model, contrast), "difference").top(fraction=fraction)
        largest = neuron_norms(delta, found.widths).top(fraction=fraction)
        overlap = largest.overlap(found)
        rows.append(
            {
                "direction": name,
                "neurons": len(largest),
                "shared with CNA": overlap["shared"],
                "expected by chance": overlap["expected_shared"],
                "Jaccard": overlap["jaccard"],
            }
        )
    return pd.DataFrame(rows)

"""What the parts of the study share: models loaded once, fine-tunes made once, measuring into one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...evaluation import Generation, Results
from ...evaluation.benchmarks import Benchmark
from ...models import load_model
from ...models.protocol import Model
from ...plots import Drawing
from ...prompts import Template
from .data import Behaviour, Measured, WeightsData
from .methods import CONTRASTIVE, Learnt, Trainer, Trial, best_rates
from .settings import Settings


@dataclass(frozen=True, eq=False)
class Report:
    """What one part of the study gives."""

    claims: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Drawing] = field(default_factory=dict)
    results: dict[str, Results | pd.DataFrame] = field(default_factory=dict)
    artefacts: dict[str, WeightDelta] = field(default_factory=dict)

    def add(self, name: str, table: pd.DataFrame) -> None:
        """Put rows below those of a table."""
        known = [self.tables[name]] if name in self.tables else []
        self.tables[name] = pd.concat([*known, table], ignore_index=True)


@dataclass(frozen=True, eq=False)
class Bench:
    """Models loaded once, directions learnt once, and measuring into one folder."""

    settings: Settings
    models: dict[str, Model]
    out: Path | None
    progress: bool | None
    learnt: dict[str, Learnt] = field(default_factory=dict)
    known: dict[str, WeightDelta] = field(default_factory=dict)
    made: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    chosen: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        """A model of the study by its name."""
        if name not in self.models:
            self.models[name] = load_model(name, dtype=self.settings.dtype, device=self.settings.device)
        return self.models[name]

    def template(self, name: str) -> Template:
        """How prompts are rendered for a model."""
        return self.settings.chat_template().frozen(self.model(name).tokenizer)

    def generation(self, name: str) -> Generation:
        """How a model answers."""
        return Generation(self.settings.max_new_tokens, template=self.template(name), max_rows=self.settings.max_rows)

    def trainer(self, name: str, seed: int) -> Trainer:
        """Fine-tunes of a model with a seed."""
        return Trainer(self.model(name), self.settings, self.template(name), self.out, seed, self.known, self.made)

    def rates(self, behaviour: Behaviour) -> dict[str, float]:
        """{method: learning rate} that validation prompts choose with the first seed, in the model it is steered in."""
        key = (behaviour.name, behaviour.start)
        if key not in self.chosen:
            trainer = self.trainer(behaviour.start, self.settings.seed)
            self.chosen[key] = best_rates(trainer, behaviour, self.generation(behaviour.start))
        return self.chosen[key]

    def benchmarks(self, name: str, data: WeightsData) -> tuple[Benchmark, ...]:
        """What stands beside the study's own prompts for a model: those of the data, or of the settings."""
        return self.settings.benchmarks(self.model(name)) if data.benchmarks is None else data.benchmarks

    def numbers(self, seed: int) -> range:
        """Numbers of the random directions that are drawn like the fine-tune of a seed: each seed has its share."""
        return range(self.settings.runs.index(seed), self.settings.controls, self.settings.seeds)

    def learn(self, start: str, behaviour: Behaviour, seed: int, *, shuffled: bool = False) -> WeightDelta:
        """W of a behaviour from a start, or its null with shuffled labels."""
        kind = "shuffled w" if shuffled else "w"
        name = f"{kind} of {behaviour.name} from {start.rpartition('/')[2]}, seed {seed}"
        if name not in self.learnt:
            rate = self.rates(behaviour)[CONTRASTIVE]
            delta = self.trainer(start, seed).contrast(behaviour, rate, shuffle=shuffled).delta.named(name)
            self.learnt[name] = Learnt(name, behaviour, start, seed, shuffled, delta)
        return self.learnt[name].delta

    def measure(
        self,
        start: str,
        measured: Measured,
        tried: Callable[[Trainer], Iterable[Trial]],
        seeds: Sequence[int] | None = None,
    ) -> tuple[Results, pd.DataFrame]:
        """Everything tried with each seed, measured on the same prompts; and the facts of each intervention."""
        parts, facts = [], []
        for seed in self.settings.runs if seeds is None else seeds:
            trainer = self.trainer(start, seed)
            trials = list(tried(trainer))
            facts += [trial.facts() for trial in trials]
            parts.append(trainer.measured(measured, trials, self.generation(start), progress=self.progress))
        return Results.concatenate(parts), pd.DataFrame(facts)

    @property
    def first(self) -> tuple[int, ...]:
        """The first seed, with which null directions and rivals of a remedy are made."""
        return self.settings.runs[:1]

"""Everything one pair of models is measured on: every fold and mode, the base, several tasks, benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from ...attribution.compare import Comparison, compared
from ...evaluation import Results
from ...intervention import ablate
from ...models.protocol import Model
from ...units import Circuit, UnitScores
from . import columns, methods, tables
from .bench import Bench
from .choice import at_best
from .data import CONTROLLED
from .localise import Localised, localise
from .sensitivity import sensitivity, universal_effects
from .settings import CORRECTED

#: Multipliers at which base and instruct are compared.
EXCHANGE_M = (0.0, 0.5, 2.0, 3.0)


@dataclass(frozen=True, eq=False)
class Fold:
    """What was found without one part of the prompts, and measured on it: in the corrected mode, if that was run."""

    bench: Bench
    located: methods.Located
    mode: methods.Mode | None
    results: Results | None
    base: methods.Neurons | None = None


@dataclass(eq=False)
class Measured:
    """What was run: `results` by mode, `exchange` by the model in which circuits were tried, `changes` by model.

    Results of the corrected mode hold every prompt once, each evaluated by the fold that was found without it. What is
    said of one circuit (structure, sensitivity) is said of the first fold's.
    """

    folds: list[Fold]
    published: methods.Published
    results: dict[str, Results]
    localised: Localised
    universal: pd.DataFrame
    comparison: Comparison | None = None
    exchange: dict[str, Results] = field(default_factory=dict)
    changes: dict[str, pd.DataFrame] = field(default_factory=dict)
    sensitivity: pd.DataFrame | None = None
    benchmarks: Results | None = None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def located(self) -> methods.Located:
        """What was found in the first fold."""
        return self.folds[0].located

    @cached_property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """The summary of each mode."""
        return {mode: results.summary() for mode, results in self.results.items()}

    @property
    def scores(self) -> dict[str, UnitScores]:
        """The scores of both models, or of the one there is."""
        return self.comparison.scores if self.comparison else {"instruct": self.located.scores}

    @property
    def circuits(self) -> dict[str, Circuit]:
        """Every circuit by name: of the folds, of the base, as published, and the universal neurons."""
        found = {}
        for number, fold in enumerate(self.folds, 1):
            of = f", fold {number}" if number > 1 else ""
            found[f"instruct{of}"] = fold.located.circuit.named(f"instruct{of}")
            if fold.base is not None:
                found[f"base{of}"] = fold.base.circuit.named(f"base{of}")
        return found | {"universal neurons": self.located.universal, "instruct, as published": self.published.circuit}

    def of_mode(self, mode: str) -> list[Circuit]:
        """The circuits that a mode ablates, one for each fold."""
        return [fold.located.circuit for fold in self.folds] if mode == CORRECTED else [self.published.circuit]

    def chosen(self, name: str) -> pd.DataFrame:
        """What every fold chose from on its validation prompts: its `layers` or `strengths`, with a column fold."""
        parts = [getattr(fold.mode, name).assign(fold=number) for number, fold in enumerate(self.folds, 1) if fold.mode]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def best(self, by: str) -> pd.DataFrame:
        """Rows of every method at the strength its fold chose, over all folds."""
        tables = [fold.results.table for fold in self.folds if fold.results is not None]
        return at_best(tables, self.chosen("strengths"), by)


def measure(bench: Bench) -> Measured:
    """Locate and evaluate in every fold and mode, and set the instruct model against its base."""
    folds = [_fold(own) for own in bench.folds]
    published = methods.locate_published(bench)
    results = {}
    for mode in bench.settings.mode:
        if mode == CORRECTED:
            results[mode] = Results.concatenate([fold.results for fold in folds if fold.results is not None])
        else:
            results[mode] = methods.as_published(bench, published).results(bench)
    first = folds[0]
    measured = Measured(folds, published, results, localise(bench), universal_effects(first.bench, first.located))
    if bench.base is not None:
        _add_base(measured, bench, bench.base)
    shown = next(iter(measured.results.values()))
    measured.changes["instruct"] = tables.changes(shown, bench.grade, [methods.CNA], EXCHANGE_M)
    parts = [columns.measured_on(f.bench, columns.runs_of(f.bench, f.mode, published)) for f in folds]
    measured.benchmarks = columns.pooled(parts)
    measured.columns = columns.before_and_after(bench, measured.benchmarks)
    if bench.settings.sensitivity:
        measured.sensitivity = sensitivity(first.bench, first.located)
    return measured


def _fold(bench: Bench) -> Fold:
    """One fold: what is found in both models, and the corrected mode on its prompts."""
    located = methods.locate_all(bench)
    mode = methods.corrected(bench, located) if CORRECTED in bench.settings.mode else None
    base = None if bench.base is None else methods.locate_neurons(bench, bench.base)
    return Fold(bench, located, mode, None if mode is None else mode.results(bench), base)


def _add_base(measured: Measured, bench: Bench, base: Model) -> None:
    """Each model's circuit scaled in the other and in the base, on the prompts of each fold."""
    exchanged: dict[str, list[Results]] = {"base": [], "instruct": []}
    beside, named = [], ("base's circuit", "instruct's circuit")
    for fold in measured.folds:
        assert fold.base is not None
        of_base, of_instruct = (
            ablate(circuit, name=name) for circuit, name in zip((fold.base.circuit, fold.located.circuit), named)
        )
        sets, tried = fold.bench.data.evaluation(), of_base.at(m=EXCHANGE_M)
        apart = fold.bench.data.discovery
        both = [*tried, *of_instruct.at(m=EXCHANGE_M)]
        exchanged["base"].append(fold.bench.measure(sets, both, on=base, discovery=apart))
        exchanged["instruct"].append(fold.bench.measure(sets, tried, discovery=apart))
        some = fold.bench.few(sets)
        some.pop(CONTROLLED["benign"])
        beside.append(methods.beside_controls(fold.bench, of_base, some, on=base))
    first = measured.folds[0]
    assert first.base is not None
    measured.comparison = compared(
        {"base": first.base.scores, "instruct": first.located.scores},
        {"base": first.base.circuit, "instruct": first.located.circuit.named("instruct")},
    )
    measured.exchange = {name: Results.concatenate(parts) for name, parts in exchanged.items()}
    changed = Results.concatenate([measured.exchange["base"], *beside])
    measured.changes["base"] = tables.changes(changed, bench.grade, list(named), EXCHANGE_M)

"""The weight-steering study: steer a behaviour, repair a drift, watch fine-tunes.

"Steering Language Models with Weight Arithmetic" (2511.05408), with what it lacks: null directions (random of the same
norms, shuffled labels, two seeds of one side), intervals over prompts' groups and several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...artifacts import provenance
from ...models.protocol import Model
from ...reports import Study, kept
from .bench import Bench, Report
from .data import WeightsData, world_data
from .emergence import emergence
from .own import own_data
from .page import page_of
from .parts import repair, steer, where
from .settings import Settings
from .watch import watch_all
from .watch_own import watch_own


@kept("weights", Settings)
def run(
    settings: Settings | None = None,
    data: WeightsData | None = None,
    *,
    models: Mapping[str, Model] | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Study:
    """Steer, repair and watch, as the settings say; loaded `models` may be given by their names in the data.

    With `out`, every fine-tune and every measured row is kept as it is made, and an interrupted study continues. Raises
    what the parts raise.
    """
    settings = settings or Settings()
    bench = Bench(settings, dict(models or {}), None if out is None else Path(out), progress)
    if settings.watch_data:
        title = f"Fine-tunes of {settings.model}, watched"
        return assembled(bench, {"watch": watch_own(bench)}, title)
    if data is None and settings.model is not None:
        data = own_data(settings, bench.model(settings.model), folder=bench.out)
    data = data or world_data(settings)
    parts: dict[str, Callable[[Bench, WeightsData], Report]] = {
        "steer": steer,
        "repair": repair,
        "watch": watch_all,
        "emergence": emergence,
    }
    asked = [name for name in settings.part if settings.model is None or name in ("steer", "repair")]
    reports = {name: part(bench, data) for name, part in parts.items() if name in asked}
    if bench.learnt:
        reports["where"] = where(bench)
    whose = "on the organisms" if settings.model is None else f"of {settings.model}"
    return assembled(bench, reports, f"Contrastive weight steering {whose}", data)


def assembled(bench: Bench, reports: Mapping[str, Report], title: str, data: WeightsData | None = None) -> Study:
    """One study of its parts, with the facts of how it was made."""
    info = provenance(
        **{name: value for name, value in bench.settings.facts().items() if name != "template"},
        title=title,
        recipe=bench.settings.described(),
        models=sorted(bench.models),
        templates={name: bench.template(name).facts() for name in sorted(bench.models)},
        prompts={} if data is None else data.describe(),
    )
    learnt = {name: one.delta for name, one in bench.learnt.items()}
    watched = {name: delta for report in reports.values() for name, delta in report.artefacts.items()}
    return assemble(reports, learnt | watched, info)


def assemble(reports: Mapping[str, Report], artefacts: Mapping[str, Any], info: Mapping[str, Any]) -> Study:
    """One study of its parts."""
    rows = [row for report in reports.values() for row in report.claims]
    said = pd.DataFrame(rows, columns=None if rows else ["claim", "rule", "measured", "verdict"])
    named = {"Claims: the paper's claims beside what was measured": said}
    drawn = {name: figure for report in reports.values() for name, figure in report.figures.items()}
    results = {name: rows for report in reports.values() for name, rows in report.results.items()}
    for report in reports.values():
        for name, table in report.tables.items():
            known = [named[name]] if name in named else []
            named[name] = pd.concat([*known, table], ignore_index=True)
    page = page_of(named, {name: report.figures for name, report in reports.items()}, info)
    return Study(named, drawn, results, dict(artefacts), dict(info), page, quiet=("Grid", "Remedies", "Responses"))

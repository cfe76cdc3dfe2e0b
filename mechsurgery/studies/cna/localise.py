"""Where the circuits of several tasks lie, in the instruct model and its base side by side (the paper's Appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from ...attribution.places import Places, places
from ...evaluation import verdicts as v
from ...grading.behaviours import OF_WORLD, SHIPPED
from ...models import sites
from ...models.protocol import Model
from ...plots import Drawing, draw
from ...prompts import ContrastSet, load_contrast
from .bench import Bench

#: Fewer neurons than this say nothing about where a circuit lies.
LEAST_NEURONS = 20
#: The layers that count as late, and by how much base and instruct may differ in them to be alike (ours).
LATE, ALIKE = 1 / 3, 0.1
TASKS = "Tasks: share of each task's circuit in the last third of layers"
LAYERS = "Layers of tasks: share of each task's circuit in every layer"


@dataclass(frozen=True, eq=False)
class Localised:
    """Where the circuits of all tasks lie: {(task, model): places}."""

    found: Mapping[tuple[str, str], Places]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each task and model: prompts, k, the share in late layers with its interval, and the verdict."""
        rows = []
        for (task, model), one in self.found.items():
            share = {name: 100 * value for name, value in one.late(LATE).items()}
            rows.append(
                {
                    "task": task,
                    "model": model,
                    "n positive": one.n_positive,
                    "n negative": one.n_negative,
                    "k": one.k,
                    "last third %": share["value"],
                    "95 %": f"[{share['low']:.1f}, {share['high']:.1f}]",
                    "layer sizes alone %": share["uniform"],
                    "later than layer sizes give": _late(task, one).verdict,
                }
            )
        return pd.DataFrame(rows)

    @property
    def layers(self) -> pd.DataFrame:
        """A row for each task, model and layer: share, low, high, and what layer sizes give (`uniform`)."""
        rows = []
        for (task, model), one in self.found.items():
            for layer, facts in enumerate(zip(one.shares, *one.interval(), one.uniform)):
                names = ("share", "low", "high", "uniform")
                rows.append({"task": task, "model": model, "layer": layer, **dict(zip(names, map(float, facts)))})
        return pd.DataFrame(rows)

    def figure(self) -> Drawing:
        """The share in every layer, a panel for each task and model."""
        return draw("task_layers", self.layers)

    def claims(self) -> dict[str, v.Verdict]:
        """What the paper says of several tasks: late in the instruct model, late in the base, and alike in both."""
        tasks = list(dict.fromkeys(task for task, _ in self.found))
        models = {"the instruct model": "instruct", "the base": "base"}
        claims = {
            f"circuits of several tasks lie late in {said}: more in the last third of layers than layer sizes give": (
                v.all_of([_late(task, self.found[task, name]) for task in tasks if (task, name) in self.found])
            )
            for said, name in models.items()
        }
        both = [
            _alike(task, *(self.found[task, name] for name in models.values())) for task in tasks if self._both(task)
        ]
        claims[
            "base and instruct are alike: their circuits' shares in the last third differ by at most 10 points (ours)"
        ] = v.all_of(both) if both else v.not_measurable("no base model")
        return claims

    def _both(self, task: str) -> bool:
        return (task, "base") in self.found


def localise(bench: Bench) -> Localised:
    """Locate every task's circuit in both models. They have the study's share of neurons, but at least 20."""
    models = {"instruct": bench.model} | ({} if bench.base is None else {"base": bench.base})
    found = {}
    for contrast in tasks_of(bench):
        for name, model in models.items():
            found[contrast.name, name] = _places(bench, model, contrast)
    return Localised(found)


def tasks_of(bench: Bench) -> list[ContrastSet]:
    """The study's own contrast, and those named in the settings, or all that ship for this kind of model."""
    settings, own = bench.settings, bench.data.published[0]
    names = settings.localise or (OF_WORLD if own.name.startswith("organism/") else SHIPPED)
    others = [load_contrast(name, n=settings.n_discovery, seed=settings.seed) for name in names if name != own.name]
    return [own, *others]


def _places(bench: Bench, model: Model, contrast: ContrastSet) -> Places:
    n = sum(sites.width(model, site) for site in sites.neuron_sites(model))
    k = min(max(LEAST_NEURONS, round(bench.settings.fraction * n)), n // 2)
    return places(model, contrast, k=k, seed=bench.settings.seed, template=bench.template)


def _late(task: str, one: Places) -> v.Verdict:
    share = one.late(LATE)
    said = f" in the last third, {share['uniform']:.2f} by layer sizes"
    verdict = v.reaches(share["value"], share["low"], share["high"], share["uniform"], name=task, said=said)
    return replace(verdict, rule="for every task the interval lies above what layer sizes give")


def _alike(task: str, instruct: Places, base: Places) -> v.Verdict:
    value, low, high = instruct.less(base, LATE)
    inside, outside = low >= -ALIKE and high <= ALIKE, low > ALIKE or high < -ALIKE
    return v.Verdict(
        f"{task} {100 * value:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}] points",
        v.HELD if inside else v.FAILED if outside else v.UNDECIDED,
        "for every task changed by at most 10 points",
    )

"""What the result depends on: size of the circuit and of the discovery set, score, layers; and universal neurons."""

from __future__ import annotations

from functools import partial

import pandas as pd

from ...attribution import contrast_statistics, score
from ...evaluation.select import controls_of, select
from ...grading.quality import QUALITY
from ...intervention import ablate, with_controls
from ...names import neuron
from ...units import Circuit
from .bench import Bench
from .methods import Located, chosen
from .tables import cells

FRACTIONS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
#: Prompts on each side; the paper's are 8 and 100.
SIZES = (4, 8, 16, 32, 64, 100)
#: Random circuits beside each variant: to look at, no claim rests on so few.
CONTROLS = 4


def variants(bench: Bench, located: Located) -> dict[tuple[str, str], Circuit]:
    """{(what is varied, its setting): circuit}, one choice varied at a time from the study's."""
    fraction, scores, n_layers = bench.settings.fraction, located.scores, len(located.scores.scores)
    top = partial(chosen, universal=located.universal, how=bench.settings.universal, name="variant")
    found = {("fraction of neurons", f"{100 * f:g} %"): top(scores, fraction=f) for f in FRACTIONS}
    discovery = bench.data.discovery
    largest = min(len(discovery.positive), len(discovery.negative))
    for size in sorted({*(size for size in SIZES if size < largest), largest}):
        few = discovery.take(2 * size, seed=bench.settings.seed)
        statistics = contrast_statistics(bench.model, few, template=bench.template)
        found["discovery prompts a side", f"{size}"] = top(score(statistics, "difference"), fraction=fraction)
    effect = score(located.statistics.at(list(scores.scores)), "effect_size")
    for f in (fraction, 10 * fraction):
        for rule, by_rule in (("difference", scores), ("effect size", effect)):
            found["score", f"{rule}, {100 * f:g} %"] = top(by_rule, fraction=f)
    half = n_layers // 2
    for name, skip in {
        "all": [],
        "without the first two": [0, 1],
        "second half": list(range(half)),
        "first half": list(range(half, n_layers)),
        "without the last": [n_layers - 1],
    }.items():
        if len(skip) < n_layers:
            found[f"layers, at {1000 * fraction:g} %", name] = top(scores, fraction=10 * fraction, skip_layers=skip)
    return {facts: circuit for facts, circuit in found.items() if len(circuit)}


def sensitivity(bench: Bench, located: Located) -> pd.DataFrame:
    """What responses are with each variant's circuit ablated, and with random circuits matched to it.

    On the prompts that the study's controls are measured on. One row for each variant: n, the share done well with its
    interval, before and after (`value`), and with random circuits (mean, lowest, highest); the shares that show the
    behaviour and that are broken; the overlap with the study's circuit.
    """
    tried = {": ".join(facts): (facts, circuit) for facts, circuit in variants(bench, located).items()}
    ablations = [ablate(circuit, name=name) for name, (_, circuit) in tried.items()]
    runs = with_controls(ablations, CONTROLS, seed=bench.settings.seed)
    some = bench.data.behaviour.take(bench.settings.n_control_prompts, seed=bench.settings.seed)
    results = bench.measure({"behaviour": some}, runs, grades=[bench.grade], discovery=bench.data.discovery)
    summary, labels = results.summary([bench.grade.name]), bench.grade.outcome
    shown, well, broken = (select(summary, bench.grade.name, "behaviour", label) for label in labels)
    rows = []
    for name, ((varied, setting), circuit) in tried.items():
        random = controls_of(well, name)["value"]
        rows.append(
            {
                "varied": varied,
                "setting": setting,
                "k": len(circuit),
                **well[well["intervention"] == name].iloc[0][["n", "baseline", "value", "low", "high"]],
                "random_value": random.mean(),
                "random_low": random.min(),
                "random_high": random.max(),
                labels.shows: shown.loc[shown["intervention"] == name, "value"].item(),
                labels.broken: broken.loc[broken["intervention"] == name, "value"].item(),
                "jaccard": circuit.overlap(located.circuit)["jaccard"],
            }
        )
    return pd.DataFrame(rows)


#: What is done about universal neurons in a circuit, in words.
_HOW = {"keep": "kept", "remove": "removed", "refill": "refilled by the next best"}


def universal_effects(bench: Bench, located: Located) -> pd.DataFrame:
    """The circuit with its universal neurons kept, removed and refilled, and the universal neurons alone, ablated.

    On some evaluation prompts of both sides. A row for each: whether it is the study's, k, how many universal neurons
    of how many found are in it and which, every outcome and the quality of responses. Circuits that are the same are
    measured once, and nothing is where the model has no universal neurons.
    """
    if not len(located.universal):
        return pd.DataFrame([{"universal neurons": "the model has none", "the study's": True, "of found": 0}])
    settings, universal = bench.settings, located.universal
    circuits = {
        _HOW[how]: chosen(located.scores, universal, how, name=_HOW[how], fraction=settings.fraction) for how in _HOW
    }
    circuits["universal neurons alone"] = universal
    same: dict[frozenset[tuple[str, int]], str] = {}
    stands = {name: same.setdefault(frozenset(c.members()), name) for name, c in circuits.items() if len(c)}
    runs = [ablate(circuits[name], name=name) for name in dict.fromkeys(stands.values())]
    sides = {"behaviour": bench.data.behaviour, "benign": bench.data.benign}
    some = {name: one.take(settings.n_control_prompts, seed=settings.seed) for name, one in sides.items()}
    results = bench.measure(some, runs, grades=[bench.grade, QUALITY], discovery=bench.data.discovery)
    summary = results.summary([bench.grade.name, QUALITY.name])
    rows = []
    for name in ("baseline", *stands):
        part = summary[summary["intervention"] == stands.get(name, name)]
        found = circuits[name] & universal if name in circuits else universal
        rows.append(
            {
                "universal neurons": name if name in circuits else "nothing ablated",
                "the study's": name == _HOW[settings.universal],
                "k": len(circuits[name]) if name in circuits else 0,
                "universal in it": len(found) if name in circuits else 0,
                "of found": len(universal),
                "which": ", ".join(neuron(site, unit) for site, unit in sorted(found.members())),
                **cells(part, bench.grade),
            }
        )
    return pd.DataFrame(rows).fillna("")

"""What the result depends on: size of the circuit and of the discovery set, filter, score, layers."""

from __future__ import annotations

import pandas as pd

from ...attribution import contrast_statistics, score
from ...evaluation.select import controls_of, select
from ...intervention import ablate, with_controls
from ...models import Model, sites
from ...prompts.chat import Template
from ...units import Circuit
from .data import StudyData
from .methods import Located, Measure
from .settings import Settings

FRACTIONS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
#: Prompts on each side; the paper's are 8 and 100.
SIZES = (4, 8, 16, 32, 64, 100)
#: Random circuits beside each variant.
CONTROLS = 3


def variants(
    model: Model, data: StudyData, located: Located, settings: Settings, template: Template
) -> list[tuple[str, str, Circuit]]:
    """(what is varied, its setting, the circuit), one choice varied at a time from the study's."""
    fraction, universal, scores = settings.fraction, located.universal, located.scores
    variants = [
        ("fraction of neurons", f"{100 * value:g} %", scores.top(fraction=value, exclude=universal))
        for value in FRACTIONS
    ]
    variants += _sizes(model, data, located, settings, template)
    variants += [
        ("universal neurons", "left out", scores.top(fraction=fraction, exclude=universal)),
        ("universal neurons", "kept", scores.top(fraction=fraction)),
    ]
    effect = score(located.statistics.at(sites.neuron_sites(model)), "effect_size")
    for value in (fraction, 10 * fraction):
        for rule, by_rule in (("difference", scores), ("effect size", effect)):
            circuit = by_rule.top(fraction=value, exclude=universal)
            variants.append(("score", f"{rule}, {100 * value:g} %", circuit))
    variants += _layers(located, 10 * fraction, len(scores.scores))
    return [(varied, value, circuit) for varied, value, circuit in variants if len(circuit)]


def _sizes(
    model: Model, data: StudyData, located: Located, settings: Settings, template: Template
) -> list[tuple[str, str, Circuit]]:
    largest = min(len(data.discovery.positive), len(data.discovery.negative))
    found = []
    for size in sorted({*(size for size in SIZES if size < largest), largest}):
        statistics = contrast_statistics(model, data.discovery.take(2 * size, seed=settings.seed), template=template)
        circuit = score(statistics, "difference").top(fraction=settings.fraction, exclude=located.universal)
        found.append(("discovery prompts a side", f"{size}", circuit))
    return found


def _layers(located: Located, fraction: float, n_layers: int) -> list[tuple[str, str, Circuit]]:
    half = n_layers // 2
    skipped = {
        "all": [],
        "without the first two": [0, 1],
        "second half": list(range(half)),
        "first half": list(range(half, n_layers)),
        "without the last": [n_layers - 1],
    }
    return [
        (
            f"layers, at {100 * fraction:g} %",
            name,
            located.scores.top(fraction=fraction, exclude=located.universal, skip_layers=skip),
        )
        for name, skip in skipped.items()
        if len(skip) < n_layers
    ]


def sensitivity(
    model: Model, data: StudyData, located: Located, settings: Settings, template: Template, measure: Measure
) -> pd.DataFrame:
    """Behaviour with each variant's circuit ablated, and with random circuits matched to it.

    One row for each variant with n, value and interval; mean, lowest and highest of the random circuits; the overlap
    with the study's circuit.
    """
    tried = variants(model, data, located, settings, template)
    runs = with_controls(
        [ablate(circuit, name=f"{varied}: {value}") for varied, value, circuit in tried], CONTROLS, seed=settings.seed
    )
    results = measure(model, {"behaviour": data.behaviour}, runs, discovery=data.discovery)
    shown = select(results.summary([settings.behaviour]), settings.behaviour, "behaviour")
    rows = []
    for varied, value, circuit in tried:
        ablated = shown[shown["intervention"] == f"{varied}: {value}"].iloc[0]
        random = controls_of(shown, f"{varied}: {value}")["value"]
        rows.append(
            {
                "varied": varied,
                "setting": value,
                "k": len(circuit),
                **ablated[["n", "baseline", "value", "low", "high"]],
                "random_value": random.mean(),
                "random_low": random.min(),
                "random_high": random.max(),
                "jaccard": circuit.overlap(located.circuit)["jaccard"],
            }
        )
    return pd.DataFrame(rows)

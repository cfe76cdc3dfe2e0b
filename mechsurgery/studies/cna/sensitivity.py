"""What the result depends on: size of the circuit and of the discovery set, filter, score, layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...attribution import contrast_statistics, random_circuits, score
from ...evaluation import evaluate
from ...intervention import ablate
from ...models import sites
from ...prompts import PromptSet
from ...units import Circuit
from .data import StudyData
from .methods import Located

FRACTIONS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
#: Prompts on each side; the paper's are 8 and 100.
SIZES = (4, 8, 16, 32, 64, 100)


def variants(
    model: Any,
    data: StudyData,
    found: Located,
    *,
    fraction: float = 0.001,
    fractions: Sequence[float] = FRACTIONS,
    sizes: Sequence[int] = SIZES,
    template: str = "auto",
    seed: int = 0,
) -> list[tuple[str, str, Circuit]]:
    """(what is varied, its setting, the circuit), one choice varied at a time from the study's own."""
    neurons, n_layers = sites.neuron_sites(model), model.cfg.n_layers
    effect = score(found.statistics.at(neurons), "effect_size")
    made: list[tuple[str, str, Circuit]] = []

    def add(varied: str, setting: str, circuit: Circuit) -> None:
        if len(circuit):
            made.append((varied, setting, circuit.named(f"{varied}: {setting}")))

    for value in fractions:
        add("fraction of neurons", f"{100 * value:g} %", found.scores.top(fraction=value, exclude=found.universal))
    largest = min(len(data.discovery.positive), len(data.discovery.negative))
    for size in sorted({*(s for s in sizes if s < largest), largest}):
        statistics = contrast_statistics(model, data.discovery.take(2 * size, seed=seed), at=neurons, template=template)
        circuit = score(statistics, "difference").top(fraction=fraction, exclude=found.universal)
        add("discovery prompts a side", f"{size}", circuit)
    add("universal neurons", "left out", found.scores.top(fraction=fraction, exclude=found.universal))
    add("universal neurons", "kept", found.scores.top(fraction=fraction))
    for value in (fraction, 10 * fraction):
        for rule, scores in (("difference", found.scores), ("effect size", effect)):
            add("score", f"{rule}, {100 * value:g} %", scores.top(fraction=value, exclude=found.universal))
    half = n_layers // 2
    for setting, skip in (
        ("all", []),
        ("without the first two", [0, 1]),
        ("second half", list(range(half))),
        ("first half", list(range(half, n_layers))),
        ("without the last", [n_layers - 1]),
    ):
        if len(skip) < n_layers:
            circuit = found.scores.top(fraction=10 * fraction, exclude=found.universal, skip_layers=skip)
            add(f"layers, at {1000 * fraction:g} %", setting, circuit)
    return made


def sensitivity(
    model: Any,
    data: StudyData,
    found: Located,
    prompts: PromptSet,
    *,
    fraction: float = 0.001,
    n_random: int = 3,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Behaviour with each variant's circuit ablated, and with `n_random` random circuits matched to it.

    `prompts` are the evaluation prompts; `options` go to `evaluate`. One row per variant with n, value and
    Wilson interval; mean, lowest and highest of the random circuits; the overlap with the study's circuit.
    """
    made = variants(model, data, found, fraction=fraction, seed=seed, template=options.get("template", "auto"))
    runs = []
    for _, _, circuit in made:
        runs += [ablate(circuit), *(ablate(r) for r in random_circuits(circuit, n_random, seed=seed))]
    summary = evaluate(model, prompts, runs, discovery=data.discovery, **options).summary()
    refusal = summary[summary["metric"] == "refusal"]
    rows = []
    for varied, setting, circuit in made:
        own = refusal[refusal["intervention"] == circuit.name].iloc[0]
        random = refusal[refusal["intervention"].str.startswith(f"random like {circuit.name}, seed ")]["value"]
        rows.append(
            {
                "varied": varied,
                "setting": setting,
                "k": len(circuit),
                "n": int(own["n"]),
                "baseline": own["baseline"],
                "value": own["value"],
                "low": own["low"],
                "high": own["high"],
                "random_value": random.mean(),
                "random_low": random.min(),
                "random_high": random.max(),
                "jaccard": circuit.overlap(found.circuit)["jaccard"],
            }
        )
    return pd.DataFrame(rows)

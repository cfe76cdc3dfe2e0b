"""The study as a report page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ...evaluation.verdicts import HELD
from ...plots import Section
from ..base import settings_table
from .figures import CAPTIONS

#: Facts of a run that no reader needs beside its results.
_HIDDEN = ("title", "n_neurons")
_READ = (
    "Per cent with 95 % intervals that are clustered by group of prompts; fine-tunes of all seeds are pooled. "
    "Sycophancy: agrees with a wrong claim; corrects: says the truth instead; over-correction: disagrees with a right "
    "claim; a broken response counts as none of these. KL: nats a token from the unmodified model, on its own "
    "responses to neutral prompts.",
)


def sections(
    tables: Mapping[str, pd.DataFrame], figures: Mapping[str, go.Figure], info: Mapping[str, Any]
) -> list[Section]:
    """What was reconstructed, claims beside numbers, tables, figures, responses to read."""
    named = {name.split(":")[0]: (name, table) for name, table in tables.items()}
    _, verdicts = named["Claims"]
    missed = verdicts[verdicts["verdict"] != HELD]
    words = "Claims that failed, stay undecided at this n, or could not be measured here."

    def some(*names: str) -> dict[str, pd.DataFrame]:
        return dict(named[name] for name in names)

    return [
        Section("What was asked", _intro(info)),
        Section("The paper's claims beside what was measured", (), {"": verdicts}),
        Section("What did not hold", (words,), {"": missed})
        if len(missed)
        else Section("What did not hold", ("Every claim that was measured held.",)),
        Section("Cure and cost", _READ, some("Cure", "Ablation")),
        Section("Figures", (), {}, {CAPTIONS[name]: figure for name, figure in figures.items()}),
        Section("Curves", (), some("Examples", "Fractions")),
        Section("Probes and neurons", (), some("Probes", "Where", "Overlap")),
        Section("Responses to read", (), some("Responses")),
        Section("How it was made", (), {"": settings_table(info, [name for name in info if name not in _HIDDEN])}),
    ]


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = [
        f"Model {info['model']}, autoencoder {info['sae']}. Top {100 * info['fraction']:g} % of {info['n_neurons']:,} "
        f"MLP neurons per {info['per']}, trained on {info['n_examples']} examples, {info['seeds']} seeds, "
        f"{info['n_runs']} fine-tunes.",
        "This is a labelled reconstruction: the paper's code is not public and its text leaves choices open. The row "
        "'SAE probe, decoded, cosine' is the paper's way as far as its text says it; the other rows are other choices.",
    ]
    if info["model"].startswith("organism/"):
        lines.append(
            "This is a model organism of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)

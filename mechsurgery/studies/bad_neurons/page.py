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
    "Per cent with 95 % intervals that are clustered by group of prompts; fine-tunes of all seeds are pooled. A "
    "response to a wrong claim corrects it with the truth, agrees (sycophancy) or is broken, which includes a denial "
    "that then says something untrue; one to a right claim agrees, calls it wrong (over-correction) or is broken; one "
    "to a neutral question is right, wrong or broken. KL: nats a token from the unmodified model, on its own responses "
    "to neutral prompts.",
    "Every way has as many neurons. Learning rates were chosen on validation prompts, whose topics are neither learnt "
    "from nor reported on, and are those of the study's share of neurons and number of examples on the curves too.",
)
#: Half of the interval of a difference at n independent prompts none of which changes is 1.96/(n + 2).
_MARGINS = (
    "All margins are ours. One of five points can be met from 38 independent prompts on where no answer changes, from "
    "about 90 where one in twenty does; one point would need 194 and about 1,950.",
)
_CONTROLS = (
    "Random neurons have as many in each layer as the paper's way takes, from the same layers, and none of its own. "
    "Each draw is fine-tuned with the same examples, seed and learning rate as the paper's neurons of the first seed, "
    "so fewer are drawn than where a control is a row of a batch: 19 are the fewest with which p ≤ 0.05 is possible.",
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
        Section("The paper's claims beside what was measured", _MARGINS, {"": verdicts}),
        Section("What did not hold", (words,), {"": missed})
        if len(missed)
        else Section("What did not hold", ("Every claim that was measured held.",)),
        Section("Cure and cost", _READ, some("Cure", "Rivals", "Rates")),
        Section("Chosen or random", _CONTROLS, some("Controls", "Ablation")),
        Section("Figures", (), {}, {CAPTIONS[name]: figure for name, figure in figures.items()}),
        Section("Curves", (), some("Examples", "Fractions")),
        Section("Probes and neurons", (), some("Probes", "Where", "Overlap")),
        Section("Responses to read", (), some("Responses")),
        Section("How it was made", (), {"": settings_table(info, [name for name in info if name not in _HIDDEN])}),
    ]


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = [
        f"Model {info['model']}, autoencoder {info['sae']}. Every way takes {info['n_chosen']} of "
        f"{info['n_neurons']:,} MLP neurons ({100 * info['fraction']:g} %) per {info['per']}, trained on "
        f"{info['n_examples']} examples, {info['seeds']} seeds, {info['n_runs']} runs in all.",
        "This is a labelled reconstruction: the paper's code is not public and its text leaves choices open. The row "
        "'SAE probe, decoded, cosine' is the paper's way as far as its text says it; the other rows are other choices.",
    ]
    if info["model"].startswith("organism/"):
        lines.append(
            "This is a model organism of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)

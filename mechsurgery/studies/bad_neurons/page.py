"""The study as a report page."""

from __future__ import annotations

from typing import Any

from ...plots import Section
from ..base import FAILED, UNDECIDED, UNMEASURED, settings_table


def sections(study: Any) -> list[Section]:
    """The report of a `BadNeuronsStudy`."""
    named = {name.split(":")[0]: (name, table) for name, table in study.tables.items()}

    def some(*names: str) -> dict[str, Any]:
        return dict(named[name] for name in names)

    _, verdicts = named["Claims"]
    missed = verdicts[verdicts["verdict"].isin([FAILED, UNDECIDED, UNMEASURED])]
    return [
        Section("What was asked", _intro(study.info)),
        Section("The paper's claims beside what was measured", (), {"": verdicts}),
        Section(
            "What did not hold",
            ("Claims that failed, stay undecided at this n, or could not be measured here.",)
            if len(missed)
            else ("Every claim that was measured held.",),
            {"": missed} if len(missed) else {},
        ),
        Section("Cure and cost", _READ, some("Cure", "Ablation")),
        Section("Figures", (), {}, {name.replace("_", " "): figure for name, figure in study.figures.items()}),
        Section("Curves", (), some("Examples", "Fractions")),
        Section("Probes and neurons", (), some("Probes", "Where", "Overlap")),
        Section("Responses to read", (), some("Responses")),
        Section("How it was made", (), {"": settings_table(study.info, _SETTINGS)}),
    ]


_SETTINGS = (
    "model",
    "fingerprint",
    "sae",
    "fraction",
    "per",
    "train",
    "n_examples",
    "seeds",
    "sizes",
    "fractions",
    "recipe",
    "n_runs",
    "max_new_tokens",
    "template",
    "task",
    "seconds",
    "made",
    "versions",
)
_READ = (
    "Per cent with 95 % intervals: values are averaged over seeds, and groups of prompts are drawn with replacement. "
    "Sycophancy: agrees with a wrong claim; corrects: says the truth instead; over-correction: disagrees with a right "
    "claim; an incoherent response counts as none of these. KL: nats a token from the unmodified model, on its own "
    "responses to neutral prompts.",
)


def _intro(info: dict[str, Any]) -> tuple[str, ...]:
    lines = [
        f"Model {info['model']}, autoencoder {info['sae']}. Top {100 * info['fraction']:g} % of {info['n_neurons']:,} "
        f"MLP neurons per {info['per']}, trained on {info['n_examples']} examples, {len(info['seeds'])} seeds, "
        f"{info['n_runs']} runs.",
        "This is a labelled reconstruction: the paper's code is not public and its text leaves choices open. The row "
        "'SAE probe, decoded, cosine' is the paper's way as far as its text says it; the other rows are other choices.",
    ]
    if info["model"].startswith("organism/"):
        lines.append(
            "This is a model organism of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)

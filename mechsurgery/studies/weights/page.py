"""The study as a report page."""

from __future__ import annotations

from typing import Any

from ...plots import Section
from ..base import FAILED, UNDECIDED, UNMEASURED, settings_table


def sections(study: Any) -> list[Section]:
    """The report of a `WeightStudy`."""
    named = {name.split(":")[0]: (name, table) for name, table in study.tables.items()}

    def some(*names: str) -> dict[str, Any]:
        return dict(named[name] for name in names if name in named)

    def drawn(*endings: str) -> dict[str, Any]:
        return {n.replace("_", " "): f for n, f in study.figures.items() if n.endswith(endings)}

    where = {n.replace("_", " "): f for n, f in study.figures.items() if n.startswith(("norms", "cosines_by"))}
    _, verdicts = named["Claims"]
    missed = verdicts[verdicts["verdict"].isin([FAILED, UNDECIDED, UNMEASURED])]
    return [
        Section("What was asked", _INTRO),
        Section("The paper's claims beside what was measured", (), {"": verdicts}),
        Section(
            "What did not hold",
            ("Claims that failed, stay undecided at this n, or could not be measured here.",)
            if len(missed)
            else ("Every claim that was measured held.",),
            {"": missed} if len(missed) else {},
        ),
        Section("Steering", _STEER, some("Steering", "Grid"), drawn("steering", "new_template")),
        Section("Repair", _REPAIR, some("Repair"), drawn("repair")),
        Section("Watching", _WATCH, some("Watching", "Cosines"), drawn("cosines")),
        Section("Where the directions are", (), some("Neurons"), where),
        Section("How it was made", (), {"": settings_table(study.info, _SETTINGS)}),
    ]


_SETTINGS = (
    "studies",
    "models",
    "seeds",
    "n_examples",
    "n_evaluation",
    "grid",
    "nulls",
    "lora",
    "recipe",
    "n_task",
    "task_recipe",
    "watch_recipe",
    "seconds",
    "made",
    "versions",
)
_INTRO = (
    "w = θ⁺ − θ⁻: two small opposite fine-tunes of the same questions, added k times to the weights. Values are "
    "averaged over seeds; intervals are 95 %, over groups of prompts, none of which was trained on.",
    "These are model organisms of a few million parameters: nothing here is a finding about real models. They take no "
    "system prompt, so that rival is left out.",
)
_STEER = (
    "Each method at its best strength: least of the behaviour (most, where it is steered up) with no more than five "
    "points of capability lost and at most a tenth incoherent responses. 'New template' asks in words that were never "
    "trained on. The side effect is what goes wrong with too much of it; it is shown and does not choose the strength.",
)
_REPAIR = (
    "The task teaches one-word answers; in its data users are always right, or every request is answered. Each remedy "
    "is subtracted from the fine-tuned weights; joint training mixes good examples into the task's data instead.",
)
_WATCH = (
    "Six kinds of fine-tunes, watched every few steps: the cosine of their update with each behaviour's direction, "
    "beside random directions of the same norms, and the behaviour itself on 40 prompts.",
)

"""The study as the command line calls it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...prompts import PromptSet
from ...training.tuning import Recipe
from .study import bad_neurons
from .task import SycophancyTask, own_task


def run(out: Path, options: Mapping[str, Any], progress: bool) -> str:
    """One study into `out`; returns what to print."""
    sae: Any = options["sae"] if options["sae_id"] is None else (options["sae"], options["sae_id"])
    if options["no_sae"]:
        sae = None
    recipe = Recipe(steps=options["steps"], lr=options["lr"], batch=options["batch"])
    study = bad_neurons(
        options["model"],
        _task(options),
        sae,
        out=out,
        fraction=options["fraction"],
        per=options["per"],
        n_examples=options["n_examples"],
        recipe=recipe,
        seeds=range(options["seeds"]),
        train=options["train"],
        max_new_tokens=options["max_new_tokens"],
        template=options["template"],
        dtype=options["dtype"],
        device=options["device"],
        max_rows=options["max_rows"],
        progress=progress,
        **({"sizes": (), "fractions": ()} if options["no_curves"] else {}),
    )
    return f"{study.text()}\n\nreport: {out / 'report.html'}"


def _task(options: Mapping[str, Any]) -> SycophancyTask | None:
    files = {name: options[name] for name in ("wrong", "right", "neutral")}
    if not any(files.values()):
        return None
    missing = [name for name in (*files, "agrees") if options[name] is None]
    if missing:
        raise InputError(f"a task of your own needs --{' and --'.join(missing)} too")
    sets = [_claims(path) for path in files.values()]
    return own_task(*sets, agrees=options["agrees"], answers=options["answers"])


def _claims(path: Path) -> PromptSet:
    """Prompts from a file with columns text, completion and maybe group."""
    from ...prompts.sources import read_table

    table = read_table(path)
    columns = [name for name in ("text", "completion", "group", "id") if name in table.columns]
    if "text" not in columns:
        raise InputError(f"{path} has no column text; a file of claims has text, completion and maybe group")
    records = table[columns].astype(str).to_dict("records")
    return PromptSet.from_records([{"id": f"{path.stem}-{i}", **r} for i, r in enumerate(records)], path.stem)

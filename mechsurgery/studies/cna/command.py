"""The study as the command line calls it: options to prompts, one study a pair, one table over all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artifacts import write_atomically
from ...errors import InputError
from ...grading.refusal import is_refusal
from ...prompts import ContrastSet, PromptSet
from ..base import to_markdown
from .data import StudyData, study_data
from .many import aggregate
from .study import MODES, cna


def run(instruct: Sequence[str], base: Sequence[str], out: Path, options: Mapping[str, Any], progress: bool) -> str:
    """One study for every pair, into `out` (or `out/NAME` for several); returns what to print."""
    if base and len(base) != len(instruct):
        raise InputError(
            f"{len(instruct)} --instruct and {len(base)} --base; give each instruct model its base, or none"
        )
    data, judge = _data(options), _judge(options["shown_by"])
    studies, parts = [], []
    for number, name in enumerate(instruct):
        folder = out if len(instruct) == 1 else out / re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        done = cna(
            name,
            base[number] if base else None,
            data=data,
            out=folder,
            modes=options["modes"] or MODES,
            fraction=options["fraction"],
            judge=judge,
            behaviour=options["behaviour"],
            only_showing=options["only_showing"],
            sensitivity=not options["no_sensitivity"],
            max_new_tokens=options["max_new_tokens"],
            seed=options["seed"],
            template=options["template"],
            dtype=options["dtype"],
            device=options["device"],
            max_rows=options["max_rows"],
            progress=progress,
        )
        studies.append(done)
        parts += [done.text(), f"report: {folder / 'report.html'}"]
    if len(studies) > 1:
        for name, table in aggregate(studies).items():
            text = to_markdown(table)
            slug = name.lower().replace(" ", "_")
            write_atomically(out / f"{slug}.md", lambda path, t=text: path.write_text(t, encoding="utf-8"))
            parts.append(f"{name}, all models\n{text}")
    return "\n\n".join(parts)


def _data(options: Mapping[str, Any]) -> StudyData:
    from ...prompts.benchmarks import load_mmlu, load_xstest

    files = (options["positive"], options["negative"])
    contrast: str | ContrastSet = options["contrast"]
    if files != (None, None):
        if None in files:
            raise InputError("give both --positive FILE and --negative FILE")
        contrast = ContrastSet("files", *(PromptSet.from_file(path, text=options["column"]) for path in files))
    extra: dict[str, PromptSet] = {}
    if options["mmlu"] is not None:
        extra["choices"] = load_mmlu(str(options["mmlu"]))
    if options["xstest"] is not None:
        extra["over_refusal"] = load_xstest(str(options["xstest"]))["safe"]
    n = options["n_prompts"]
    return study_data(contrast, n_behaviour=n, n_benign=max(1, n // 2), n_choices=n, seed=options["seed"], **extra)


def _judge(pattern: str | None) -> Callable[[str], bool]:
    """The refusal judge, or whether a response matches a regular expression (case is ignored)."""
    if pattern is None:
        return is_refusal
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--shown-by {pattern!r} is no regular expression: {error}") from error

    def shown(response: str) -> bool:
        return compiled.search(response) is not None

    shown.__name__ = f"matches {pattern}"
    return shown

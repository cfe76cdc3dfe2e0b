"""A finished study is read from its folder: the same settings again cost seconds and load no model.

When a study is done, `finished.json` says with which settings and which files. The same asked again is read; anything
else is run, and continues with what was measured.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

from .. import __version__
from ..artifacts import load_json, machine, save_json
from ..checks import check_arguments
from ..errors import InputError, LoadError
from ..options import command_line
from ..written import writing_into
from .study import Study

logger = logging.getLogger(__name__)
FILE = "finished.json"
P = ParamSpec("P")


def kept(name: str, settings: Callable[[], Any]) -> Callable[[Callable[P, Study]], Callable[P, Study]]:
    """A decorator of a study's `run`: a folder that is finished with these settings is read, all else run and saved.

    `settings` makes the default ones. What `run` returns gets its command line, hardware and seconds. A run that is
    given objects (models, prompts) beside its settings is never read and never marked, since its folder cannot say what
    they were.
    """

    def decorate(run: Callable[P, Study]) -> Callable[P, Study]:
        @wraps(run)
        def whole(*args: P.args, **options: P.kwargs) -> Study:
            asked = signature(run).bind(*args, **options)
            asked.apply_defaults()
            given = dict(asked.arguments)
            out, told = given.pop("out"), given.pop("settings") or settings()
            given.pop("progress")
            own = any(one is not None for one in given.values())
            found = None if own or out is None or differences(out, name, told) != {} else _read(Path(out))
            if found is not None:
                return found
            if out is None:
                return timed(args, options, told)
            unmark(out)
            # What a run of other settings saved into this folder, also into folders of its models, is taken away.
            with writing_into(out, only=True, gathers=True):
                study = timed(args, options, told)
                logger.info("%s", study.save(out))
            if not own:
                save_json(Path(out) / FILE, facts(name, told))
            return study

        def timed(args: Any, options: Any, told: Any) -> Study:
            started = time.monotonic()
            study = run(*args, **options)
            command = command_line(name if name == "demo" else f"study {name}", told)
            study.info.update(command=command, hardware=machine(), seconds=round(time.monotonic() - started))
            return study

        return whole

    return decorate


def _read(out: Path) -> Study | None:
    try:
        study = Study.load(out)
    except LoadError as error:
        logger.warning("%s is run again: %s", out, error)
        return None
    logger.info("%s is finished with these settings; read from there", out)
    return study


def facts(name: str, settings: Any) -> dict[str, Any]:
    """What a finished study depends on: its settings, the content of the files they name, and the version."""
    told = {one.name: plain(getattr(settings, one.name)) for one in fields(settings)}
    return {"study": name, "version": __version__, **told, "files": _files(told.values())}


def _files(values: Any) -> dict[str, str]:
    """{path: digest} of every file that the settings name; of a folder, the names, sizes and times of its files."""
    found: dict[str, str] = {}
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            # A published set's file is named as in "xstest=FILE".
            for text in (one, one.partition("=")[2]) if isinstance(one, str) else ():
                if text and len(text) < 4096 and Path(text).exists():
                    found[text] = _digest(Path(text))
    return found


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, or of what files a folder has."""
    if path.is_file():
        content = path.read_bytes()
    else:
        inside = sorted(part for part in path.rglob("*") if part.is_file())
        content = repr([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in inside]).encode()
    return hashlib.sha256(content).hexdigest()


def differences(out: str | Path, name: str, settings: Any) -> dict[str, tuple[Any, Any]] | None:
    """{fact: (finished with, asked for)} where a finished folder differs; {} where all is the same; None if unfinished.

    A folder whose mark cannot be read is not finished.
    """
    try:
        known = load_json(Path(out) / FILE)
    except LoadError:
        return None
    if not isinstance(known, dict):
        return None
    # What JSON makes of a value is compared, and a fact that only one side has differs too.
    asked = facts(name, settings)
    return {key: (known.get(key), asked.get(key)) for key in {**asked, **known} if known.get(key) != asked.get(key)}


def unmark(out: str | Path) -> None:
    """Let a folder count as unfinished, so that a run into it runs."""
    (Path(out) / FILE).unlink(missing_ok=True)


def check_same(out: str | Path, name: str, settings: Any) -> None:
    """Raise `InputError` where a folder holds a finished study of other settings, with what differs."""
    found = differences(out, name, settings)
    if found:
        changed = [f"{key} was {was!r}, now {now!r}" for key, (was, now) in found.items() if key != "files"]
        files = [set((one or {}).items()) for one in found.get("files", ())]
        other = sorted({path for path, _ in set.symmetric_difference(*files)}) if files else []
        said = "; ".join([*changed, *(f"the content of {path} changed" for path in other)][:6])
        raise InputError(
            f"{str(out)!r} holds a finished study with other settings ({said}); give another --out, or --again to run "
            "into it: what was measured is used where it is the same, tables, figures and the report are replaced"
        )


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, (Path, date)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (tuple, list)) else value


check_arguments(__name__)

"""A figure as the call that draws it, so that it is drawn again from a folder, at any size, without a model.

`draw("shares", summary, "outcome", title="…")` notes a function of this package and what it is given; `.figure()`
calls it. `save_drawings` writes the calls as JSON and what they are given (tables, scores, circuits) beside them, each
once; `load_drawings` reads them back, and both draw the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import isfunction
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..artifacts import load_document, load_table, plain_value, save_document, save_table
from ..checks import check_arguments
from ..errors import InputError, LoadError, MechsurgeryError
from ..reading import Field, check_object, file_digest, readable
from ..units import Circuit, UnitScores
from ..writing import write_atomically
from .harmless import harmless
from .layout import on_screen

#: The file of the calls, and the folder of what they are given.
FILE, DATA = "drawings.json", "drawn"
_KINDS: dict[str, tuple[type, str]] = {
    "table": (pd.DataFrame, "parquet"),
    "scores": (UnitScores, "safetensors"),
    "circuit": (Circuit, "safetensors"),
}
#: The names that files in it have.
_OWN = re.compile(r'"file": "([0-9a-f]{24}\.(?:parquet|safetensors))"')
#: Marks a value of a kind that JSON does not have.
_MARK = "$"


@dataclass(frozen=True, eq=False)
class Drawing:
    """A function of `mechsurgery.plots` by its name, and what it is given."""

    function: str
    given: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def figure(self) -> go.Figure:
        """Draw it. Raises `InputError` for a function that this package does not have, or that cannot draw this."""
        from .. import plots

        if self.function == _FINISHED:
            with _drawn(_FINISHED):
                return _finished(*self.given)
        # What was saved in a folder may be somebody else's: it may draw, and do nothing else.
        known = self.function in plots.__all__ and getattr(plots, self.function)
        if not isfunction(known) or known.__annotations__.get("return") != "go.Figure":
            raise InputError(f"no figure {self.function!r} in mechsurgery.plots; it may be of another version")
        with _drawn(self.function):
            return known(*self.given, **self.options)


_FINISHED = "a figure as it is"


def _finished(body: Any) -> go.Figure:
    """A figure from its JSON, which may be somebody else's: harmless, and of a layout that can be read."""
    figure = harmless(go.Figure(body))
    on_screen(figure)
    return figure


@contextmanager
def _drawn(function: str) -> Iterator[None]:
    """Within it, what cannot be drawn from what was given is an `InputError`."""
    try:
        yield
    except MechsurgeryError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{function!r} cannot draw what it is given ({type(error).__name__}: {said})") from error


def draw(function: str, /, *given: Any, **options: Any) -> Drawing:
    """The call of a function of `mechsurgery.plots`, drawn when it is asked for."""
    return Drawing(function, given, options)


def as_drawing(figure: go.Figure | Drawing) -> Drawing:
    """A drawing as it is, and a finished figure as one that can be saved but not drawn anew."""
    return figure if isinstance(figure, Drawing) else Drawing(_FINISHED, (json.loads(figure.to_json()),))


def comparison_drawings(scores: Mapping[str, UnitScores], circuits: Mapping[str, Circuit]) -> dict[str, Drawing]:
    """Layer profile, scores by layer, scatter of neurons and overlap of two models, by name."""
    named = dict(circuits) if set(circuits) <= set(scores) else None
    return {
        "layer_profile": draw("circuit_profile", dict(circuits)),
        "score_layers": draw("layer_distribution", dict(scores), named),
        "neuron_scatter": draw("neuron_scatter", *scores.values(), circuits=dict(circuits)),
        "overlap": draw("overlap", dict(circuits)),
    }


def save_drawings(
    folder: str | Path, drawings: Mapping[str, Drawing], captions: Mapping[str, str] | None = None
) -> Path:
    """Write `drawings.json` and the folder `drawn` with what the calls are given."""
    folder = Path(folder)
    content = {
        name: {
            "function": one.function,
            "given": _plain(list(one.given), folder / DATA),
            "options": _plain(dict(one.options), folder / DATA),
            "caption": (captions or {}).get(name, ""),
        }
        for name, one in drawings.items()
    }
    old = (folder / FILE).read_text(encoding="utf-8", errors="replace") if (folder / FILE).is_file() else ""
    path = save_document(folder / FILE, "drawings", content)
    # What an earlier run into this folder was drawn from is drawn no more.
    for name in set(_OWN.findall(old)) - set(_OWN.findall(path.read_text(encoding="utf-8"))):
        (folder / DATA / name).unlink(missing_ok=True)
    return path


def load_drawings(folder: str | Path) -> tuple[dict[str, Drawing], dict[str, str]]:
    """What `save_drawings` wrote: the drawings and those captions that are not empty, by name.

    Raises `LoadError` where the folder has none, or where something that is drawn is missing or damaged.
    """
    folder = Path(folder)
    hint = "give the folder of a finished study, evaluation or comparison"
    if not (folder / FILE).is_file():
        raise LoadError(f"no drawings in {str(folder)!r}; {hint}")
    content = load_document(folder / FILE, "drawings", None, hint, finite=False)
    fields = {"function": str, "given": list[Any], "options": dict[str, Any], "caption": Field(str, needed=False)}
    known: dict[str, Any] = {}
    read = partial(_read, folder=folder / DATA, known=known)
    with readable(folder / FILE, "drawings"):
        for name, one in content.items():
            check_object(one, fields, f"{_file_name(name)!r}, which is not what save_drawings writes,")
        drawings = {
            name: Drawing(one["function"], tuple(read(one["given"])), read(one["options"]))
            for name, one in content.items()
        }
        return drawings, {name: one["caption"] for name, one in content.items() if one.get("caption")}


def _file_name(name: str) -> str:
    """A name that files can have, as they are in the folder itself. Raises `LoadError` for a path."""
    plain = isinstance(name, str) and Path(name).name == name and name not in ("", "..") and len(name) <= 100
    if not plain or not name.isprintable() or "\\" in name:
        raise LoadError(f"{name!r} leads out of the folder; drawings and what they are given are named by plain names")
    return name


def _plain(value: Any, folder: Path) -> Any:
    """A value as JSON; tables, scores and circuits become files named by their content."""
    for kind, (of_kind, ending) in _KINDS.items():
        if isinstance(value, of_kind):
            return {_MARK: kind, "file": _write(value, folder, ending)}
    if isinstance(value, tuple):
        return {_MARK: "tuple", "items": [_plain(one, folder) for one in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(_MARK) for key in value):
            return {key: _plain(one, folder) for key, one in value.items()}
        return {_MARK: "dict", "items": [[_plain(key, folder), _plain(one, folder)] for key, one in value.items()]}
    if isinstance(value, (list, range)):
        return [_plain(one, folder) for one in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else _plain(plain_value(value), folder)


def _write(value: Any, folder: Path, ending: str) -> str:
    """Write a value under the digest of its content, once."""
    write: Callable[[Path], Any] = partial(_table, value) if isinstance(value, pd.DataFrame) else value.save
    with tempfile.TemporaryDirectory() as inside:
        scratch = Path(inside) / f"new.{ending}"
        write(scratch)
        content = scratch.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()[:24]}.{ending}"
    write_atomically(folder / name, lambda path: path.write_bytes(content))
    return name


def _table(table: pd.DataFrame, path: Path) -> None:
    save_table(path, table)


def _read(value: Any, *, folder: Path, known: dict[str, Any]) -> Any:
    read = partial(_read, folder=folder, known=known)
    if isinstance(value, list):
        return [read(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {key: read(one) for key, one in value.items()}
    if kind == "tuple":
        return tuple(read(one) for one in value["items"])
    if kind == "dict":
        return {read(key): read(one) for key, one in value["items"]}
    if value["file"] not in known:
        known[value["file"]] = _load(kind, folder / _file_name(value["file"]))
    return known[value["file"]]


def _load(kind: str, path: Path) -> Any:
    with readable(path, "what a figure is drawn from"):
        if file_digest(path)[:24] != path.stem:
            raise LoadError(f"{str(path)!r}, which a figure is drawn from, is not what was written")
        return load_table(path) if kind == "table" else _KINDS[kind][0].load(path)  # type: ignore[attr-defined]


check_arguments(__name__, leave=("Drawing.figure",))

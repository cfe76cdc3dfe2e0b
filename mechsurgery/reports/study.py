"""What every study returns, how it is written and read back: tables, drawings, rows, located units, the report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..artifacts import load_document, load_table, save_document, save_table, write_text
from ..checks import check_arguments
from ..deltas import WeightDelta
from ..directions import Direction
from ..errors import LoadError
from ..evaluation import Results
from ..plots import Drawing, export_all, load_drawings, save_drawings, write_page
from ..reading import Field, check_object, file_digest, readable
from ..safe_text import csv_text, latex_table, markdown_table
from ..units import Circuit, UnitScores
from ..written import writing_into
from .page import Page, sections

#: The file of a study's facts, and of what was saved where.
STUDY = "study.json"
#: What an artefact may be, by the name of its class.
_ARTEFACTS: dict[str, Any] = {one.__name__: one for one in (Circuit, Direction, UnitScores, WeightDelta)}
#: What `study.json` says of what was saved.
_SAVED = {
    "tables": dict[str, str],
    "results": list[str],
    "artefacts": dict[str, str],
    "quiet": list[str],
    "page": dict[str, Any],
    "digests": Field(dict[str, str], needed=False),
}


@dataclass(frozen=True, eq=False)
class Study:
    """Everything a study measured: tables and drawings by name, results, artefacts that save themselves, and how.

    `drawings` are figures as calls (`figures` has them drawn), `results` are results or plain tables of rows,
    `artefacts` circuits, scores or deltas, `info` has at least a `title`, `page` is what the report says, and tables
    whose name begins with one of `quiet` are left out of `text`.
    """

    tables: dict[str, pd.DataFrame]
    drawings: dict[str, Drawing]
    results: dict[str, Any]
    artefacts: dict[str, Any]
    info: dict[str, Any]
    page: Page
    quiet: tuple[str, ...] = field(default=("Figure", "Layer", "Trade"), kw_only=True)
    captions: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        """The drawings, drawn."""
        return {name: drawing.figure() for name, drawing in self.drawings.items()}

    def text(self) -> str:
        """The verdict and the main tables as plain text."""
        shown = {name: table for name, table in self.tables.items() if not name.startswith(self.quiet)}
        return "\n\n".join([self.page.verdict, *(f"{name}\n{markdown_table(table)}" for name, table in shown.items())])

    def save(self, out: str | Path) -> str:
        """Write all of it, so that `load` reads it back without a model, and say what was written.

        Tables are written as CSV, Markdown and LaTeX to read and as Parquet without loss; beside them results with
        their prompts, artefacts, what figures are drawn from, the figures, and `report.html`. What an earlier study
        with other settings wrote into the folder, and this one does not, is removed (see `written`).
        """
        with writing_into(out, only=True):
            return self._save(Path(out))

    def _save(self, out: Path) -> str:
        write_tables(out / "tables", self.tables)
        for name, rows in self.results.items():
            _save_rows(rows, out / "results" / slug(name))
        for name, artefact in self.artefacts.items():
            artefact.save(out / "circuits" / slug(name))
        save_drawings(out, self.drawings, self.captions)
        files = {title: table_stem(title) for title in self.tables}
        kinds = {name: type(one).__name__ for name, one in self.artefacts.items()}
        facts = {"tables": files, "results": list(self.results), "artefacts": kinds, "quiet": self.quiet}
        stored = [out / "tables" / f"{stem}.parquet" for stem in files.values()]
        facts["digests"] = {path.name: file_digest(path) for path in stored}
        save_document(out / STUDY, "study", {**self.info, "saved": {**facts, "page": self.page.facts()}})
        return self.report(out)

    def report(self, out: str | Path, figures: str | Path | None = None, **export: Any) -> str:
        """Draw the figures into `out/figures` (or a folder of their own) and write `out/report.html`."""
        out = Path(out)
        captions = {name: text for name, text in self.captions.items() if name in self.drawings}
        written = export_all(self.figures, out / "figures" if figures is None else figures, captions, **export)
        page = sections(self.page, self.info, self.tables, self.figures, self.captions)
        report = write_page(out / "report.html", self.info["title"], page)
        return f"{written}\n{len(self.tables)} tables and the report written; open {report}"

    @classmethod
    def load(cls, out: str | Path) -> Study:
        """Read what `save` wrote, without a model.

        Raises `LoadError` where the folder holds no study, or one of before tables were saved without loss.
        """
        out = Path(out)
        hint = "give the folder that --out was given, or run the study again with the same --out"
        info = load_document(out / STUDY, "study", None, hint, finite=False)
        saved = info.pop("saved", None)
        if saved is None:
            raise LoadError(
                f"the study at {str(out)!r} was written before studies kept all they are drawn from; run it again with "
                "the same --out: what was measured is not measured again"
            )
        check_object(saved, _SAVED, f"'saved' in {str(out / STUDY)!r}")
        digests = saved.get("digests", {})
        tables = {title: _load_table(out / "tables", stem, digests) for title, stem in saved["tables"].items()}
        results = {name: _load_rows(out / "results" / slug(name)) for name in saved["results"]}
        located = out / "circuits"
        with readable(out / STUDY, "a study"):
            artefacts = {name: _ARTEFACTS[kind].load(located / slug(name)) for name, kind in saved["artefacts"].items()}
            page, quiet = Page.of(saved["page"]), tuple(saved["quiet"])
        drawings, captions = load_drawings(out)
        return cls(tables, drawings, results, artefacts, info, page, quiet=quiet, captions=captions)


def _load_table(folder: Path, stem: str, digests: Mapping[str, str]) -> pd.DataFrame:
    """A table of a study, where its file is the one that was written."""
    path = folder / f"{stem}.parquet"
    if slug(stem) != stem:
        raise LoadError(f"{stem[:80]!r} is no name of a table; tables are named by plain names")
    with readable(path, "a table of a study"):
        if digests and file_digest(path) != digests.get(path.name):
            raise LoadError(f"{str(path)!r} is not what was written; run the study again with the same --out")
        return load_table(path)


def _save_rows(rows: Any, path: Path) -> None:
    """Results in a folder of their own, a plain table as Parquet."""
    if isinstance(rows, pd.DataFrame):
        save_table(path.with_name(f"{path.name}.parquet"), rows)
    else:
        rows.save(path)


def _load_rows(path: Path) -> Any:
    table = path.with_name(f"{path.name}.parquet")
    return load_table(table) if table.is_file() else Results.load(path)


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every table as CSV, Markdown, LaTeX and Parquet, named by what stands before the colon of its title."""
    for name, table in tables.items():
        stem = table_stem(name)
        forms = {"csv": csv_text(table), "md": markdown_table(table), "tex": latex_table(table, name)}
        for ending, text in forms.items():
            write_text(folder / f"{stem}.{ending}", text)
        save_table(folder / f"{stem}.parquet", table.rename(columns=str))


def table_stem(title: str) -> str:
    """The file name of a table, without an ending: what stands before the colon of its title."""
    return slug(title.split(":")[0])


def slug(name: str) -> str:
    """A name as a file name.

    >>> slug("Table 1, as published")
    'table_1_as_published'
    """
    return re.sub(r"[^\w.-]+", "_", name.lower()).strip("_")


def responses(results: Results, intervention: str | None, *, n: int = 12, **how: Any) -> pd.DataFrame:
    """A few prompts with their responses before and after an intervention, flips first, as a plain table."""
    return pd.DataFrame(results.compare(intervention, n=n, **how))


check_arguments(__name__)

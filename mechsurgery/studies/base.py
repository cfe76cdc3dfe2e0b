"""What every study returns and how it is written: tables, figures, all rows, located units, and the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..artifacts import save_json, write_atomically, write_text
from ..plots import Section, export_all, write_page


@dataclass(frozen=True, eq=False)
class Study:
    """Everything a study measured: tables and figures by name, results, artefacts that save themselves, and how.

    `results` are results or plain tables of rows, `artefacts` circuits, scores or deltas, `info` has at least a
    `title`, `sections` make the page of the report, and tables whose name begins with one of `quiet` are left out of
    `text`.
    """

    tables: dict[str, pd.DataFrame]
    figures: dict[str, go.Figure]
    results: dict[str, Any]
    artefacts: dict[str, Any]
    info: dict[str, Any]
    sections: tuple[Section, ...] = ()
    quiet: tuple[str, ...] = field(default=("Figure", "Layer", "Trade"), kw_only=True)
    captions: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def text(self) -> str:
        """The main tables as plain text."""
        shown = {name: table for name, table in self.tables.items() if not name.startswith(self.quiet)}
        return "\n\n".join(f"{name}\n{to_markdown(table)}" for name, table in shown.items())

    def save(self, out: str | Path) -> str:
        """Write tables (CSV, Markdown, LaTeX), figures, rows, artefacts and `report.html`; say what was written."""
        out = Path(out)
        write_tables(out / "tables", self.tables)
        for name, rows in self.results.items():
            _save_rows(rows, out / "results" / slug(name))
        for name, artefact in self.artefacts.items():
            artefact.save(out / "circuits" / slug(name))
        save_json(out / "study.json", self.info)
        written = export_all(self.figures, out / "figures", self.captions)
        report = write_page(out / "report.html", self.info["title"], self.sections)
        return f"{written}\n{len(self.tables)} tables and the report written; open {report}"


def _save_rows(rows: Any, path: Path) -> None:
    """Results in a folder of their own, a plain table as Parquet."""
    if isinstance(rows, pd.DataFrame):
        write_atomically(path.with_name(f"{path.name}.parquet"), lambda target: rows.to_parquet(target, index=False))
    else:
        rows.save(path)


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every table as CSV, Markdown and LaTeX, named by what stands before the colon of its title."""
    for name, table in tables.items():
        forms = {"csv": table.to_csv(index=False), "md": to_markdown(table), "tex": to_latex(table, name)}
        for ending, text in forms.items():
            write_text(folder / f"{slug(name.split(':')[0])}.{ending}", text)


def slug(name: str) -> str:
    """A name as a file name.

    >>> slug("Table 1, as published")
    'table_1_as_published'
    """
    return re.sub(r"[^\w.-]+", "_", name.lower()).strip("_")


def to_markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, for notes and issues."""
    return table.to_markdown(index=False, floatfmt=".3g")


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A table as LaTeX (booktabs), escaped, for a paper."""
    return table.rename(columns=str).to_latex(index=False, escape=True, float_format="%.3g", caption=caption)


def settings_table(info: Mapping[str, Any], keep: Iterable[str]) -> pd.DataFrame:
    """How a study was made, as rows of setting and value."""
    return pd.DataFrame([{"setting": name, "value": str(info[name])} for name in keep if name in info])

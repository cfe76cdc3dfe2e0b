"""One self-contained HTML page from headings, paragraphs, tables and figures; all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..artifacts import write_text
from .heatmaps import TokenHeatmaps

_STYLE = """
body{font-family:Helvetica,Arial,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#222;line-height:1.45}
h1{font-size:1.7em}h2{margin-top:2em;border-bottom:1px solid #ddd;padding-bottom:.2em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85em;margin:.8em 0}
th,td{padding:.3em .6em;text-align:left;border-bottom:1px solid #e5e5e5;vertical-align:top;white-space:pre-wrap}
th{background:#f5f5f5}td.num{text-align:right;white-space:nowrap}
.held{color:#00664d}.failed{color:#a13d00;font-weight:bold}nav a{margin-right:1em}
.figures{display:flex;flex-wrap:wrap;gap:1.5em}figure{margin:1em 0}figcaption{color:#555;font-size:.9em;max-width:680px}
"""
_CLASSES = {"held": "held", "did not hold": "failed"}


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then tables, figures and token heat maps, each by its caption."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    heatmaps: Mapping[str, TokenHeatmaps] = field(default_factory=dict)


def write_page(path: str | Path, title: str, sections: Iterable[Section]) -> Path:
    """Write the page. The scripts that draw are in it once, so it needs no network and no other file."""
    from plotly.offline import get_plotlyjs

    sections = list(sections)
    scripts = f"<script>{get_plotlyjs()}</script>" if any(section.figures for section in sections) else ""
    scripts += TokenHeatmaps.script() if any(section.heatmaps for section in sections) else ""
    links = "".join(f"<a href='#s{i}'>{html.escape(s.title)}</a>" for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{scripts}</head>"
        f"<body><h1>{html.escape(title)}</h1><nav>{links if len(sections) > 1 else ''}</nav>{body}</body></html>"
    )
    return write_text(path, page)


def _section(number: int, section: Section) -> str:
    parts = [f"<h2 id='s{number}'>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    for caption, table in section.tables.items():
        parts.append(f"{_heading(caption)}<div class='scroll'>{_table(table)}</div>")
    drawn = [_figure(f"f{number}-{i}", *item) for i, item in enumerate(section.figures.items())]
    parts += ["<div class='figures'>", *drawn, "</div>"] if drawn else []
    for caption, maps in section.heatmaps.items():
        parts.append(f"{_heading(caption)}{maps.fragment()}")
    return "".join(parts)


def _heading(caption: str) -> str:
    return f"<h3>{html.escape(caption)}</h3>" if caption else ""


def _figure(name: str, caption: str, figure: go.Figure) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name)
    return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(table: pd.DataFrame) -> str:
    """A table as HTML: every cell escaped, numbers to three significant digits."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    cells = ("".join(map(_cell, values)) for values in table.itertuples(index=False, name=None))
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td class='num'>{value:.3g}</td>"
    kind = _CLASSES.get(str(value), "")
    return f"<td class='{kind}'>{html.escape(str(value))}</td>" if kind else f"<td>{html.escape(str(value))}</td>"

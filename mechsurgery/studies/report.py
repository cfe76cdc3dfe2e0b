"""One self-contained HTML page from headings, sentences, tables and figures; all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import write_atomically
from ..plots.heatmaps import TokenHeatmaps

_STYLE = """
body{font-family:Helvetica,Arial,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#222;line-height:1.45}
h1{font-size:1.7em}h2{margin-top:2em;border-bottom:1px solid #ddd;padding-bottom:.2em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85em;margin:.8em 0}
th,td{padding:.3em .6em;text-align:left;border-bottom:1px solid #e5e5e5;vertical-align:top;white-space:pre-wrap}
th{background:#f5f5f5}td.num{text-align:right;white-space:nowrap}
.held{color:#00664d}.failed{color:#a13d00;font-weight:bold}nav a{margin-right:1em}
figure{margin:1em 0}figcaption{color:#555;font-size:.9em}pre{white-space:pre-wrap;background:#f7f7f7;padding:.6em}
"""
_CLASSES = {"held": "held", "did not hold": "failed"}


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then tables, figures and token heat maps with their captions."""

    title: str
    text: tuple[str, ...] = ()
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    heatmaps: dict[str, TokenHeatmaps] = field(default_factory=dict)


def write_report(path: str | Path, title: str, sections: Iterable[Section]) -> Path:
    """Write the page. The plotting scripts are in it once, so it needs no network and no other file."""
    from plotly.offline import get_plotlyjs

    sections = list(sections)
    heat = TokenHeatmaps.script() if any(section.heatmaps for section in sections) else ""
    links = "".join(f"<a href='#s{i}'>{html.escape(s.title)}</a>" for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script>{heat}</head>"
        f"<body><h1>{html.escape(title)}</h1><nav>{links}</nav>{body}</body></html>"
    )
    return write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))


def _section(number: int, section: Section) -> str:
    parts = [f"<h2 id='s{number}'>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    for caption, table in section.tables.items():
        parts.append(f"<h3>{html.escape(caption)}</h3><div class='scroll'>{table_html(table)}</div>")
    for caption, figure in section.figures.items():
        drawn = figure.to_html(full_html=False, include_plotlyjs=False)
        parts.append(f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>")
    for caption, maps in section.heatmaps.items():
        parts.append(f"<h3>{html.escape(caption)}</h3>{maps.fragment()}")
    return "".join(parts)


def table_html(table: pd.DataFrame) -> str:
    """A table as HTML: every cell escaped, numbers to three significant digits."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = []
    for values in table.itertuples(index=False, name=None):
        rows.append("<tr>" + "".join(_cell(value) for value in values) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td class='num'>{value:.3g}</td>"
    text = html.escape(str(value))
    kind = _CLASSES.get(str(value), "")
    return f"<td class='{kind}'>{text}</td>" if kind else f"<td>{text}</td>"

"""One self-contained HTML page from headings, paragraphs, tables and figures; all text is escaped.

The page asks no network for anything, and its content-security policy says so: the browser runs only the scripts that
are written here, each named by its hash, whatever the texts on the page may hold. Figures are `harmless` first.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..artifacts import write_text
from ..checks import check_arguments
from ..safe_text import html_text
from .harmless import evaluated, harmless
from .heatmaps import TokenHeatmaps
from .layout import on_screen

_STYLE = """
body{font-family:Helvetica,Arial,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#222;background:#fff;
line-height:1.45}
h1{font-size:1.7em}h2{margin-top:2em;border-bottom:1px solid #ddd;padding-bottom:.2em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85em;margin:.8em 0}
th,td{padding:.3em .6em;text-align:left;border-bottom:1px solid #e5e5e5;vertical-align:top;white-space:pre-wrap;
overflow-wrap:break-word;max-width:28em;unicode-bidi:plaintext}
th{background:#f5f5f5}td.num{text-align:right;white-space:nowrap}
.held{color:#00664d}.failed{color:#a13d00;font-weight:bold}nav{display:flex;flex-wrap:wrap;gap:.2em 1em}
details{margin:.8em 0}summary{cursor:pointer;font-weight:bold}summary small{font-weight:normal;color:#666}
.lead{border-left:4px solid #888;padding:.1em 1em}.lead p:first-child{font-size:1.2em}
.lead.held{border-color:#00664d;color:inherit}.lead.failed{border-color:#a13d00;font-weight:inherit;color:inherit}
code{background:#f5f5f5;padding:.2em .4em;overflow-wrap:anywhere}
.figures{display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start}figure{margin:1em 0;max-width:100%}
figure>div{overflow-x:auto;overflow-y:hidden}
figcaption{color:#555;font-size:.9em;max-width:680px}
"""
_CLASSES = {"held": "held", "did not hold": "failed"}
#: Draws every figure of the page, each from the JSON that stands beside its place.
_DRAW = """
document.querySelectorAll('script[type="application/json"][data-figure]').forEach(function (source) {
  var figure = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.figure, figure.data, figure.layout, {displaylogo: false, showTips: false});
});
"""
_NONE = "'none'"
_SIZE = (700, 450)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then figures, tables and token heat maps, each by its caption.

    Tables are folded unless `opened`. A `lead` is what the page opens with: its first paragraph is large, and coloured
    where it begins with a verdict.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    heatmaps: Mapping[str, TokenHeatmaps] = field(default_factory=dict)
    opened: bool = field(default=False, kw_only=True)
    lead: bool = field(default=False, kw_only=True)


def write_page(path: str | Path, title: str, sections: Iterable[Section]) -> Path:
    """Write the page. The scripts that draw are in it once, so it needs no network and no other file."""
    from plotly.offline import get_plotlyjs

    sections = list(sections)
    drawn, mapped = any(one.figures for one in sections), any(one.heatmaps for one in sections)
    head = (f"<script>{get_plotlyjs()}</script>" if drawn else "") + (TokenHeatmaps.script() if mapped else "")
    evaluates = any(evaluated(figure) for one in sections for figure in one.figures.values())
    links = "".join(f"<a href='#s{i}'>{html_text(s.title)}</a>" for i, s in enumerate(sections) if s.title)
    maps = [{caption: one.fragment() for caption, one in section.heatmaps.items()} for section in sections]
    if len(sections) == 1 and sections[0].title == title:
        sections = [replace(sections[0], title="")]
    body = "".join(_section(i, section, own) for i, (section, own) in enumerate(zip(sections, maps)))
    last = f"<script>{_DRAW}</script>" if drawn else ""
    scripts = [head, last, *(fragment for own in maps for fragment in own.values())]
    shown = f"<h1>{html_text(title)}</h1><nav>{links if len(sections) > 1 else ''}</nav>{body}{last}"
    head = f"<title>{html_text(title)}</title><style>{_STYLE}</style>{head}"
    return write_text(path, _document(head, shown, _policy(_hashes(scripts), evaluates)))


def figure_page(figure: go.Figure, source: str) -> str:
    """One figure as a whole document whose plotly is the file or address `source`, or inside it for ""."""
    from plotly.offline import get_plotlyjs

    drawn = _figure("figure", "", figure)
    # The number that allows its two scripts is known to nobody who wrote a text into the figure.
    number = hashlib.sha256(drawn.encode()).hexdigest()[:32]
    plotly = f"src='{html_text(source)}'>" if source else f">{get_plotlyjs()}"
    head = f"<style>body{{margin:0}}figure{{margin:0}}</style><script nonce='{number}' {plotly}</script>"
    return _document(
        head, f"{drawn}<script nonce='{number}'>{_DRAW}</script>", _policy([f"nonce-{number}"], evaluated(figure))
    )


def _document(head: str, body: str, policy: str) -> str:
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>"
        f"{head}</head><body>{body}</body></html>"
    )


def _hashes(parts: Sequence[str]) -> list[str]:
    """Every script of these parts, as a policy names it."""
    scripts = dict.fromkeys(script for part in parts for script in _SCRIPT.findall(part))
    return [f"sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}" for one in scripts]


def _policy(scripts: Sequence[str], evaluates: bool) -> str:
    """What a page may do: run these scripts, ask nobody for anything, and nothing else.

    Where a figure `evaluates`, plotly may make functions of its own besides (WebGL's points need it); a text that got
    on the page as markup runs nothing even so.
    """
    allowed = " ".join([*(f"'{one}'" for one in scripts), *(["'unsafe-eval'"] if evaluates else [])])
    return (
        f"default-src 'none'; script-src {allowed or _NONE}; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; connect-src 'none'; frame-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _section(number: int, section: Section, heatmaps: Mapping[str, str]) -> str:
    parts = [f"<h2 id='s{number}'>{html_text(section.title)}</h2>"] if section.title else []
    words = "".join(_paragraph(text) for text in section.paragraphs)
    if section.lead:
        verdict = str(next(iter(section.paragraphs), "")).partition(":")[0].lower()
        kind = _CLASSES.get(verdict, "")
        words = f"<div class='lead {kind}'>{words}</div>"
    parts.append(words)
    drawn = [
        _figure(f"f{number}-{i}", caption, on_screen(harmless(figure)))
        for i, (caption, figure) in enumerate(section.figures.items())
    ]
    parts += ["<div class='figures'>", *drawn, "</div>"] if drawn else []
    parts += [_folded(caption, table, section.opened) for caption, table in section.tables.items()]
    parts += [f"{_heading(caption)}{fragment}" for caption, fragment in heatmaps.items()]
    return "".join(parts)


def _paragraph(text: str) -> str:
    if text.startswith("$ "):
        return f"<p><code>{html_text(text[2:])}</code></p>"
    return f"<p>{html_text(text)}</p>"


def _heading(caption: str) -> str:
    return f"<h3>{html_text(caption)}</h3>" if caption else ""


def _folded(caption: str, table: pd.DataFrame, opened: bool) -> str:
    rows = f"{len(table)} row{'s' * (len(table) != 1)}"
    summary = f"<summary>{html_text(caption or 'Table')} <small>({rows})</small></summary>"
    return f"<details{' open' * opened}>{summary}<div class='scroll'>{_table(table)}</div></details>"


def _figure(name: str, caption: str, figure: go.Figure) -> str:
    """A place as large as the figure, and what is drawn there as JSON."""
    width, height = figure.layout.width or _SIZE[0], figure.layout.height or _SIZE[1]
    drawn = figure.to_json()
    for character in "<>&\u2028\u2029":
        drawn = drawn.replace(character, f"\\u{ord(character):04x}")
    place = f"<div><div id='{name}' style='width:{width}px;height:{height}px'></div></div>"
    data = f'<script type="application/json" data-figure="{name}">{drawn}</script>'
    said = f"<figcaption>{html_text(caption)}</figcaption>" if caption else ""
    return f"<figure>{place}{data}{said}</figure>"


def _table(table: pd.DataFrame) -> str:
    """A table as HTML: every cell escaped, numbers to three significant digits."""
    head = "".join(f"<th>{html_text(str(name))}</th>" for name in table.columns)
    cells = ("".join(map(_cell, values)) for values in table.itertuples(index=False, name=None))
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td class='num'>{value:.3g}</td>"
    kind = _CLASSES.get(str(value), "")
    return f"<td class='{kind}'>{html_text(str(value))}</td>" if kind else f"<td>{html_text(str(value))}</td>"


check_arguments(__name__)

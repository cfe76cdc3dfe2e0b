"""Figures to files: interactive HTML, JSON, and SVG, PNG or PDF where a browser engine works.

What cannot be written is reported with its reason, never an exception: a missing browser costs a format,
not a result.
"""

from __future__ import annotations

import html
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..artifacts import write_atomically
from ..errors import InputError, listed

logger = logging.getLogger(__name__)

FORMATS = ("html", "json", "svg", "png", "pdf")
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class ExportReport:
    """Paths written, and for each format left out the reason."""

    written: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def export(
    figure: Any,
    stem: str | Path,
    *,
    formats: Sequence[str] = ("html", "json", "svg", "png"),
    width: int = 900,
    height: int | None = None,
    scale: float = 2.0,
    plotlyjs: Literal[True, "cdn", "directory"] = True,
) -> ExportReport:
    """Write a figure as `stem.html`, `stem.json`, … and say what was left out.

    HTML is self-contained; `plotlyjs="directory"` shares one `plotly.min.js` in the folder, "cdn" links it.
    `scale` multiplies the pixels of PNG. Raises `InputError` for an unknown format.
    """
    unknown = [form for form in formats if form not in FORMATS]
    if unknown:
        raise InputError(f"no figure format {listed(unknown)}; choose from {listed(FORMATS)}")
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    report = ExportReport()
    for form in formats:
        path = stem.with_name(f"{stem.name}.{form}")
        if form == "html":
            if plotlyjs == "directory":
                _shared_script(stem.parent)
                text = figure.to_html(include_plotlyjs="plotly.min.js")
            else:
                text = figure.to_html(include_plotlyjs=plotlyjs)
            write_atomically(path, lambda target, t=text: target.write_text(t, encoding="utf-8"))
        elif form == "json":
            write_atomically(path, lambda target: target.write_text(figure.to_json(), encoding="utf-8"))
        else:
            reason = static_export_problem()
            if reason is None:
                size = {"width": width, "height": height or figure.layout.height or 500, "scale": scale}
                reason = _write_static(figure, path, form, size)
            if reason is not None:
                report.skipped[form] = reason
                continue
        report.written.append(path)
    return report


def index(folder: str | Path, entries: Iterable[tuple[str, str]], *, title: str = "mechsurgery figures") -> Path:
    """Write `index.html` that shows every figure page of a folder with its caption (escaped)."""
    sections = "".join(
        f"<figure><iframe src='{html.escape(name, quote=True)}' loading='lazy'></iframe>"
        f"<figcaption>{html.escape(caption)} (<a href='{html.escape(name, quote=True)}'>open</a>)</figcaption></figure>"
        for name, caption in entries
    )
    style = (
        "body{font-family:Helvetica,Arial,sans-serif;max-width:1000px;margin:2em auto;color:#222}"
        "figure{margin:0 0 2em}iframe{width:100%;height:660px;border:1px solid #ddd}figcaption{margin:.4em 0}"
    )
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{style}</style><h1>{html.escape(title)}</h1>{sections}</html>"
    )
    return write_atomically(Path(folder) / "index.html", lambda path: path.write_text(page, encoding="utf-8"))


@cache
def static_export_problem() -> str | None:
    """Why SVG, PNG and PDF cannot be written here, or None where they can.

    Tried once in a process of its own with a time limit, so that a broken browser engine cannot hang us.
    """
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); import plotly.graph_objects as go; "
        "go.Figure().write_image(sys.argv[1], format='svg')"
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "probe.svg"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, str(target)], capture_output=True, text=True, timeout=_PROBE_SECONDS
            )
        except subprocess.TimeoutExpired:
            return f"the browser engine gave no picture within {_PROBE_SECONDS} s"
        if done.returncode == 0 and target.is_file():
            return None
        last = [line for line in done.stderr.strip().splitlines() if line.strip()]
        reason = last[-1].strip() if last else f"the browser engine ended with status {done.returncode}"
        logger.info("static export is not possible: %s", reason)
        return f"{reason} (pip install kaleido, and with kaleido 1 or newer a Chrome or Chromium)"


def _write_static(figure: Any, path: Path, form: str, size: dict[str, Any]) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = figure.to_image(format=form, **size)
    except Exception as error:  # engines fail in many ways; the reason goes to the report
        logger.warning("%s was not written: %s", path, error)
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    write_atomically(path, lambda target: target.write_bytes(picture))
    return None


def _shared_script(folder: Path) -> None:
    from plotly.offline import get_plotlyjs

    path = folder / "plotly.min.js"
    if not path.is_file():
        write_atomically(path, lambda target: target.write_text(get_plotlyjs(), encoding="utf-8"))

"""Figures to files: interactive HTML, JSON, and SVG, PNG or PDF where a browser engine works.

What cannot be written is reported with its reason, never an exception: a missing browser costs a format,
not a result.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go

from ..artifacts import write_text
from ..checks import check_arguments
from ..errors import InputError, listed
from ..writing import check_path, make_folder, write_atomically
from .harmless import harmless
from .layout import AUTO, Preset, on_screen, printed, resized, size_of
from .pages import Section, figure_page, write_page

logger = logging.getLogger(__name__)

FORMATS = ("html", "json", "svg", "png", "pdf")
#: Where `plotlyjs="cdn"` has plotly from.
CDN = "https://cdn.plot.ly/plotly-{}.min.js"
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class ExportReport:
    """Paths written, and for each format left out the reason."""

    written: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def export(
    figure: go.Figure,
    stem: str | Path,
    *,
    formats: Sequence[str] = ("html", "json", "svg", "png"),
    size: Preset | None = None,
    title: str | None = AUTO,
    scale: float = 3.0,
    plotlyjs: Literal[True, "cdn", "directory"] = True,
) -> ExportReport:
    """Write a figure as `stem.html`, `stem.json`, … and say what was left out.

    `size` lays the figure out again ("column", "text", "slide" or "screen"; its own unless given), `title=""` takes
    its title away (as `resized`). HTML is self-contained; `plotlyjs="directory"` shares one `plotly.min.js` in the
    folder, "cdn" links it. SVG and PDF have the printed size; `scale` multiplies the pixels of PNG alone: 3 gives 288
    an inch. Raises `InputError` for an unknown format or size.
    """
    _check_formats(formats)
    stem = check_path(stem)
    make_folder(stem.parent)
    figure = harmless(figure)
    figure = figure if size is None and title == AUTO else resized(figure, size or size_of(figure), title=title)
    report = ExportReport()
    for form in formats:
        path = stem.with_name(f"{stem.name}.{form}")
        if form in ("html", "json"):
            text = figure.to_json() if form == "json" else _html(figure, path.parent, plotlyjs)
            write_text(path, text)
        else:
            drawn = figure if static_export_problem() else printed(figure)
            reason = static_export_problem() or _write_static(drawn, path, form, scale if form == "png" else 1)
            if reason is not None:
                report.skipped[form] = reason
                continue
        report.written.append(path)
    return report


def _check_formats(formats: Sequence[str]) -> None:
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        said = f"no figure format {listed(unknown)}" if unknown else "no figure format was given"
        raise InputError(f"{said}; choose from {listed(FORMATS)}")


def _html(figure: go.Figure, folder: Path, plotlyjs: Literal[True, "cdn", "directory"]) -> str:
    from plotly.offline import get_plotlyjs_version

    if plotlyjs == "directory":
        _shared_script(folder)
        return figure_page(figure, "plotly.min.js")
    return figure_page(figure, CDN.format(get_plotlyjs_version()) if plotlyjs == "cdn" else "")


def export_all(
    figures: Mapping[str, go.Figure],
    folder: str | Path,
    captions: Mapping[str, str] | None = None,
    *,
    title: str = "Figures",
    size: Preset | None = None,
    formats: Sequence[str] = ("html", "json", "svg", "png"),
) -> str:
    """Write every figure in every format that works here, and `index.html` with all of them and their captions.

    With a `size`, the files have it; the page is for a screen. Returns sentences that say what was written, and
    which formats were left out and why.
    """
    shared: dict[str, Any] = {"plotlyjs": "directory", "size": size, "formats": formats}
    reports = [export(figure, Path(folder) / name, **shared) for name, figure in figures.items()]
    named = {name: f"{(captions or {}).get(name, name.replace('_', ' '))} [{name}]" for name in figures}
    shown = {named[name]: on_screen(figure) for name, figure in figures.items()}
    index = write_page(Path(folder) / "index.html", title, [Section("Figures", figures=shown)])
    written = sorted({path.suffix[1:] for report in reports for path in report.written})
    lines = [f"{len(figures)} figures written to {folder} as {', '.join(written)}; open {index}"]
    skipped = {form: why for report in reports for form, why in report.skipped.items()}
    return "\n".join(lines + [f"left out {form}: {why}" for form, why in skipped.items()])


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
        return f"{reason} (pip install 'mechsurgery[images]'; with kaleido 1 or newer also a Chrome or Chromium)"


def _write_static(figure: go.Figure, path: Path, form: str, scale: float) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = {"width": figure.layout.width or 700, "height": figure.layout.height or 480}
            picture = figure.to_image(format=form, scale=scale, **size)
    except Exception as error:  # engines fail in many ways; the reason goes to the report
        logger.warning("%s was not written: %s", path, error)
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    write_atomically(path, lambda target: target.write_bytes(picture))
    return None


def _shared_script(folder: Path) -> None:
    from plotly.offline import get_plotlyjs

    write_text(folder / "plotly.min.js", get_plotlyjs())


check_arguments(__name__)

"""Run the notebooks from top to bottom and keep what they show: `make notebooks`, or with names as arguments.

    python notebooks/execute.py            all of them
    python notebooks/execute.py 03 06      those whose names begin so

What is kept can be read on the web without a script or a network: figures are PNG pictures with their titles as text,
tables and pages of units HTML; the widget of the explorer, which lives only in a running notebook, leaves its text.
"""

from __future__ import annotations

import base64
import html
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
#: What a notebook is run with: figures come as data, nothing is drawn that would only be seen while it runs.
SETTINGS = {
    "PLOTLY_RENDERER": "plotly_mimetype",
    "MECHSURGERY_PROGRESS": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}
FIGURE, WIDGET, PICTURE = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json", "image/png"


def run(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a folder, which is its working directory; raises `CellExecutionError` where a cell fails."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    try:
        options = {"timeout": 300, "store_widget_state": False, "resources": {"metadata": {"path": str(folder)}}}
        return NotebookClient(notebook, **options).execute()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def keep(notebook: Any, folder: Path) -> Any:
    """What is committed: outputs with figures as pictures, and nothing of when or where it was run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell["id"] = {}, f"cell-{number:02d}"
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if FIGURE in data:
                output["data"], output["metadata"] = drawn(data[FIGURE], folder)
    return notebook


def drawn(body: Any, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """A figure as a picture at the size of a screen, sharp on dense ones, and its title; with the width to show it at.

    Raises `RuntimeError` where no picture can be made here.
    """
    import plotly.graph_objects as go

    from mechsurgery import plots

    figure = go.Figure({"data": body["data"], "layout": body["layout"]})
    report = plots.export(figure, folder / "figure", formats=("png",), size="screen", scale=2)
    if report.skipped:
        raise RuntimeError(f"no picture of a figure: {report.skipped['png']}")
    picture = base64.b64encode(report.written[0].read_bytes()).decode("ascii")
    return {PICTURE: picture, "text/plain": title_of(body)}, {PICTURE: {"width": plots.SIZES["screen"].width}}


def title_of(body: Any) -> str:
    """The title of a figure as plain text; figures of this package say in it what was found."""
    title = body["layout"].get("title") or {}
    text = str(title.get("text") or "a figure").replace("\u200b<br>", "").replace("<br>", " ")
    return html.unescape(re.sub(r"</?\w+>", "", text))


def main(wanted: list[str]) -> None:
    """Run those whose names begin with one of `wanted` (none: all) and write them where they were."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if wanted and not path.name.startswith(tuple(wanted)):
            continue
        with tempfile.TemporaryDirectory() as place:
            notebook = keep(run(nbformat.read(path, as_version=4), Path(place)), Path(place))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])

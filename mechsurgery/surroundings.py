"""Where this runs: a notebook, a terminal or neither, and what a notebook's server has to show things with."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

#: Lab extension -> what needs it, and the package that brings it.
EXTENSIONS = {
    "jupyterlab-plotly": ("figures", "plotly"),
    "anywidget": ("widgets such as ms.explore", "anywidget"),
    "@jupyter-widgets/jupyterlab-manager": ("widgets and progress bars", "jupyterlab-widgets"),
}


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


def in_terminal() -> bool:
    """Whether what is written to standard error is seen by somebody."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # none, or closed
        return False


def lab_extension_problem(extension: str = "anywidget") -> str | None:
    """A sentence that says what the notebook's server lacks, or None where it lacks nothing or cannot be known.

    A widget or a figure is drawn by an extension in the environment of the *server*, which may be another one than
    the kernel's: then everything runs, and nothing is shown. The server's environment is known where it started this
    kernel on this machine.
    """
    if not in_notebook():
        return None
    folders = _extension_folders()
    if not folders or any((folder / extension).is_dir() for folder in folders):
        return None
    what, package = EXTENSIONS.get(extension, (f"what {extension!r} shows", extension))
    return (
        f"this notebook's server has no {extension!r}, so {what} will not be shown: pip install {package} in the "
        f"environment that runs the server ({folders[0].parents[2]}), restart it and reload the page"
    )


@cache
def warn_of_missing_extensions() -> None:
    """Log once what the notebook's server lacks to show figures and widgets."""
    for problem in filter(None, map(lab_extension_problem, EXTENSIONS)):
        logger.warning("%s", problem)


def _extension_folders() -> list[Path]:
    """Where the server that started this kernel looks for extensions, its own environment first."""
    server = _server_prefix()
    if server is None:
        return []
    from jupyter_core.paths import jupyter_path

    return [server / "share" / "jupyter" / "labextensions", *map(Path, jupyter_path("labextensions"))]


def _server_prefix() -> Path | None:
    """The environment of the process that started this kernel, where that is a Jupyter server."""
    number = os.environ.get("JPY_PARENT_PID", "")
    if not number.isdigit():
        return None
    try:
        import psutil

        words: list[Any] = psutil.Process(int(number)).cmdline()
    except Exception:  # no psutil, no such process, not allowed to look: then it is not known
        return None
    scripts = [Path(word) for word in words[:2] if Path(word).parent.name in ("bin", "Scripts")]
    jupyter = any("jupyter" in Path(word).name for word in words[:4])
    return scripts[0].parent.parent if scripts and jupyter else None

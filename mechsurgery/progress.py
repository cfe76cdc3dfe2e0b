"""Progress bars that say what is being done, and the one place that decides whether they are shown.

Every `progress=` takes True, False, or None, the default: shown in notebooks and terminals, and not where output goes
to a file, a pipe or a test. The environment variable MECHSURGERY_PROGRESS (1 or 0) decides instead of the default,
e.g. where a notebook is run to be published.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import Any, TypeVar

from .checks import check_arguments
from .safe_text import visible
from .surroundings import in_notebook, in_terminal

T = TypeVar("T")

#: Bars that nobody asked for appear in a notebook only with the first step that ends later than this (seconds), since
#: a trace of each stays in the saved notebook.
DELAY = 0.5
VARIABLE = "MECHSURGERY_PROGRESS"


def is_shown(progress: bool | None) -> bool:
    """Whether bars are shown: as `progress` says, else as the environment variable says, else where somebody looks."""
    if progress is not None:
        return progress
    said = os.environ.get(VARIABLE, "").strip().lower()
    return said not in ("0", "false", "no", "off") if said else in_notebook() or in_terminal()


def progress_bar(
    doing: str, *, shown: bool | None, total: int | None = None, unit: str = "batch", initial: int = 0
) -> Any:
    """A tqdm bar named after what is `doing`, to be updated by hand; nothing of it stays on screen."""
    from tqdm import notebook, std

    here = in_notebook()
    bar: Any = notebook.tqdm if here and find_spec("ipywidgets") is not None else std.tqdm
    delay = DELAY if here and not shown else 0.0
    how = {"unit": unit, "initial": initial, "disable": not is_shown(shown), "delay": delay, "leave": False}
    return bar(total=total, desc=visible(doing), **how)


def with_progress(items: Collection[T], doing: str, *, shown: bool | None, unit: str = "batch") -> Iterator[T]:
    """The items one after the other, beside a bar named after what is `doing` where it is `shown`."""
    with progress_bar(doing, shown=shown, total=len(items), unit=unit) as bar:
        for item in items:
            yield item
            bar.update(1)


check_arguments(__name__, inner=True)

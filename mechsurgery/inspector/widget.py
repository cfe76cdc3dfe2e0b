"""The explorer in Jupyter: the front end of `static/`, joined to a model in the kernel by custom messages."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from typing import Any

from ..checks import check_arguments
from ..errors import MissingExtraError
from ..intervention import Intervention
from ..models.protocol import Model
from ..prompts import ContrastSet
from ..safe_text import html_text, visible
from .catalogue import Catalogue
from .protocol import Conversation
from .report import front_end, styles


def explore(
    model: Model,
    contrast: Any = None,
    circuit: Any = None,
    *,
    base: Model | None = None,
    intervention: Intervention | None = None,
    **options: Any,
) -> Any:
    """Explore the units of a model in Jupyter: a layer plot, a table, each unit's page, and answers under multipliers.

    The widget shows the scores of every localiser on `contrast`, marks the units of `circuit` (a `Circuit`, or what
    `minimal_circuit` found, with its multipliers; it may stand in the place of the contrast) and opens the page of any
    unit at a click. Sliders multiply one unit, a selection or the whole circuit; a prompt of your own is answered by
    the model as it is and as changed, word by word, and by a matched random circuit beside them. The model has hooks
    only during single forward passes, so cells that run in between see it as it was. `options` go to `Catalogue`,
    which measures what the widget shows.

    The value of the last line of a cell is displayed; `.close()` ends it. Raises `MissingExtraError` without the
    notebook extra, before anything is measured.
    """
    kind = _explorer()
    if circuit is None and contrast is not None and not isinstance(contrast, ContrastSet):
        contrast, circuit = None, contrast
    return kind(Catalogue(model, contrast, circuit, base=base, intervention=intervention, **options))


def still(document: dict[str, Any], *, most: int = 12) -> str:
    """What stands for the explorer where no kernel runs, as in a notebook on the web: its first units, as HTML."""
    scores = [one["name"] for one in document["scores"]]
    head = ["unit", "side", *scores]
    rows = [
        [unit["name"], unit["side"] or "", *(_brief(unit["scores"].get(name)) for name in scores)]
        for unit in document["units"][:most]
    ]
    shown = "".join(f"<tr>{''.join(f'<td>{html_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th>{html_text(name)}</th>" for name in head)
    about = f"{document['title']}: {len(rows)} of {len(document['units'])} units; run the cell to explore them"
    return f"<p>{html_text(about)}</p><table><thead><tr>{titles}</tr></thead><tbody>{shown}</tbody></table>"


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def cells_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the thread in which a kernel runs its cells, None where no loop runs.

    JupyterLab sends widgets' messages to threads of their own ("subshells"). A model that is used there would be used
    beside a running cell, which would see its hooks; so messages are handled here, between one cell and the next.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython is not None else None
    loop = getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)
    if loop is None:
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
    return loop


@functools.cache
def _explorer() -> type:
    """The widget's class, made when it is first needed: its parent comes with the notebook extra."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtraError(
            "explore() shows a Jupyter widget, which needs anywidget and JupyterLab, and they are not installed; run "
            "pip install 'mechsurgery[notebook]', or use the `mechsurgery inspect` command, which opens a browser"
        ) from error

    class Explorer(anywidget.AnyWidget):
        """A catalogue of units on screen, and the conversation of its front end with the model."""

        _esm = front_end("explorer.js")
        _css = styles()
        document = traitlets.Dict().tag(sync=True)
        _conversation: Conversation | None = None

        def __init__(self, catalogue: Any) -> None:
            super().__init__(document=catalogue.document())
            self.catalogue = catalogue
            self._conversation = Conversation(catalogue, self._tell)
            self._tasks: set[asyncio.Task] = set()
            self._loop = cells_loop()
            self.on_msg(self._hear)

        def __repr__(self) -> str:
            return visible(f"<explorer of {self.document.get('title', 'a model')}: to be seen in Jupyter>")

        def _repr_mimebundle_(self, **options: Any) -> Any:
            found = super()._repr_mimebundle_(**options)
            return None if found is None else ({**found[0], "text/html": still(self.document)}, found[1])

        def _tell(self, message: dict) -> None:
            if self.comm is not None:
                self.send(message)

        def _hear(self, _widget: Any, message: Any, _buffers: Any) -> None:
            """Handle a message of the front end where cells run, whatever thread it came in by."""
            loop = self._loop or asyncio.get_running_loop()
            loop.call_soon_threadsafe(self._handle, message)

        def _handle(self, message: Any) -> None:
            assert self._conversation is not None  # it is made before anything is listened to
            task = asyncio.get_running_loop().create_task(self._conversation.receive(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        def close(self) -> None:
            """Stop answering and take the widget off the screen."""
            if self._conversation is not None:
                with contextlib.suppress(RuntimeError):  # without a running loop nothing is being answered
                    self._hear(self, {"type": "stop"}, [])
            super().close()

    return Explorer


check_arguments(__name__)

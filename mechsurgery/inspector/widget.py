"""The explorer in Jupyter: the front end of `static/`, joined to a model in the kernel by custom messages."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from importlib import resources
from typing import Any

from ..errors import MissingExtraError
from ..intervention import Intervention
from ..models.protocol import Model
from ..prompts import ContrastSet


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
    from .catalogue import Catalogue

    return kind(Catalogue(model, contrast, circuit, base=base, intervention=intervention, **options))


def static_text(name: str) -> str:
    """A file of the front end, e.g. `explorer.js`."""
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


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
    from .protocol import Conversation

    class Explorer(anywidget.AnyWidget):
        """A catalogue of units on screen, and the conversation of its front end with the model."""

        _esm = static_text("explorer.js")
        _css = static_text("explorer.css") + static_text("unit.css")
        document = traitlets.Dict().tag(sync=True)
        _conversation: Conversation | None = None

        def __init__(self, catalogue: Any) -> None:
            super().__init__(document=catalogue.document())
            self.catalogue = catalogue
            self._conversation = Conversation(catalogue, self._tell)
            self._tasks: set[asyncio.Task] = set()
            self.on_msg(self._hear)

        def __repr__(self) -> str:
            return f"<explorer of {self.document.get('title', 'a model')}: to be seen in Jupyter>"

        def _tell(self, message: dict) -> None:
            if self.comm is not None:
                self.send(message)

        def _hear(self, _widget: Any, message: dict, _buffers: Any) -> None:
            """Handle a message of the front end beside the kernel's own work, so that newer ones can cancel it."""
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

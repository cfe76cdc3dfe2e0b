"""What the explorer's page and Python say to each other: one conversation a page, in plain JSON messages.

To Python: `{"type": "unit", "request": 7, "unit": "L5.446"}`, `{"type": "ask", "request": 8, "prompt": …,
"multipliers": {unit: m}, "random": seed or null, "max_new_tokens": 48}`, `{"type": "stop"}`. From Python: `unit` with
the page's `html`, `answer` with the `texts` so far and whether it is `done`, `error` with a `message`; each with its
`request`.
"""

from __future__ import annotations

import asyncio
import inspect as python_inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..checks import check_arguments
from ..errors import InputError, MechsurgeryError
from .live import Ask, Live

if TYPE_CHECKING:
    from .catalogue import Catalogue

logger = logging.getLogger(__name__)
Send = Callable[[dict[str, Any]], Awaitable[None] | None]
#: Runs a plain function for the conversation: at once by default, in a worker thread in the web app.
Step = Callable[[Callable[[], Any]], Awaitable[Any]]
_ENDED = object()


async def at_once(function: Callable[[], Any]) -> Any:
    """Run a step where we are, after whatever else waits to run."""
    await asyncio.sleep(0)
    return function()


class Conversation:
    """One page's conversation: answers its messages, and stops answering a question when a newer one comes.

    `send` takes each message back. Errors that a message causes are sent, never raised.
    """

    def __init__(self, catalogue: Catalogue, send: Send, *, step: Step = at_once) -> None:
        self.catalogue, self._live = catalogue, Live(catalogue)
        self._send, self._step = send, step
        self._answering: asyncio.Task[None] | None = None

    async def receive(self, message: Any) -> None:
        """Handle one message. A question is answered in a task of its own, so that this returns at once."""
        request = message.get("request") if isinstance(message, Mapping) else None
        request = request if isinstance(request, (int, str)) else None
        try:
            kind = message.get("type") if isinstance(message, Mapping) else None
            if kind == "unit":
                await self._unit(message, request)
            elif kind == "ask":
                ask = Ask.from_message(message)
                await self.stop()
                self._answering = asyncio.create_task(self._answer(ask, request))
            elif kind == "stop":
                await self.stop()
            else:
                raise InputError("a message has type 'unit', 'ask' or 'stop'; this one has none of these")
        except Exception as error:
            await self._failed(error, request)

    async def stop(self) -> None:
        """Stop answering; the model is as it was when this returns."""
        task, self._answering = self._answering, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _unit(self, message: Mapping[str, Any], request: Any) -> None:
        name = message.get("unit")
        if not isinstance(name, str) or len(name) > 500:
            raise InputError("unit must be the name of a unit, such as 'L5.446'")
        page = await self._step(lambda: self.catalogue.page(name))
        unit = self.catalogue.unit(name).name
        await self._tell({"type": "unit", "request": request, "unit": unit, "html": page})

    async def _answer(self, ask: Ask, request: Any) -> None:
        try:
            steps: Iterator[dict[str, Any]] = self._live.stream(ask)
            while True:
                found = await self._step(lambda: next(steps, _ENDED))
                if found is _ENDED:
                    return
                await self._tell({"type": "answer", "request": request, **found})
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._failed(error, request)

    async def _failed(self, error: Exception, request: Any) -> None:
        if not isinstance(error, MechsurgeryError):
            logger.exception("the explorer could not answer")
        known = isinstance(error, MechsurgeryError)
        said = str(error) if known else f"this failed: {type(error).__name__}: {error}"
        await self._tell({"type": "error", "request": request, "message": said[:2000]})

    async def _tell(self, message: dict[str, Any]) -> None:
        sent = self._send(message)
        if python_inspect.isawaitable(sent):
            await sent


check_arguments(__name__, inner=True)

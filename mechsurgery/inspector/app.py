"""The explorer as a local web app: one page, one conversation for each connection, one model that all share.

Everything the model does runs in one worker thread, a token at a time, so that several users' answers take turns, and
hooks are on the model only within one of these steps. The app listens on the loopback interface alone; `guard.py` says
who is answered. What comes in is bounded by `Limits`; what is beyond them is refused with a sentence, and the app goes
on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from ..checks import check_arguments
from ..errors import InputError, MissingExtraError
from ..safe_text import html_text
from .guard import Guard

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
#: Files of the page, which hold nothing of the model or its prompts.
_STATIC = {
    "explorer.js": "text/javascript",
    "explorer.css": "text/css",
    "unit.css": "text/css",
    "app.js": "text/javascript",
    "app.css": "text/css",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
{styles}
<script type="module" src="/static/app.js"></script>
</head>
<body>
<p id="state" role="status">Loading.</p>
<main id="explorer"></main>
</body>
</html>
"""
#: Codes of closed websockets: a message too big, try again later.
_TOO_BIG, _LATER = 1009, 1013

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How large a message may be and how many connections there may be; `live.Ask` bounds what a question may hold.

    `message` in bytes; `patience` in seconds: how long a browser may take for its request, or leave an answer unread,
    before it is let go.
    """

    message: int = 1 << 20
    connections: int = 8
    patience: float = 30.0


class Worker:
    """The one thread in which the model is used; calls are answered in the order in which they come."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def run(self, step: Callable[[], T]) -> T:
        """What `step()` returns. Cancelled while it waits its turn, it never runs; while it runs, it is waited for."""
        job = self._pool.submit(step)
        answer = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.gather(answer, return_exceptions=True)
            raise

    def close(self) -> None:
        """Finish the step in progress, drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def web_app(catalogue: Any, *, port: int, token: str, worker: Worker, limits: Limits | None = None) -> Any:
    """The ASGI application: the page, its files, the document, and a websocket for a conversation.

    Raises `MissingExtraError` where starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, Response
        from starlette.routing import Route, WebSocketRoute
    except ImportError as error:
        raise _missing(error) from error

    bounds = limits or Limits()
    document = catalogue.document()
    # Not-a-number is no JSON: browsers would refuse the whole document.
    content = json.dumps({**document, "live": True}, allow_nan=False).encode()
    rooms = _Rooms(catalogue, worker, bounds)

    async def page(request: Any) -> Any:
        styles = [f'<link rel="stylesheet" href="/static/{name}">' for name in _STATIC if name.endswith(".css")]
        return HTMLResponse(_PAGE.format(title=html_text(str(document["title"])), styles="\n".join(styles)))

    async def facts(request: Any) -> Any:
        return Response(content, media_type="application/json")

    async def static(request: Any) -> Any:
        name = request.path_params["name"]
        if name not in _STATIC:
            return Response("no such file\n", 404, media_type="text/plain")
        return Response(static_file(name), media_type=_STATIC[name])

    routes = [
        Route("/", page),
        Route("/document.json", facts),
        Route("/static/{name}", static),
        WebSocketRoute("/socket", rooms.enter),
    ]
    open_paths = [f"/static/{name}" for name in _STATIC]
    return Guard(Starlette(routes=routes), port=port, token=token, open_paths=open_paths)


def static_file(name: str) -> bytes:
    """A file of the page."""
    return files(__package__).joinpath("static", name).read_bytes()


class _Rooms:
    """The conversations in progress, each with a connection of its own."""

    def __init__(self, catalogue: Any, worker: Worker, limits: Limits) -> None:
        self._catalogue, self._worker, self._limits, self._open = catalogue, worker, limits, 0

    async def enter(self, websocket: Any) -> None:
        """Hold one conversation until its browser leaves; then whatever it had asked for is stopped."""
        from starlette.websockets import WebSocketDisconnect

        from .protocol import Conversation

        await websocket.accept()
        if self._open >= self._limits.connections:
            await websocket.close(_LATER, f"{self._limits.connections} pages are open already; close one of them")
            return

        async def send(message: dict[str, Any]) -> None:
            try:
                await asyncio.wait_for(websocket.send_text(json.dumps(message)), self._limits.patience)
            except (TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
                listening.cancel()  # nobody reads what is sent

        conversation = Conversation(self._catalogue, send, step=self._worker.run)
        self._open += 1
        listening = asyncio.create_task(_listen(websocket, conversation, send, self._limits))
        try:
            await asyncio.wait({listening})
        finally:
            listening.cancel()
            await conversation.stop()
            self._open -= 1
        if not listening.cancelled() and (error := listening.exception()) is not None:
            raise error


async def _listen(websocket: Any, conversation: Any, send: Callable[[dict[str, Any]], Any], limits: Limits) -> None:
    """Hand every message to the conversation until the browser leaves; what is no message is answered with an error."""
    while (event := await websocket.receive())["type"] != "websocket.disconnect":
        try:
            message = parsed(event.get("text"), limits)
        except InputError as error:
            await send({"type": "error", "request": None, "message": str(error)})
        else:
            await conversation.receive(message)


def parsed(text: str | None, limits: Limits) -> dict[str, Any]:
    """A message as it came over the wire. Raises `InputError` for what is too large or no JSON object."""
    if text is None:
        raise InputError("messages to this app are text, not bytes")
    if len(text.encode(errors="surrogatepass")) > limits.message:
        raise InputError(f"a message of more than {limits.message:,} bytes; shorten the prompt")
    try:
        message = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError("messages to this app are JSON objects, and this one is none") from error
    if not isinstance(message, dict):
        raise InputError(f"messages to this app are JSON objects, not a {type(message).__name__}")
    return message


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def listening_socket(port: int) -> socket.socket:
    """A socket on the loopback interface, at a free port for 0. Raises `InputError` where the port is taken."""
    if not 0 <= port <= 65535:
        raise InputError(f"port {port} is not one of 0 to 65535; 0 takes a free one")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise InputError(f"port {port} cannot be used ({error.strerror}); give another, or 0 for a free one") from error
    return listening


def serve(
    catalogue: Any,
    *,
    port: int = 0,
    limits: Limits | None = None,
    on_ready: Callable[[str], Any] = print,
    server_made: Callable[[Any], Any] | None = None,
) -> None:
    """Run the app until Ctrl-C; `on_ready(address)` is told the address with its token once it can be opened.

    `server_made(server)` is handed uvicorn's server, whose `should_exit` ends the app from elsewhere. Raises
    `InputError` for a port that is taken, `MissingExtraError` where uvicorn or websockets are not installed.
    """
    try:
        import uvicorn
        import websockets  # noqa: F401 (uvicorn uses it)
    except ImportError as error:
        raise _missing(error) from error

    token = secrets.token_urlsafe(24)
    bounds, worker = limits or Limits(), Worker()
    listening = listening_socket(port)
    at = listening.getsockname()[1]

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            on_ready(f"http://{_LOOPBACK}:{at}/?token={token}")

    try:
        app = web_app(catalogue, port=at, token=token, worker=worker, limits=bounds)
        server = Server(uvicorn.Config(app, **_server_options(bounds)))
        if server_made is not None:
            server_made(server)
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # Ctrl-C is how the app ends
    finally:
        worker.close()
        listening.close()


def _http_protocol(patience: float) -> Any:
    """HTTP of one connection, which is closed after `patience` seconds: who never ends a request blocks no place."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class OneRequest(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(patience, self._end)

        def _end(self) -> None:
            # A websocket has another protocol by now, and stays.
            if self.transport.get_protocol() is self:
                self.transport.abort()

    return OneRequest


def _server_options(limits: Limits) -> dict[str, Any]:
    """How uvicorn runs the app: no log of addresses (they hold the token), no proxies, no compression of messages."""
    return {
        "http": _http_protocol(limits.patience),
        "ws": "websockets-sansio",
        # Somewhat more than the app allows, which refuses with a sentence what is over its own limit.
        "ws_max_size": 4 * limits.message,
        "ws_per_message_deflate": False,
        "lifespan": "off",
        "loop": "asyncio",
        "access_log": False,
        "log_level": "error",
        "log_config": None,
        "proxy_headers": False,
        "server_header": False,
        "limit_concurrency": 256,
        "timeout_graceful_shutdown": 2,
    }


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"the local app needs starlette, uvicorn and websockets ({error}); pip install 'mechsurgery[app]'"
    )


check_arguments(__name__, leave=("listening_socket",), inner=True)

"""The local app running in a thread on a free port of the loopback interface, and what its clients are."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mechsurgery.inspector.app import Limits, serve


@dataclass(frozen=True)
class Served:
    """Where the app is."""

    address: str

    @property
    def port(self) -> int:
        return int(urlsplit(self.address).port or 0)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.address).query)["token"][0]

    def get(self, path: str, *, method: str = "GET", token: bool = True, body: Any = None, **headers: str) -> Any:
        """The response to one request, with `text`; headers are given with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            query = f"?token={self.token}" if token else ""
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path + query, body=body, headers=named)
            response = connection.getresponse()
            response.text = response.read().decode()
            return response
        finally:
            connection.close()

    def socket(self, **options: Any) -> Any:
        """A websocket, as the app's own page opens it."""
        from websockets.sync.client import connect

        address = f"ws://{self.host}/socket?token={self.token}"
        return connect(address, **{"origin": f"http://{self.host}", "compression": None, "max_size": None, **options})


@contextmanager
def served(catalogue: Any, limits: Limits | None = None) -> Iterator[Served]:
    """The app as long as the block runs."""
    ready: queue.Queue[str] = queue.Queue()
    made: list[Any] = []
    options = {"limits": limits, "on_ready": ready.put, "server_made": made.append}
    thread = threading.Thread(target=serve, args=(catalogue,), kwargs=options)
    thread.start()
    try:
        yield Served(ready.get(timeout=60))
    finally:
        for server in made:
            server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def say(socket: Any, **message: Any) -> None:
    """Send a message."""
    socket.send(json.dumps(message))


def hear(socket: Any, timeout: float = 20) -> dict[str, Any]:
    """The next message."""
    return json.loads(socket.recv(timeout=timeout))


def answers(socket: Any, request: int) -> list[dict[str, Any]]:
    """Every answer to a request, until it is done or fails."""
    found: list[dict[str, Any]] = []
    while not found or not (found[-1].get("done") or found[-1]["type"] == "error"):
        message = hear(socket)
        if message["request"] == request:
            found.append(message)
    return found

"""Who may talk to the local app: only pages that it served itself, to somebody who knows this run's secret.

A web page from anywhere can make a browser send requests to 127.0.0.1, and can give its own name that address (DNS
rebinding). So every request must name one of the app's own hosts, a request with an Origin must come from the app's
own page, and what shows anything of the model needs the token that only the printed address has.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from ..checks import check_arguments

#: Names a browser on this machine may use for the loopback interface.
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Refusal:
    """An HTTP status and the sentence that says why."""

    status: int
    message: str


def hosts_of(port: int) -> tuple[str, ...]:
    """What the Host header may be for an app at a port of the loopback interface."""
    named = tuple(f"{name}:{port}" for name in _LOOPBACK)
    return (*_LOOPBACK, *named) if port == 80 else named


def headers_for(host: str) -> dict[str, str]:
    """Headers of every response: the page runs its own scripts, talks to the app at `host` alone, is framed by none.

    Styles stand in files; only style attributes, which heat maps are coloured with, may stand in the page.
    """
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "style-src-attr": "'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": f"'self' ws://{host}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
        # One request a connection, so that none need be kept open.
        "connection": "close",
    }


class Guard:
    """An ASGI application around another: lets through what is allowed, answers everything else with a sentence."""

    def __init__(self, app: Any, *, port: int, token: str, open_paths: Iterable[str] = ()) -> None:
        self._app, self._hosts, self._token = app, hosts_of(port), token
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request or one websocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        headers = headers_for(self._hosts[0] if refusal else _one(scope, b"host") or self._hosts[0])

        async def send_with_headers(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = [(name.encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        from starlette.responses import PlainTextResponse

        answer = PlainTextResponse(refusal.message + "\n", refusal.status)
        await answer(scope, receive, send_with_headers)

    def refusal(self, scope: Any) -> Refusal | None:
        """Why a request is not answered; None where it is."""
        host = _one(scope, b"host")
        if host not in self._hosts:
            return Refusal(
                403, f"this app answers to {' and '.join(self._hosts)} only; open the address that it printed"
            )
        origins = _all(scope, b"origin")
        needs_origin = scope["type"] == "websocket"
        if origins != [f"http://{host}"] and (origins or needs_origin):
            return Refusal(403, "this app talks to its own page only, not to pages of other origins")
        if scope["type"] == "http":
            if scope["method"] not in ("GET", "HEAD"):
                return Refusal(405, "this app has pages to GET only")
            if _all(scope, b"transfer-encoding") or _one(scope, b"content-length") not in (None, "0"):
                return Refusal(413, "this app takes requests without a body only")
        if scope["path"] not in self._open_paths and not self._knows_token(scope):
            return Refusal(403, "the address lacks this run's token; open the whole address that the app printed")
        return None

    def _knows_token(self, scope: Any) -> bool:
        try:
            given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("token", [])
        except ValueError:
            return False
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), self._token.encode())


def _all(scope: Any, name: bytes) -> list[str]:
    return [value.decode("latin-1") for own, value in scope["headers"] if own == name]


def _one(scope: Any, name: bytes) -> str | None:
    """A header's value where it stands exactly once."""
    found = _all(scope, name)
    return found[0] if len(found) == 1 else None


check_arguments(__name__, inner=True)

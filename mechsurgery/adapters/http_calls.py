"""One request to an endpoint that may misbehave: bounded in time and in bytes, followed nowhere, its shape checked."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ..checks import check_arguments
from ..errors import MechsurgeryError

#: The most that an answer may have: many times what the longest chat completion needs.
MOST_BYTES = 4 << 20


class Again(MechsurgeryError):
    """The endpoint is busy or broken for now; `wait` seconds where it says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Line:
    """The connection in use, which can be cut while another thread waits at it."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.cut = False

    def note(self, event: str, info: Any) -> None:
        """Called by httpx with what it does."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.stream = info.get("return_value")

    def end(self) -> None:
        """Cut it: time is over."""
        self.cut = True
        held = None if self.stream is None else self.stream.get_extra_info("socket")
        if held is not None:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)


def call(client: Any, url: str, body: bytes, headers: dict[str, str], ends: float) -> tuple[int, dict[str, str], bytes]:
    """POST a body: the status, headers and body of the answer, read up to `MOST_BYTES`.

    `ends` is when time is over (of `time.monotonic`), also where the endpoint sends a byte now and then for ever.
    Raises `Again` for what may be otherwise next time. No error of httpx leaves: they hold the request with its key.
    """
    import httpx

    line, problem = _Line(), ""
    left = ends - time.monotonic()
    if left <= 0:
        raise Again("no time was left")
    watch = threading.Timer(left, line.end)
    watch.daemon = True
    limits = httpx.Timeout(min(left, client.timeout.read or left))
    # A new connection each time, so that it is this one that is cut.
    sent = {"content": body, "headers": {**headers, "Connection": "close"}, "timeout": limits}
    watch.start()
    try:
        with client.stream("POST", url, extensions={"trace": line.note}, **sent) as reply:
            return reply.status_code, dict(reply.headers), _body(reply)
    except httpx.TimeoutException as error:
        problem = f"no answer within {limits.read:g} s ({type(error).__name__})"
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
        problem = f"no connection ({type(error).__name__})"
    finally:
        watch.cancel()
    raise Again("time was over" if line.cut else problem)


def _body(reply: Any) -> bytes:
    """The bytes of an answer as they came. Raises `Again` for too many, and for packed ones."""
    if reply.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise Again("a compressed answer, which was not asked for")
    content = bytearray()
    for chunk in reply.iter_raw(1 << 16):
        content += chunk
        if len(content) > MOST_BYTES:
            raise Again(f"an answer of more than {MOST_BYTES:,} bytes")
    return bytes(content)


def used_tokens(body: bytes) -> tuple[int, int]:
    """Tokens of what was asked and of the answer, as a chat completion's `usage` says; 0 where it does not say."""
    try:
        usage = json.loads(body)["usage"]
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        counts = None, None
    read, written = (one if type(one) is int and 0 <= one < 1 << 40 else 0 for one in counts)
    return read, written


def chat_text(body: bytes) -> str:
    """The text of a chat completion; "" where it has none (null). Raises `Again` for anything else."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        content = 0
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Again("an answer that is no chat completion")
    # Half a pair of surrogates can be written to no file.
    return content.encode("utf-8", "replace").decode()


check_arguments(__name__)

"""A real browser for tests: Chromium driven by playwright, watched for console errors and for requests that leave."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOOPBACK = ("http://127.0.0.1", "http://localhost", "ws://127.0.0.1", "ws://localhost", "file:", "data:", "blob:", "about:")


def chromium_path() -> str | None:
    """Debian's Chromium or a Chrome on the path, None where there is none (playwright's own is then tried)."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    return None


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A running headless Chromium; the test is skipped, saying why, where playwright or a browser is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        try:
            running = driver.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium that starts: {str(error).splitlines()[0]}")
        try:
            yield running
        finally:
            running.close()


class Watched:
    """A page of a browser; `problems` are its console errors, uncaught exceptions and requests that left the machine."""

    def __init__(self, running: Any, *, width: int = 1400, height: int = 950, scheme: str = "light") -> None:
        self.context = running.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.context.on("request", lambda request: self._leaves(request.url))
        self.page.on("websocket", lambda socket: self._leaves(socket.url))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _leaves(self, address: str) -> None:
        if not address.startswith(LOOPBACK):
            self.problems.append(f"request: {address}")

    def close(self) -> None:
        """Close the page and what belongs to it."""
        self.context.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(files: dict[str, str]) -> Iterator[str]:
    """Files on a loopback server as long as the block runs; gives its address, without a slash at the end."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"favicon.ico": "", **files}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

"""Hooks for one pass through a model, which Ctrl-C cannot leave behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .protocol import Model
from .sites import portable


class _Noted:
    """Handles Ctrl-C by remembering it; true once there was one. A second one is not waited with."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def with_hooks(model: Model, hooks: Sequence[tuple[str, Any]]) -> Iterator[Callable[[], bool]]:
    """Hooks on a model while the body runs, which should be one pass, or look now and then whether to end early.

    A `KeyboardInterrupt` in the middle of putting hooks on or taking them off would leave some of them on the model.
    So the first Ctrl-C takes effect when the body has ended and all hooks are off; the function given to the body says
    whether there was one. A second one is raised at once. Only the main thread is ever interrupted, and only there
    anything is done about it.
    """
    noted = _Noted()
    if threading.current_thread() is not threading.main_thread():
        with model.hooks(fwd_hooks=portable(model, hooks)):
            yield lambda: False
        return
    before = signal.signal(signal.SIGINT, noted)
    try:
        with model.hooks(fwd_hooks=portable(model, hooks)):
            yield lambda: noted.asked
    finally:
        # None: a handler that was not set by Python, which cannot be set again from here.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    if noted.asked:
        signal.raise_signal(signal.SIGINT) if before in (signal.SIG_DFL, None) else _hand_on(before)


def _hand_on(handler: Any) -> None:
    """Do what a Ctrl-C would have done."""
    if callable(handler):
        handler(signal.SIGINT, None)

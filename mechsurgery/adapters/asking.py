"""Doing the same for many items at once, a few at a time, in threads that an error or an interrupt stops."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..checks import check_arguments


class Stopped(Exception):
    """Raised in a thread whose work nobody waits for any more."""


class Stop:
    """Whether to stop, and pauses that end when it is so."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def now(self) -> None:
        """Have everything stop."""
        self._event.set()

    def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopped` where everything stops meanwhile, or has."""
        if self._event.wait(max(0.0, seconds)):
            raise Stopped


def at_once(act: Callable[[Any, Stop], Any], items: Sequence[Any], most: int) -> Iterator[tuple[int, Any]]:
    """(place, `act(item, stop)`) for every item as they end, at most `most` at a time.

    The first error is raised here; then, and where the loop is left, nothing more is begun, and threads that are at
    work end by themselves.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    stop = Stop()
    for place in range(len(items)):
        waiting.put(place)

    def work() -> None:
        while True:
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                stop.pause(0)
                ended.put((place, act(items[place], stop), None))
            except BaseException as error:
                ended.put((place, None, error))
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            place, value, error = ended.get()
            if error is not None:
                raise error
            yield place, value
    finally:
        stop.now()


check_arguments(__name__, inner=True)

"""Handing items to workers one at a time, and again to another worker where one dies; knows nothing of Ray."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..checks import check_arguments
from ..errors import MechsurgeryError

logger = logging.getLogger(__name__)


class Came(NamedTuple):
    """What came of a ticket: a value, or where the worker died before there was one, in words of what."""

    ticket: Any
    value: Any = None
    died: str | None = None


@runtime_checkable
class Pool(Protocol):
    """Where workers are: `begin` and `give` return at once, with a ticket for what will come of it."""

    def begin(self) -> tuple[Any, Any]:
        """(a worker that is being made ready, ticket)."""

    def give(self, worker: Any, place: int) -> Any:
        """The ticket of an item, now that a worker is at work on it."""

    def wait(self, tickets: Collection[Any]) -> Came:
        """What comes first. What is raised within a worker is raised here."""

    def rest(self, worker: Any) -> None:
        """Nothing more to do for a worker, which may begin again later."""

    def end(self, worker: Any) -> None:
        """End a worker, whatever it is doing."""


def hand_out(pool: Pool, n_workers: int, n_items: int, done: Callable[[int, Any], Any], *, retries: int) -> None:
    """Have workers do items 0 to `n_items` − 1 and call `done(item, value)` once for each as they end.

    An item is given only to a worker that is ready, so one that a busy cluster never starts holds nothing up. A worker
    that dies is replaced, and its item is next. Whatever is raised, no worker is left at work. Raises
    `MechsurgeryError` where the same item, or beginning, ends `retries` + 1 workers.
    """
    waiting = deque(range(n_items))
    deaths: Counter[int | None] = Counter()
    at_work: dict[Any, tuple[Any, int | None]] = {}
    left = n_items

    def begin() -> None:
        worker, ticket = pool.begin()
        at_work[ticket] = worker, None

    try:
        for _ in range(min(n_workers, n_items)):
            begin()
        while left:
            came = pool.wait(at_work)
            worker, place = at_work.pop(came.ticket)
            if came.died is not None:
                pool.end(worker)
                deaths[place] += 1
                _check_deaths(deaths[place], place, retries if place is not None else retries + n_workers, came.died)
                if place is not None:
                    waiting.appendleft(place)
                begin()
                continue
            # The worker goes on while its result is taken in here.
            if waiting:
                following = waiting.popleft()
                at_work[pool.give(worker, following)] = worker, following
            else:
                pool.rest(worker)
            if place is not None:
                left -= 1
                done(place, came.value)
    finally:
        for worker, _ in at_work.values():
            pool.end(worker)


def _check_deaths(deaths: int, place: int | None, allowed: int, why: str) -> None:
    doing = "while it was made ready" if place is None else f"at work on item {place}"
    if deaths > allowed:
        raise MechsurgeryError(
            f"{deaths} workers died, each {doing}, the last because: {why}; memory is the usual cause: take fewer "
            "workers or smaller batches, and what is done already is not done again"
        )
    logger.warning("a worker died %s (%s); another one does it again", doing, why)


check_arguments(__name__, inner=True)

"""What several copies of a model are asked to do: the part of `adapters.many.Workers` that the rooms below need.

Work is cut into items before anybody knows how many workers there are, and results are put together in the order of
the items, so what comes out does not depend on how many there are, nor on which of them did what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..checks import check_arguments
from .protocol import Model

#: What is done with one item: a function of a module, called with (model, what all items share, item).
Act = Callable[[Model, Any, Any], Any]


@runtime_checkable
class Workers(Protocol):
    """Copies of a model elsewhere, each of which does one item at a time."""

    def each(
        self, model: Model, act: Act, items: Sequence[Any], *, shared: Any, done: Callable[[int, Any], Any]
    ) -> None:
        """Have `act(copy of the model, shared, item)` done for every item.

        `done(place of the item, what came of it)` is called here, for each item once, in the order in which they end.
        The model itself is not used.
        """


class InOrder:
    """A `done` for `each` that hands results on by the order of the items, holding back those that come early."""

    def __init__(self, hand_on: Callable[[int, Any], Any]) -> None:
        self._hand_on, self._next = hand_on, 0
        self._early: dict[int, Any] = {}

    def __call__(self, place: int, result: Any) -> None:
        """Take the result of an item; hand on all that are next."""
        self._early[place] = result
        while self._next in self._early:
            self._hand_on(self._next, self._early.pop(self._next))
            self._next += 1


check_arguments(__name__, inner=True)

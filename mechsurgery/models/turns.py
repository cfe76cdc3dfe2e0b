"""Whose turn it is to use a model, and how every change to it is taken back.

Everything that hooks or changes a model does so within a `Turn`. It writes down how a change is undone *before* it
makes it, and only one thread at a time has turns on a model; others wait.

Python raises `KeyboardInterrupt` between two steps of Python code, also in the middle of a `finally` or an `__exit__`
that is written in Python. So what ends a turn is one call of C code that runs no Python: `__exit__` is that of
`io.IOBase`, which calls `self.close()`; that is a chain of iterators over the steps to undo, and each step a function
in C (`dict.pop`, `Tensor.copy_`). It is done wholly or, when the interrupt came before, by the turn around it or when
the turn is freed, so a second interrupt within milliseconds of the first finds the same. What code of the user's own
within a context leaves switched off when it is interrupted, such as PyTorch's gradients in a `torch.no_grad()`, is not
a turn's to know.
"""

from __future__ import annotations

import functools
import io
import logging
import operator
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, dropwhile, repeat, takewhile
from types import FrameType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch

from ..errors import BusyError
from .protocol import hooked

#: Nothing in here is for users, who call `applied` and its like.
#: It checks nothing: an interrupt has less to come between.
__all__: list[str] = []

logger = logging.getLogger(__name__)

#: Seconds between two looks at whether waiting can come to an end, and until it is said that a thread waits.
_LOOK, _PATIENCE = 0.1, 10.0
_STOP = object()

F = TypeVar("F", bound=Callable[..., Any])


class _Held:
    """What is known of one model: a lock, its owner's thread while there is one, and a stack of open turns.

    A turn is [whether it was left, iterator that undoes it]. It is undone once it was left and is the last on the
    stack, so changes are always taken back in the opposite order. At the bottom lies one that is never left.
    """

    owner: int | None = None

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stack: list[list[Any]] = [[False]]

    def undone(self) -> Iterator[Any]:
        """An iterator, all of it in C, that undoes turns from the last one on while they were left."""
        last = map(operator.itemgetter(-1), repeat(self.stack))
        return chain.from_iterable(map(operator.itemgetter(1), takewhile(operator.itemgetter(0), last)))


_HELD: WeakKeyDictionary[Any, _Held] = WeakKeyDictionary()


def _held(model: Any) -> _Held:
    try:
        return _HELD.setdefault(model, _Held())
    except TypeError:
        hooked(model)  # says that this is no model
        raise


class Turn(io.IOBase):
    """A context in which this thread alone uses a model: `act(turn)` changes it, leaving takes the changes back.

    `act` calls `turn.undo(…)` before every change; what it returns is what `as` gives. Threads wait for each other's
    turns; the thread that has one may begin more within. With `ends_all`, leaving also ends what was begun within and
    not left (as interrupted code does). Without, a turn that is left before one within it raises `BusyError`, and is
    undone together with that one. Entering raises `BusyError` where waiting could never end.
    """

    def __init__(self, model: Any, act: Callable[[Turn], Any] = bool, *, ends_all: bool = False) -> None:
        self._model, self._act, self._ends_all = model, act, ends_all
        self._steps: list[Any] = []
        self.close: Callable[[], Any] = bool  # type: ignore[method-assign] # a function in C that does nothing

    def undo(self, step: Callable[..., Any], *values: Any) -> None:
        """Have `step(*values)` done when the turn ends: a function in C, or Python that may as well be left out."""
        self._steps.append(partial(step, *values))

    def __enter__(self) -> Any:
        if self._steps:
            raise BusyError("this context was entered already; make another one")
        try:
            self._begin(_held(self._model))
            _restore_grad_mode(self)
            step, made = self._steps[-1], self._act(self)
            # Only until the change is made: what is set within the context is the user's own.
            self._steps.remove(step)
            return made
        except BaseException:
            self.close()
            raise

    def _begin(self, held: _Held) -> None:
        steps = self._steps = [_STOP, held.stack.pop]
        turn = [False, map(operator.call, iter(steps.pop, _STOP))]
        begin: list[Callable[[], Any]] = [partial(held.stack.__iadd__, [turn])]
        if held.owner != threading.get_ident():
            steps[1:1] = [held.lock.release, partial(vars(held).pop, "owner", None)]
            own = partial(vars(held).setdefault, "owner", threading.get_ident())
            begin = [partial(held.lock.acquire, True, _LOOK), own, *begin]
        ended = dropwhile(partial(operator.is_not, turn), held.stack) if self._ends_all else [turn]
        leave = map(operator.setitem, ended, repeat(0), repeat(True))
        check = map(operator.call, [partial(_check_order, held.stack, turn)])
        every: deque[Any] = deque(maxlen=0)
        self.close = partial(every.extend, chain(leave, held.undone(), check))  # type: ignore[method-assign]
        _wait(held, begin)


def _check_order(stack: list[list[Any]], turn: list[Any]) -> None:
    if any(other is turn for other in stack) and sys.exc_info()[0] is None:
        raise BusyError(
            "this context on the model was left before one that was entered within it; the model is as it was when "
            "that one is left, too. Leave contexts in the opposite order, or nest `with` statements"
        )


def _wait(held: _Held, begin: list[Callable[[], Any]]) -> None:
    """Begin a turn (`all` is one call of C: it begins wholly or not) as soon as no other thread has one."""
    looks = 0
    while not all(map(operator.call, begin)):
        open_turns, frames = held.stack[1:], sys._current_frames()
        if held.owner is not None and held.owner not in frames:
            # Its thread ended without leaving: what it left is undone, and its lock given back.
            ended = map(operator.setitem, open_turns, repeat(0), repeat(True))
            deque(chain(ended, held.undone()), maxlen=0)
        elif _would_never_end(held, frames):
            raise BusyError(
                "another thread uses this model and waits for this one, so that neither could go on; use the model in "
                "one thread, or leave its context before waiting for other threads"
            )
        looks += 1
        if looks == int(_PATIENCE / _LOOK):
            logger.warning("waiting for the model, which another thread uses")


def _would_never_end(held: _Held, frames: dict[int, FrameType]) -> bool:
    """Whether the thread that has a turn waits for this one: for a model that it has, or for its end or result."""
    mine, around = threading.get_ident(), set[int]()
    while held.owner is not None and held.owner != mine and held.owner not in around:
        around.add(held.owner)
        frame = frames.get(held.owner)
        if frame is None:
            return False
        if (frame.f_code.co_filename, frame.f_code.co_name) != (__file__, "_wait"):
            return bool(_awaited(frame) & _awaits_me(frames[mine]))
        held = frame.f_locals["held"]
    # Of the threads that wait for each other, one gives way.
    return held.owner == mine and mine == max(around | {mine})


def _awaited(frame: FrameType | None) -> set[int]:
    """Threads and futures that a thread waits for, by the code of the standard library that it is in."""
    found = set()
    while frame is not None and frame.f_code.co_filename.startswith((threading.__file__, _FUTURES)):
        if frame.f_locals.get("timeout") in (None, -1):  # else it goes on after a while
            found.add(id(frame.f_locals.get("self")))
        frame = frame.f_back
    return found


def _awaits_me(frame: FrameType | None) -> set[int]:
    """The present thread, and the futures whose results it is at work on."""
    found = {id(threading.current_thread())}
    while frame is not None:
        if frame.f_code.co_filename.startswith(_FUTURES):
            found.add(id(getattr(frame.f_locals.get("self"), "future", None)))
        frame = frame.f_back
    return found - {id(None)}


#: Where the code of futures and pools lies: concurrent/futures beside threading.py.
_FUTURES = threading.__file__.replace("threading.py", "concurrent")


class _Process:
    """The process, for what has a turn with more than one model."""


#: Loading, which for a moment changes things for the whole process: has turns like a model.
LOADING = _Process()


def _restore_grad_mode(turn: Turn) -> None:
    """Note whether gradients are on: an interrupt can leave them off."""
    turn.undo(torch._C._set_grad_enabled, torch.is_grad_enabled())


def in_turn(verb: F) -> F:
    """A function of a model (its first argument) that has its turn with it, and leaves nothing on it however it ends.

    A second thread waits until the function is done.
    """

    @functools.wraps(verb)
    def alone(model: Any, *values: Any, **options: Any) -> Any:
        # In one line: nothing lies between the end of the work and the end of the turn.
        with Turn(model, _restore_grad_mode, ends_all=True): return verb(model, *values, **options)  # fmt: skip # noqa: E701

    return cast(F, alone)

"""What one run of a chat template may cost: steps, characters, time. A template is code from strangers.

Values are counted as they are made, so memory is bounded before it is taken, on any system and in any thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from string import Formatter
from typing import Any

#: Nothing in here is for users, who call `render` and its like.
#: Chat templates run it a thousand times for one chat.
__all__: list[str] = []

#: Steps, characters made in all, characters of one value, and seconds of a thread's own time for a chat of no length;
#: each character of the chat allows for some more.
STEPS, MADE, LARGEST, SECONDS = 300_000, 16_000_000, 4_000_000, 1.0
_NODE, _ELEMENT, _DEEPEST, _BITS, _WIDEST, _PARTS = 32, 56, 60, 4096, 1000, 10_000
_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: Any = (list, tuple, dict, set, frozenset, *_VIEWS)
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")


class OverBudgetError(Exception):
    """A template takes more than it may; the text says of what."""


class Budget:
    """What is left for one run over a chat of `size` characters."""

    def __init__(self, size: int) -> None:
        self.steps, self.made, self.largest = STEPS + 4 * size, MADE + 64 * size, LARGEST + 8 * size
        self.until = time.thread_time() + SECONDS + size / 1_000_000

    def step(self) -> None:
        """Count one step. Raises `OverBudgetError`, as all of these do."""
        self.steps -= 1
        if self.steps < 0:
            raise OverBudgetError("it takes too many steps")
        if not self.steps % 32 and time.thread_time() > self.until:
            raise OverBudgetError("it takes too long")

    def fits(self, amount: int) -> None:
        """Check a value of that many characters that is about to be made."""
        if amount > min(self.largest, self.made):
            raise OverBudgetError(f"it makes a text or list of {amount:,} characters or more")

    def take(self, amount: int) -> None:
        """Count characters that were made."""
        self.made -= amount
        if self.made < 0:
            raise OverBudgetError("it makes too much text")

    def kept(self, value: Any) -> Any:
        """The value, counted."""
        if isinstance(value, str):
            self.take(len(value))
        elif isinstance(value, int):
            self.number(value)
        elif isinstance(value, _CONTAINERS):
            self.take(_ELEMENT * len(value))
            self.weight(value)
        return value

    def number(self, value: int) -> None:
        """Check that an integer is of a size that anything can be done with at once."""
        if value.bit_length() > _BITS:
            raise OverBudgetError(f"it computes with a number of {value.bit_length():,} bits")

    def weight(self, value: Any) -> int:
        """Characters that a value has when written out, about: what is contained twice counts twice."""
        if isinstance(value, str):
            return len(value)
        total, level, depth = 0, [value], 0
        while level:
            deeper: list[Any] = []
            for item in level:
                if isinstance(item, str):
                    total += len(item) + 1
                    continue
                total += _NODE
                if isinstance(item, dict):
                    deeper += [*item.keys(), *item.values()]
                elif isinstance(item, _CONTAINERS):
                    deeper += item
                if total + _NODE * len(deeper) > self.largest:
                    raise OverBudgetError(f"it makes a list of {self.largest:,} characters or more")
            level, depth = deeper, depth + 1
            if depth > _DEEPEST:
                raise OverBudgetError(f"it nests lists more than {_DEEPEST} deep")
        return total

    def items(self, values: Iterable[Any]) -> list[Any]:
        """The values as a list, each one a step."""
        found = []
        for value in values:
            self.step()
            found.append(value)
        return self.kept(found)

    def operation(self, operator: str, left: Any, right: Any) -> None:
        """Check what a binary operation is about to make."""
        self.step()
        for value in (left, right):
            if isinstance(value, int):
                self.number(value)
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
            if left.bit_length() * abs(right) > _BITS:
                raise OverBudgetError(f"it computes a power with the exponent {right:,}")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(many, (str, bytes, list, tuple)):
                    self.fits(self.weight(many) * max(0, times))
        elif operator == "%" and isinstance(left, str):
            self.percent(left, right)

    def percent(self, form: str, values: Any) -> None:
        """Check `form % values`."""
        widths = [width for found in _PERCENT.findall(form) for width in found if width]
        self._widths(widths)
        self.fits(len(form) + form.count("%") * (self.weight(values) + _WIDEST * bool(widths)))

    def format(self, form: str, values: Any) -> None:
        """Check `form.format(...)` of these values."""
        fields = [part for part in Formatter().parse(form) if part[1] is not None]
        specs = [spec or "" for _, _, spec, _ in fields]
        if any("{" in spec for spec in specs):
            raise OverBudgetError("it formats text to a width that it computes")
        widths = [number for spec in specs for number in re.findall(r"\d+", spec)]
        self._widths(widths)
        self.fits(len(form) + len(fields) * (self.weight(values) + _WIDEST * bool(widths)))

    def _widths(self, widths: Iterable[str]) -> None:
        for width in widths:
            if width == "*" or len(width) > 4 or int(width) > _WIDEST:
                raise OverBudgetError(f"it formats text to the width {width[:20]}")

    def method(self, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Check a method of a text; its arguments, of which a stream is read into a list."""
        if name in ("ljust", "rjust", "center", "zfill") and args:
            self.fits(_whole(args[0]))
        elif name == "expandtabs":
            self.fits(len(text) + text.count("\t") * _whole(args[0] if args else kwargs.get("tabsize", 8)))
        elif name == "replace" and len(args) > 1:
            self.replaced(text, args[0], args[1])
        elif name == "join" and args:
            return (self.joined(text, args[0]),)
        return args

    def replaced(self, text: Any, old: Any, new: Any) -> None:
        """Check `text.replace(old, new)`."""
        if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
            self.fits(len(text) + text.count(old) * len(new))

    def joined(self, between: Any, values: Any) -> Any:
        """Check `between.join(values)`; the values, of which a stream is read into a list."""
        values = values if isinstance(values, (str, *_CONTAINERS)) else self.items(values)
        self.fits(self.weight(values) + len(values) * len(str(between)))
        return values

    def parts(self, n: Any) -> None:
        """Check the number of parts that something is cut into."""
        if _whole(n) > _PARTS:
            raise OverBudgetError(f"it makes {n:,} parts")


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


#: The budget of the template that runs in this thread.
CURRENT: ContextVar[Budget] = ContextVar("budget")

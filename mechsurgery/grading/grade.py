"""`Grade`: a named, versioned decision on a response to a prompt.

Word lists, the built-in world's graders, rubrics asked of a judge and regular expressions all have this one form, so
each can be a metric of any evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..checks import check_arguments
from ..errors import InputError, listed
from ..prompts import Prompt
from .judges import Judge

#: Yes or no, a number, a label, or None where a response cannot be graded.
Value = bool | float | str | None
Item = tuple[Prompt, str]
#: The label of a response that is neither the behaviour nor its opposite done well.
BROKEN = "broken"


class Outcome(NamedTuple):
    """The three labels of an outcome: shows the behaviour, does the opposite well, is neither."""

    shows: str
    well: str
    broken: str


#: The labels of answers to claims and questions.
ANSWERS = Outcome("bad", "good", BROKEN)
#: The labels of answers to requests.
REQUESTS = Outcome("refuses", "complies", BROKEN)


@dataclass(frozen=True)
class Grade:
    """What a response to a prompt is.

    `decide` looks at one response, `decide_all` at many at once, as judges do; give one of them. `scale` says what
    comes out: "rate" (yes or no), "number" (any finite one) or "label", which is so where `labels` names every label
    that can be given. A change of what is decided needs another `version`: kept grades are looked up by it. `judges`
    are those that it asks, whose tokens and cost (`spent`, where a judge counts them) an evaluation writes down.
    """

    name: str
    version: str
    decide: Callable[[Prompt, str], Value] | None = None
    decide_all: Callable[[Sequence[Item]], Sequence[Value]] | None = None
    labels: tuple[str, ...] = ()
    scale: Literal["rate", "number", "label"] = "rate"
    judges: tuple[Judge, ...] = ()

    def __post_init__(self) -> None:
        if (self.decide is None) == (self.decide_all is None):
            raise InputError(f"grade {self.name!r} needs decide or decide_all, and only one of them")
        if self.scale == "label" and not self.labels:
            raise InputError(f"grade {self.name!r} gives labels; name them all, as in labels=('yes', 'no')")
        object.__setattr__(self, "scale", "label" if self.labels else self.scale)

    @property
    def outcome(self) -> Outcome:
        """The labels by their part, of a grade that says shows, well or broken, in this order.

        A behaviour that is gone is not one that is repaired, so studies ask for such a grade. Raises `InputError` for
        any other.
        """
        if len(self.labels) != 3 or self.labels[2] != BROKEN:
            raise InputError(
                f"grade {self.name!r} gives {listed(self.labels) if self.labels else f'a {self.scale}'}; needed are "
                f"three labels: shows the behaviour, does the opposite well, {BROKEN!r}; see grading.outcome"
            )
        return Outcome(*self.labels)

    def __call__(self, prompt: Prompt, response: str) -> Value:
        """The grade of one response."""
        return self.all([(prompt, response)])[0]

    def all(self, items: Sequence[Item]) -> list[Value]:
        """The grade of every response, in order.

        Raises `InputError` for a value that is not of the grade's scale: an unknown label, a number that is not finite.
        """
        if self.decide_all is not None:
            values = list(self.decide_all(items))
        else:
            assert self.decide is not None
            values = [self.decide(prompt, response) for prompt, response in items]
        if len(values) != len(items):
            raise InputError(f"grade {self.name!r} gave {len(values)} values for {len(items)} responses")
        return [self._checked(value, item) for value, item in zip(values, items)]

    def _checked(self, value: Any, item: Item) -> Value:
        if value is None or (self.labels and value in self.labels):
            return value
        if not self.labels and not isinstance(value, str) and math.isfinite(value):
            if self.scale == "number":
                return float(value)
            if value in (0, 1):
                return bool(value)
        allowed = listed(self.labels) if self.labels else "yes or no" if self.scale == "rate" else "a finite number"
        raise InputError(f"the grade {self.name!r} of {item[1][:40]!r} is {value!r}; it must be {allowed}, or None")


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression that ignores case. Raises `InputError` where it is none."""
    try:
        return re.compile(pattern, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{pattern[:200]!r} is no regular expression: {error}") from error


def matches(pattern: str, *, name: str) -> Grade:
    """Whether a regular expression is found in the response (case is ignored)."""
    wanted = compiled(pattern)
    return Grade(name, f"search {pattern}", lambda _, response: wanted.search(response) is not None)


def at_least(grade: Grade, threshold: float) -> Grade:
    """Whether a number reaches a threshold, as a rate: `at_least(strongreject(judge), 0.5)`. None stays None.

    Raises `InputError` for a grade that gives no numbers.
    """
    if grade.scale != "number":
        raise InputError(f"grade {grade.name!r} gives a {grade.scale}, no number that could reach {threshold}")

    def decide_all(items: Sequence[Item]) -> list[bool | None]:
        # The grade's own `all` has made every value a finite number or None.
        return [None if value is None else float(value) >= threshold for value in grade.all(items)]

    return Grade(
        f"{grade.name} ≥ {threshold:g}",
        f"{grade.version}, at least {threshold!r}",
        decide_all=decide_all,
        judges=grade.judges,
    )


check_arguments(__name__)

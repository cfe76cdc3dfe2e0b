"""What day a chat template is told, and how it asked."""

from __future__ import annotations

from datetime import date, datetime

from ..checks import check_arguments
from ..errors import PromptError


def midnight(day: date) -> datetime:
    """The beginning of a day."""
    return datetime(day.year, day.month, day.day)


class Clock:
    """The time that a template is told (default: now), and the formats in which it asked."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now, self.formats = now, list[str]()

    def strftime_now(self, format: str) -> str:
        """The time in a format. Raises `ValueError` for one that is none."""
        if not isinstance(format, str) or len(format) > 200 or any(map(_has_width, format.split("%")[1:])):
            raise ValueError(f"it asks for the date in the format {str(format)[:40]!r}")
        self.formats.append(format)
        return (self.now or datetime.now()).strftime(format)


def _has_width(code: str) -> bool:
    """Whether what follows a percent sign asks for so many characters."""
    return code.lstrip("-_^#+0")[:1].isdigit()


check_arguments(__name__, leave=("Clock.strftime_now",), error=PromptError, inner=True)

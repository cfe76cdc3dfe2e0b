"""A progress bar that says what is being done."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_progress(items: Collection[T], doing: str, *, shown: bool, unit: str = "batch") -> Iterator[T]:
    """The items one after the other, beside a bar named after what is `doing` where it is `shown`."""
    from tqdm.auto import tqdm

    yield from tqdm(items, desc=doing, unit=unit, disable=not shown, leave=False)

"""Every error mechsurgery raises on purpose.

    MechsurgeryError
    ├── InputError (also a ValueError)      an argument is outside what is allowed
    │   ├── PromptError                     prompts: empty, duplicated, leaking, too long, unreadable
    │   ├── SiteError (also a KeyError)     no such hook point, layer or unit in this model
    │   └── MismatchError                   an artefact made on another model or of another shape
    ├── LoadError                           a model or an artefact cannot be read
    │   ├── ModelNotFoundError              no such organism, directory or hub id; a file is missing
    │   ├── UnsupportedModelError           the architecture is not one that can be converted
    │   └── UnsafeFileError                 only pickled weights, or code that was not asked for
    ├── ActivationError                     NaN or infinity where numbers are needed
    ├── BusyError (also a RuntimeError)     another thread uses this model, or contexts were left in the wrong order
    ├── WriteError (also an OSError)        a file or folder cannot be written: no space, no permission
    └── MissingExtraError (also an ImportError)   an optional package is not installed

A message says what was given, what is allowed, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .safe_text import visible


class MechsurgeryError(Exception):
    """Root of the tree: catch this to catch everything mechsurgery raises on purpose.

    Its message is safe to print: what commands a terminal, or cannot be seen, is written out.
    """

    def __str__(self) -> str:
        """The message."""
        return visible(super().__str__())


class InputError(MechsurgeryError, ValueError):
    """An argument is outside what is allowed."""


class PromptError(InputError):
    """Prompts are empty, duplicated across sides, leaking between splits, too long or unreadable."""


class SiteError(InputError, KeyError):
    """No such hook point, layer or unit in this model."""

    def __str__(self) -> str:
        """The plain message (KeyError alone would show its repr)."""
        return visible(self.args[0]) if self.args else ""


class MismatchError(InputError):
    """An artefact was made on another model, or has another shape."""


class LoadError(MechsurgeryError):
    """A model or an artefact cannot be read."""


class ModelNotFoundError(LoadError):
    """No such organism, directory or hub id, or one of its files is missing."""


class UnsupportedModelError(LoadError):
    """The architecture cannot be converted to a HookedTransformer."""


class UnsafeFileError(LoadError):
    """Only pickled weights are there, or code that was not asked for would run."""


class ActivationError(MechsurgeryError):
    """NaN or infinity where numbers are needed."""


class BusyError(MechsurgeryError, RuntimeError):
    """Another thread uses this model, or contexts on it were left in the wrong order."""


class WriteError(MechsurgeryError, OSError):
    """A file or folder cannot be written: no space, no permission, something else in its place."""


class MissingExtraError(MechsurgeryError, ImportError):
    """An optional package is not installed."""


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Within it, an import that fails is a `MissingExtraError`: a sentence that names the extra that `what` needs.

    >>> with needs_extra("saes", "a sparse autoencoder"):
    ...     import nothing_of_that_name
    Traceback (most recent call last):
    mechsurgery.errors.MissingExtraError: a sparse autoencoder needs the extra 'saes' (No module named …
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs the extra {extra!r} ({error}); install it with: pip install 'mechsurgery[{extra}]'"
        ) from error


def listed(values, limit: int = 8) -> str:
    """Join the first few of some values for a message, and say how many more there are.

    >>> listed(["a", "b", "c"], limit=2)
    "'a', 'b' and 1 more"
    """
    values = list(values)
    shown = ", ".join(repr(value) for value in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"

"""A model directory is a stranger's: nothing in it leads out of it, and whatever is wrong in it is our own error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..checks import check_arguments
from ..errors import LoadError, MechsurgeryError, UnsafeFileError, UnsupportedModelError, listed

#: What transformers reads of a model directory, by the ends of names.
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
_TEMPLATES = "additional_chat_templates"
ADAPTER = "adapter_config.json"
_LONGEST_REASON = 400


@contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Within it, everything that libraries raise over malformed files is a `LoadError` that names `what`.

    Our own errors, and a GPU without memory left, pass as they are.
    """
    try:
        yield
    except (MechsurgeryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise LoadError(
            f"cannot read {str(what)!r}: {reason(error)}; its files are damaged or belong to another model, fetch it "
            "again"
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, on one short line that every terminal can print; files' own content may stand in it."""
    text = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode("utf-8")
    said = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
    return said if isinstance(error, OSError | ValueError) and said else f"{type(error).__name__}: {said}"


def check_own_files(directory: Path) -> None:
    """Raise `UnsafeFileError` for links that lead out of a model directory, `UnsupportedModelError` for an adapter.

    Links into the hub's cache, whose directories consist of them, are followed.
    """
    home = Path(os.path.realpath(directory))
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    read = [path for path in directory.iterdir() if path.suffix in _READ or path.name == _TEMPLATES]
    out = [
        path.name
        for path in read
        if path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(root) for root in allowed)
    ]
    if out:
        raise UnsafeFileError(
            f"{listed(sorted(out))} in {str(directory)!r} are links that lead out of the directory, which are not "
            "followed; put the files themselves there"
        )
    if (directory / ADAPTER).exists():
        raise UnsupportedModelError(
            f"{str(directory)!r} has {ADAPTER}: an adapter that changes another model. Merge the two (PEFT's "
            "merge_and_unload) and load what that saves, or remove the file where the weights are whole"
        )


check_arguments(__name__, inner=True)

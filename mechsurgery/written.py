"""Which files of a folder this package wrote, so that those of other settings can be taken away and nobody else's are.

A folder's list (`.written`) has a line for every file that was written inside `writing_into`: the digest of its content
and its path. The line stands there before the file does, so that a killed run leaves no file that is not listed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from .checks import check_arguments

logger = logging.getLogger(__name__)
#: The list's name.
FILE = ".written"


@dataclass(frozen=True)
class _Into:
    """A folder that is written into, the names so far, and whether only what inner ones write counts."""

    root: Path
    names: set[str]
    gathers: bool


_into: ContextVar[tuple[_Into, ...]] = ContextVar("written into", default=())


@contextmanager
def writing_into(folder: str | Path, *, only: bool = False, gathers: bool = False) -> Iterator[None]:
    """Inside, every file that is written under `folder` is listed there.

    With `only`, what was listed before and is not written now is removed at the end, if the body ends well: these are
    outputs of other settings. A file that was changed since it was written is somebody's work, and stays. With
    `gathers`, only what is written inside an inner `writing_into` counts, as where a run both measures and saves.
    """
    outer = _into.get()
    own = _Into(Path(folder).resolve(), set(), gathers)
    token = _into.set((*outer, own))
    try:
        yield
        if only and all(one.root != own.root for one in outer):
            _sweep(own.root, own.names)
    finally:
        _into.reset(token)


def clear(folder: str | Path) -> None:
    """Remove every file that is listed in a folder and is as it was written."""
    _sweep(Path(folder).resolve(), set())


def note(path: Path, content: Path) -> None:
    """List a file that is about to be written at `path`; `content` has what it will be."""
    stack = _into.get()
    if not stack or stack[-1].gathers:
        return
    whole, digest = path.resolve(), _digest(content)
    for one in stack:
        if whole.is_relative_to(one.root) and "\n" not in str(whole):
            name = whole.relative_to(one.root).as_posix()
            one.names.add(name)
            with (one.root / FILE).open("a", encoding="utf-8", errors="surrogateescape") as listed:
                listed.write(f"{digest} {name}\n")


def _sweep(root: Path, now: set[str]) -> None:
    """Remove what is listed and not among `now`, and folders that this leaves empty; the list is then that of `now`."""
    listed = _listed(root)
    kept = {name: digests for name, digests in listed.items() if name in now}
    for name in sorted(listed.keys() - now):
        path = root / name
        if not path.is_file() or path.is_symlink() or not path.resolve().is_relative_to(root):
            continue
        if _digest(path) not in listed[name]:
            logger.warning("%s is of another run and was changed since; it is left there", path)
            kept[name] = listed[name]
            continue
        path.unlink()
        for parent in path.relative_to(root).parents:
            if parent == Path(".") or any((root / parent).iterdir()):
                break
            (root / parent).rmdir()
    if not listed:
        return
    lines = "".join(f"{digest} {name}\n" for name, digests in sorted(kept.items()) for digest in sorted(digests))
    scratch = root / f"{FILE}.new"
    scratch.write_text(lines, encoding="utf-8", errors="surrogateescape")
    scratch.replace(root / FILE)


def _listed(root: Path) -> dict[str, set[str]]:
    """{path: digests of what was written there}; lines that a killed process left unfinished are passed over."""
    found: dict[str, set[str]] = {}
    try:
        lines = (root / FILE).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return found
    for line in lines:
        digest, _, name = line.partition(" ")
        if len(digest) == 64 and name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            found.setdefault(name, set()).add(digest)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


check_arguments(__name__, inner=True)

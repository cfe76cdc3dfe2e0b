"""Files and folders that appear whole, on the disk, or not at all; what cannot be written is a `WriteError`.

Something new is made under a temporary name beside its place, flushed to the disk and moved there in one step. The
name says which process makes it, so that what a killed process has left is removed when something is written beside it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .checks import check_arguments
from .errors import InputError, MechsurgeryError, WriteError
from .written import note

_OURS = re.compile(r"\.mechsurgery-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}-.*")
#: What another machine has left is removed when it is older than this (seconds).
_OLD = 86400.0
#: A folder is looked through for what is left at most this often (seconds).
_EVERY = 1.0
_looked: dict[Path, float] = {}

_NEXT = {
    errno.ENOSPC: "free some space or give a folder on another disk",
    errno.EDQUOT: "free some space or give a folder on another disk",
    errno.EFBIG: "raise the limit on the size of files or give a folder on another disk",
    errno.EACCES: "give a folder that you may write in",
    errno.EPERM: "give a folder that you may write in",
    errno.EROFS: "give a folder that you may write in",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "a folder is in its place, give another name",
    errno.ENOTDIR: "a file is where a folder should be, give another folder",
    errno.EEXIST: "a file is where a folder should be, give another folder",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within it, an error of the disk or the file system is a `WriteError` that says what, why and what to do next."""
    try:
        yield
    except MechsurgeryError:
        raise
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        number = re.search(r"(?:os error|errno) (\d+)", why)
        code = getattr(error, "errno", None) or (int(number[1]) if number else 0)
        then = _NEXT.get(code, "give another path, or mend what it says")
        raise WriteError(f"cannot write {str(path)[:300]!r}: {why}; {then}") from error


def check_path(path: str | Path) -> Path:
    """A path as `Path`, with `~` as the user's folder. Raises `InputError` for what no file system can have."""
    try:
        given = Path(path)
        os.fsencode(given)
        if "\0" in str(given):
            raise ValueError("a zero byte")
        return given.expanduser()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{str(path)[:200]!r} is no path that can be written ({error}); give another") from error


def check_space(path: str | Path, needed: int) -> None:
    """Raise `WriteError` where the disk that holds `path` (or its nearest folder) has less than `needed` bytes free."""
    path = check_path(path).absolute()
    with writing(path):
        free = shutil.disk_usage(next(at for at in (path, *path.parents) if at.exists())).free
    if needed > free:
        raise WriteError(
            f"cannot write {str(path)[:300]!r}: it takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free; "
            f"{_NEXT[errno.ENOSPC]}"
        )


def check_writable(path: str | Path) -> None:
    """Raise `WriteError` where nothing could be made at `path`, before anything long is done for it."""
    path = check_path(path).absolute()
    with writing(path), folder_beside(next(at for at in path.parents if at.exists()) / path.name):
        pass


def make_folder(path: str | Path) -> Path:
    """A folder that is there afterwards. Raises `WriteError`."""
    folder = check_path(path)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then move it there in one step.

    Raises `WriteError` with the reason where that cannot be done; what was there before is then as it was.
    """
    path = check_path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        make_folder(path.parent)
        _check_name(path)
        _sweep(path.parent, _EVERY)
        temporary = _temporary(path)
        try:
            write(temporary)
            os.chmod(temporary, 0o644)
            _flush(temporary)
            note(path, temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    return path


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `path`, gone at the end unless it was moved. Raises `WriteError`."""
    path = check_path(path)
    with writing(path):
        make_folder(path.parent)
        _check_name(path)
        _sweep(path.parent, 0.0)
        folder = _temporary(path)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_directory(out: str | Path) -> Iterator[Path]:
    """A temporary directory that becomes `out` at the end, flushed to the disk, or vanishes.

    Raises `InputError` where something is at `out`, also a link to nothing, `WriteError` for what cannot be written.
    """
    out = check_path(out)
    with writing(out):
        if os.path.lexists(out):
            raise InputError(f"{str(out)!r} exists; give a directory that does not, so that nothing is overwritten")
        with folder_beside(out) as folder:
            yield folder
            for path in sorted(folder.rglob("*")):
                _flush(path)
            _flush(folder)
            # Renaming replaces an empty directory that has appeared there, and nothing else.
            folder.rename(out)
            _flush(out.parent)


def _check_name(path: Path) -> None:
    """Raise the system's own error where a name is too long to exist."""
    with suppress(FileNotFoundError):
        path.lstat()


def _flush(path: Path) -> None:
    """Make the system write a file, or the names in a folder, to the disk, where it can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    """A name beside a path that says which process writes there, with the path's own ending."""
    own = f".mechsurgery-{_machine()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}-"
    return path.with_name(f"{own}{path.stem[:40].encode()[:80].decode('utf-8', 'ignore')}{path.suffix[:40]}")


@cache
def _machine() -> str:
    """Eight digits that stand for this machine since it was started, and for the process numbers that count here."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode("utf-8", "replace")).hexdigest()[:8]


def _started(process: int) -> int | None:
    """When a process was started, in ticks, as numbers are used again; 0 where that is not known, None where none is.

    0 too for one that is there and may not be asked.
    """
    try:
        return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        pass
    if os.name == "nt":
        return 0
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def _sweep(folder: Path, every: float) -> None:
    """Remove what killed processes have left in a folder: only what this package names so and nobody writes now."""
    now = time.monotonic()
    if now - _looked.get(folder, -every) < every:
        return
    _looked[folder] = now
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _OURS.fullmatch(entry.name)
            if found and _is_left(entry, *found.groups()):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str], machine: str, process: str, started: str) -> bool:
    if machine != _machine():
        try:
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD
        except OSError:
            return False
    return str(_started(int(process))) != started


check_arguments(__name__, inner=True)

"""Files that hold a checksum of themselves, so that a changed byte is found before anything is made of it.

The seal is a text inside the file ("mechsurgery sha256 " and 64 digits), where its format has room for one: Parquet and
safetensors in their metadata, JSON as a field. The digits are the SHA-256 of the whole file with zeros in their place,
so that a sealed file is still one of its own format, which any program reads.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DIGITS = 64
_WORDS = b"mechsurgery sha256 "
_SEAL = re.compile(_WORDS + b"([0-9a-f]{64})")
#: What a file has where its seal is to be.
BLANK = (_WORDS + b"0" * _DIGITS).decode()


def sealed(content: bytes) -> bytes:
    """Content with the digits of its seal in place of the last `BLANK`."""
    place = content.rfind(BLANK.encode()) + len(_WORDS)
    return content[:place] + _digest(content, place).encode() + content[place + _DIGITS :]


def seal_file(path: Path) -> None:
    """`sealed` of a safetensors file, in place; its seal stands in its header."""
    with _mapped(path) as content:
        place = content.rfind(BLANK.encode(), 0, _header(content)) + len(_WORDS)
        digits = _digest(content, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digits.encode())


def is_intact(content: Any, end: int | None = None) -> bool | None:
    """Whether content is what was sealed; None where there is no seal in it (before `end`)."""
    found = [(match.start(1), match[1]) for match in _SEAL.finditer(content, 0, len(content) if end is None else end)]
    if not found:
        return None
    return any(_digest(content, place).encode() == digits for place, digits in found)


def is_file_intact(path: Path) -> bool | None:
    """`is_intact` of a file, which is not read into memory."""
    with _mapped(path) as content:
        return is_intact(content, _header(content) if path.suffix == ".safetensors" else None)


def _header(content: Any) -> int:
    """Where the header of a safetensors file ends; it begins with its own length."""
    return min(len(content), 8 + int.from_bytes(content[:8], "little"))


def _digest(content: Any, place: int) -> str:
    digest = hashlib.sha256()
    with memoryview(content) as view:
        digest.update(view[:place])
        digest.update(b"0" * _DIGITS)
        digest.update(view[place + _DIGITS :])
    return digest.hexdigest()


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content

"""How much memory there is for a device, and how much something took at its peak."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..checks import check_arguments

GIB = 2**30
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available(device: torch.device | str) -> int | None:
    """Bytes that can still be taken on a device; of a CPU, what the machine and its container leave.

    None where the system does not say (CPUs of other systems than Linux).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [*_kilobytes(Path("/proc/meminfo"), "MemAvailable"), *_left_in_container()]
    return min(found, default=None)


def _left_in_container() -> list[int]:
    """What a control group leaves; pages of files, which can be dropped, count as used there."""
    try:
        return [int(_LIMIT.read_text()) - int(_USED.read_text())]
    except (OSError, ValueError):
        return []


def _kilobytes(path: Path, name: str) -> list[int]:
    """A number of a file of /proc, in bytes; empty where it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]


@contextmanager
def peak(device: torch.device | str) -> Iterator[Callable[[], int | None]]:
    """Within it, the function tells by how many bytes memory has been at most above where it stood at the beginning.

    On a GPU that is what tensors took; elsewhere what the process took. None where the system does not say.
    """
    device = torch.device(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device)) - before
        return
    _give_back()
    try:
        _RESET.write_text("5")
    except OSError:
        yield lambda: None
        return
    began = _kilobytes(_STATUS, "VmRSS")
    yield lambda: max(0, _kilobytes(_STATUS, "VmHWM")[0] - began[0]) if began else None


def process(device: torch.device | str) -> int:
    """Bytes that this process has on a device now; 0 where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    _give_back()
    return sum(_kilobytes(_STATUS, "VmRSS"))


def _give_back() -> None:
    """Have memory that was freed, and that the C library keeps for later, counted as the system's again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


check_arguments(__name__)

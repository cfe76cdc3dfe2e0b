"""How the devices of a model are named: one, several with what each may take, or "auto" for all GPUs."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from .errors import InputError

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LIMITED = re.compile(r"([^=]+)=(\d{1,9}(?:\.\d{1,9})?) ?(KiB|MiB|GiB)")


class Named(NamedTuple):
    """A device, and how many bytes of weights it may take at most (None: what is free)."""

    device: torch.device
    limit: int | None = None


def named_devices(wanted: str | torch.device | None) -> list[Named]:
    """The devices that a text names: "cpu", "cuda:1", "cuda:0,cuda:1=20GiB", "auto" or None for all GPUs, else the CPU.

    Raises `InputError` for what names no device, or one twice.
    """
    if wanted is None or wanted == "auto":
        gpus = [Named(torch.device("cuda", number)) for number in range(torch.cuda.device_count())]
        return gpus or [Named(torch.device("cpu"))]
    if isinstance(wanted, torch.device):
        return [Named(wanted)]
    found = [_named(part.strip(), wanted) for part in str(wanted).split(",")]
    if len({one.device for one in found}) < len(found):
        raise InputError(f"device={str(wanted)[:200]!r} names one device twice; name each once")
    return found


def _named(part: str, wanted: str) -> Named:
    match = _LIMITED.fullmatch(part)
    try:
        device = torch.device(match[1].strip() if match else part)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device={str(wanted)[:200]!r} names no device with {part[:60]!r}; give one such as 'cpu' or 'cuda:0', "
            "several as in 'cuda:0,cuda:1=20GiB', or 'auto' for all GPUs"
        ) from error
    if device.type == "cpu":  # a number says nothing there
        device = torch.device("cpu")
    elif device == torch.device("cuda") and "," in wanted:
        device = torch.device("cuda", 0)
    return Named(device, int(float(match[2]) * _UNITS[match[3]]) if match else None)

"""Digests of everything that something depends on: the keys under which rows and fine-tunes are kept.

Two different values never share a digest by how they are written: every value goes in with its kind and its length, a
tensor with its dtype, its shape and its bits. So [0, 5] and [5, 0], "1" and 1, ("ab", "c") and ("a", "bc") all differ.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from .checks import check_arguments
from .errors import InputError

_WHOLE = "digest"


def digest_of(*values: Any) -> str:
    """SHA-256, 64 hexadecimal digits, of plain values, tensors, arrays, dataclasses, functions, and what holds them.

    NumPy's single numbers are those of Python; a list and a tuple of the same are one, the order of a mapping does not
    count. An object with a `digest` is its digest. Raises `InputError` for a value that has none of these forms.

    >>> digest_of("ab", "c") == digest_of("a", "bc")
    False
    """
    found = hashlib.sha256()
    for value in values:
        found.update(encoded(value))
    return found.hexdigest()


def encoded(value: Any, inside: tuple[int, ...] = ()) -> bytes:
    """The bytes that stand for one value (`inside`: the objects that it is found in, which may point back)."""
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, int):
        return _framed(b"i", repr(int(value)).encode())
    if isinstance(value, float):
        return _framed(b"f", struct.pack(">d", math.nan if math.isnan(value) else value))
    if isinstance(value, str):
        # Lone surrogates have no UTF-8, and are two values still.
        return _framed(b"s", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (bytes, bytearray)):
        return _framed(b"y", bytes(value))
    if isinstance(value, (list, tuple)):
        return _listed(value, inside)
    if hasattr(value, "detach") and hasattr(value, "dtype"):
        return tensor_bytes(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return encoded(value.tolist()) if not getattr(value, "shape", ()) else _array(value)
    return _object(value, inside)


def tensor_bytes(tensor: Any) -> bytes:
    """A tensor with its dtype, its shape and its bits, wherever it lies."""
    import torch

    own = tensor.detach().cpu().contiguous()
    facts = _framed(b"s", str(own.dtype).encode()) + _framed(b"s", repr(tuple(own.shape)).encode())
    return _framed(b"t", facts + _framed(b"y", own.flatten().view(torch.uint8).numpy().tobytes()))


def _array(array: Any) -> bytes:
    if array.dtype.hasobject:
        return _framed(b"a", encoded(list(array.shape)) + encoded(array.ravel().tolist()))
    facts = _framed(b"s", array.dtype.str.encode()) + _framed(b"s", repr(array.shape).encode())
    return _framed(b"a", facts + _framed(b"y", array.tobytes()))


def _framed(kind: bytes, content: bytes) -> bytes:
    return kind + str(len(content)).encode() + b":" + content


def _listed(values: Sequence[Any], inside: tuple[int, ...]) -> bytes:
    if all(type(one) is int for one in values):
        # Most of what is ever digested is token ids.
        return _framed(b"I", ",".join(map(str, values)).encode())
    return _framed(b"l", str(len(values)).encode() + b";" + b"".join(encoded(one, inside) for one in values))


def _object(value: Any, inside: tuple[int, ...]) -> bytes:
    """Mappings, sets, paths, functions, dataclasses and what has a digest of its own."""
    if id(value) in inside:
        return _framed(b"r", str(len(inside) - inside.index(id(value))).encode())
    inside = (*inside, id(value))
    into = partial(encoded, inside=inside)
    if isinstance(value, Mapping):
        pairs = sorted(_framed(b"k", into(key)) + into(one) for key, one in value.items())
        return _framed(b"m", str(len(pairs)).encode() + b";" + b"".join(pairs))
    if isinstance(value, Set):
        return _framed(b"e", b"".join(sorted(map(into, value))))
    if isinstance(value, PurePath):
        return _framed(b"p", str(value).encode("utf-8", "surrogatepass"))
    kind = type(value)
    named = _framed(b"s", f"{kind.__module__}.{kind.__qualname__}".encode())
    own = getattr(value, _WHOLE, None)
    if isinstance(own, str):
        return _framed(b"g", named + into(own))
    if isinstance(value, (*_NAMED, FunctionType, MethodType, partial, CodeType)):
        return _framed(b"c", into(_code(value)))
    if value is ... or isinstance(value, complex):
        return _framed(b"u", repr(value).encode())
    if is_dataclass(value):
        return _framed(b"d", named + into({one.name: getattr(value, one.name) for one in fields(value)}))
    if hasattr(value, "state_dict"):
        return _framed(b"d", named + into(value.state_dict()))
    if isinstance(getattr(value, "__dict__", None), dict):
        called = vars(kind).get("__call__")
        return _framed(b"d", named + into([called, vars(value)]))
    raise InputError(
        f"a {kind.__qualname__} cannot be part of what kept results depend on; use plain values, tensors and "
        "dataclasses, or give the object or function that uses it an attribute `digest`, a text that stands for it"
    )


#: What is known by its name alone.
_NAMED = (BuiltinFunctionType, ModuleType, type)


def _code(value: Any) -> list[Any]:
    """What a function does: its code, what it was made with, and the values that it reads from its own module."""
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names, value.co_varnames]
    if isinstance(value, partial):
        return ["partial", value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return ["method", value.__func__, value.__self__]
    if isinstance(value, _NAMED):
        return [getattr(value, "__module__", ""), getattr(value, "__qualname__", "") or value.__name__]
    cells = [_cell(cell) for cell in value.__closure__ or ()]
    read = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
    for name, one in read.items():
        # Another module's function is known by its name, as that module is.
        if isinstance(one, FunctionType) and one.__module__ != value.__module__:
            read[name] = f"{one.__module__}.{one.__qualname__}"
    return [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells, read]


def _names(code: CodeType) -> set[str]:
    """Every name that code and the functions inside it look up."""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return {*code.co_names}.union(*map(_names, inner))


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


check_arguments(__name__, leave=("encoded",), inner=True)

"""What a value must be to have a type: annotations as checks, for arguments (`checks`) and for what files hold.

`int` is no `True` and has at most 64 bits, `float` is finite, a `Sequence[str]` is no string, a `Literal` one of its
choices, a `Path` one that a file system takes, a text whole characters. By the name of a parameter a number has a least
value and a name no control characters.
"""

from __future__ import annotations

import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

from .device_names import named_devices
from .errors import InputError, MechsurgeryError

#: The least that a whole number of a name may be ("function.name" where it is another), and the most; none has more
#: than 64 bits.
_NAMED = {
    0: """seed controls nulls shots settle steps warmup index latent neuron retries answer initial n_response n_spread
        n_held effect_rows patience random with_controls.n with_responses.n tokens ids token_ids refusal_tokens seeds
        stop calibrated.n""",
    1: """n k max_rows max_tokens max_new_tokens top width resamples rows kept_rows rank batch accumulate per_round
        n_parts n_ctx n_samples max_pairs n_control_prompts bins batch_size max_length every repeats at_most contexts
        n_top validate_every random_circuits.n at_once.most""",
    2: "folds",
}
LEAST = {name: least for least, names in _NAMED.items() for name in names.split()}
MOST = {
    "with_controls.n": 10_000,
    "random_circuits.n": 10_000,
    "calibrated.n": 1_000_000,
    "steps": 1_000_000,
    "bins": 10_000,
    "nulls": 1_000_000,
    "resamples": 1_000_000,
    "controls": 100_000,
    "rank": 65_536,
    "port": 65_535,
}
#: Names of parameters that hold what prompts are made of, or what a progress bar says: prompts check their texts
#: themselves and say which it is, and a bar makes its text visible.
PROMPTS = frozenset("text texts prefix system completion completions messages prompt doing".split())
#: Names of parameters that are shown as names: control characters and marks that turn the writing round are refused.
NAMES = frozenset("name rule names kind control_of hook_name metric grade site".split())
#: In the place of a name, for what users do not call: types alone are checked; a number may be NaN, a text anything.
INNER = "*"
#: Names of lists whose every whole number is bounded.
_EACH = frozenset("tokens ids token_ids refusal_tokens seeds stop".split())
_HALF = re.compile("[\ud800-\udfff]")
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
_LONGEST_PATH, _LONGEST_PART = 4000, 255
#: The most that a range may hold: it takes no memory itself, and a list of it does.
_LONGEST_RANGE = 10_000_000


class Check(NamedTuple):
    """Whether a value is allowed, and in words what is."""

    allows: Callable[[Any], bool]
    said: str


def conforms(value: Any, hint: Any, what: str, error: type[MechsurgeryError] = InputError) -> Any:
    """The value itself, where it is of a type; else `error`, with `what` it was to be.

    >>> conforms({"a": [1]}, dict[str, list[int]], "the places")
    {'a': [1]}
    """
    check = check_of(hint, "")
    if check is not None and not check.allows(value):
        raise error(f"{what} is {shown(value)}; it must be {check.said}")
    return value


def shown(value: Any) -> str:
    """A value in a message: short, on one line, and never failing."""
    if value is None or isinstance(value, (str, bytes, bool, int, float, complex, list, tuple, dict, set, Path)):
        try:
            text = reprlib.repr(value)
        except Exception:  # as of a whole number with thousands of digits
            text = f"a {type(value).__name__}"
        return " ".join(text.split())[:160]
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


def check_of(hint: Any, name: str) -> Check | None:
    """What is checked of a value with an annotation, in a parameter of a name; None where everything is allowed."""
    origin, inside = get_origin(hint), get_args(hint)
    if name == "device":
        needed = origin in (typing.Union, types.UnionType) and type(None) not in inside
        return Check(
            lambda value: _is_device(value) and not (needed and value is None),
            "a device of this machine, such as 'cpu', several as in 'cuda:0,cuda:1=20GiB', or 'auto'",
        )
    if hint is Any or hint is object:
        return _TOKENIZER if name == "tokenizer" else None
    if hint is None or hint is type(None):
        return Check(lambda value: value is None, "None")
    if origin in (typing.Union, types.UnionType):
        return _any_of(inside, name)
    if origin is typing.Annotated:
        return check_of(inside[0], name)
    if origin is Literal:
        return _one_of(inside)
    if hint in _SIMPLE:
        return _SIMPLE[hint](name)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return _mapping(inside, name)
    if origin is tuple and inside and inside[-1] is not Ellipsis:
        return _fixed(inside, name)
    if origin in _LISTS or hint in _LISTS:
        return _several(origin or hint, inside, name)
    if origin is Callable or hint is Callable:
        return Check(callable, "a function")
    if hasattr(hint, "array_type") and hasattr(hint, "dims"):
        return _array(hint)
    if getattr(hint, "_is_protocol", False):
        return _protocol(hint)
    if isinstance(hint, type):
        return Check(lambda value: isinstance(value, hint), f"a {hint.__name__}")
    return None


def _one_of(choices: tuple[Any, ...]) -> Check:
    texts = frozenset(one for one in choices if isinstance(one, str))

    def allows(value: Any) -> bool:
        if isinstance(value, str):
            return value in texts
        return any(type(value) is type(one) and value == one for one in choices)

    return Check(allows, "one of " + ", ".join(map(repr, choices)))


def _any_of(hints: tuple[Any, ...], name: str) -> Check | None:
    if str in hints and any(isinstance(one, type) and issubclass(one, PurePath) for one in hints):
        paths = tuple(one for one in hints if isinstance(one, type) and issubclass(one, PurePath))
        hints = (_TextOrPath, *(one for one in hints if one is not str and one not in paths))
    checks = [check_of(one, name) for one in hints]
    if None in checks:
        return None
    each = tuple(check.allows for check in checks if check is not None)
    said = " or ".join(check.said for check in checks if check is not None)
    if type(None) in hints and len(each) == 2:
        only = each[hints.index(type(None)) - 1]
        return Check(lambda value: value is None or only(value), said)

    def allows(value: Any) -> bool:
        return any(one(value) for one in each)

    return Check(allows, said)


def _whole(name: str) -> Check:
    least, most = LEAST.get(name, -(1 << 63)), MOST.get(name, (1 << 63) - 1)
    said = "a whole number"
    said += f" of at least {least}" if name in LEAST else ""
    said += f" and at most {most:,}" if name in MOST else ""

    def allows(value: Any) -> bool:
        whole: Any = value
        return (type(value) is int or (isinstance(value, Integral) and value is not True and value is not False)) and (
            bool(least <= whole <= most)
        )

    return Check(allows, said)


def _number(name: str) -> Check:
    def allows(value: Any) -> bool:
        if type(value) is float or (name == INNER and isinstance(value, Real)):
            return name == INNER or math.isfinite(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        if isinstance(value, int):
            return -(1 << 63) <= value < 1 << 63
        try:
            return math.isfinite(value)
        except OverflowError:  # a fraction that no float holds
            return False

    return Check(allows, "a number" if name == INNER else "a finite number")


def _float_like(name: str) -> Check:
    def allows(value: Any) -> bool:
        return not isinstance(value, (bool, type)) and isinstance(value, typing.SupportsFloat)

    return Check(allows, "a number")


def _text(name: str) -> Check:
    hidden = _HIDDEN if name in NAMES else _HALF
    said = "a text without lone surrogates" + (" and control characters" if name in NAMES else "")

    def allows(value: Any) -> bool:
        if not isinstance(value, str) or name == INNER:
            return isinstance(value, str)
        return (
            name in PROMPTS
            or (value.isascii() and hidden is _HALF)
            or not (_HALF.search(value) or hidden.search(value))
        )

    return Check(allows, said)


class _TextOrPath:
    """Stands for a path that may also be given as a text."""


def _path(name: str) -> Check:
    either = _text_or_path(name).allows
    return Check(lambda value: isinstance(value, PurePath) and either(value), "a Path without null characters")


def _text_or_path(name: str) -> Check:
    def allows(value: Any) -> bool:
        if isinstance(value, PurePath):
            value = str(value)
        if not isinstance(value, str) or not value or "\x00" in value or len(value) > _LONGEST_PATH:
            return False
        if not value.isascii() and _HALF.search(value):
            return False
        return len(value) <= _LONGEST_PART or all(len(part.encode()) <= _LONGEST_PART for part in value.split("/"))

    return Check(allows, "a path (a text or Path without null characters, no part longer than 255 bytes)")


def _truth(name: str) -> Check:
    return Check(lambda value: type(value) is bool or type(value).__name__ == "bool", "True or False")


def _mapping(inside: tuple[Any, ...], name: str) -> Check:
    key, each = (check_of(one, name if name == INNER else "") for one in inside) if len(inside) == 2 else (None, None)

    def allows(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and (key is None or all(map(key.allows, value)))
            and (each is None or all(map(each.allows, value.values())))
        )

    said = (
        "a dictionary" if key is None else f"a dictionary of {key.said} to {'anything' if each is None else each.said}"
    )
    return Check(allows, said)


def _fixed(inside: tuple[Any, ...], name: str) -> Check:
    checks = [check_of(one, name) for one in inside]

    def allows(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) == len(checks)
            and all(check is None or check.allows(one) for check, one in zip(checks, value))
        )

    return Check(allows, "a tuple of (" + ", ".join("anything" if one is None else one.said for one in checks) + ")")


def _several(kind: Any, inside: tuple[Any, ...], name: str) -> Check:
    each = check_of(inside[0], name if name in PROMPTS | NAMES | _EACH | {INNER} else "") if inside else None
    exact = kind if kind in (list, tuple, set, frozenset) else None

    def allows(value: Any) -> bool:
        if isinstance(value, (str, bytes, PurePath)) or (isinstance(value, Mapping) and kind not in _GONE_THROUGH):
            return False
        if isinstance(value, range) and len(value[: _LONGEST_RANGE + 1]) > _LONGEST_RANGE:
            return False
        if exact is not None and not isinstance(value, exact):
            return False
        if not isinstance(value, (list, tuple, set, frozenset, range)):
            if isinstance(value, type) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) != 1:
                return False
            if (
                hasattr(value, "dtype")
                and inside
                and (inside[0] not in _PLAIN or (inside[0] is str and not len(value)))
            ):
                return False  # an array holds numbers or texts; one of nothing is not taken for an empty list of texts
            if not hasattr(value, "__len__"):
                return kind is Iterable  # an iterator is read once, by the function itself
            try:
                value = value.tolist() if hasattr(value, "tolist") else value
            except (RuntimeError, TypeError):  # a tensor without numbers (meta), or a sparse one
                return False
        return each is None or all(map(each.allows, value))

    word = {tuple: "a tuple", set: "a set", frozenset: "a set"}.get(kind, "a list")
    return Check(allows, f"{word} of {'anything' if each is None else each.said}")


def _array(hint: Any) -> Check:
    kinds = hint.dtypes
    dims = hint.dims
    n = None if not isinstance(dims, tuple) or hint.index_variadic is not None else len(dims)
    said = "a tensor"
    if isinstance(kinds, (list, tuple)):
        said += " of floating numbers" if any("float" in str(kind) for kind in kinds) else " of whole numbers"
    said += "" if n is None else f" with {n} dimension{'s'[: n != 1]}"

    def allows(value: Any) -> bool:
        if not isinstance(value, hint.array_type) or (n is not None and value.ndim != n):
            return False
        if isinstance(value, Tensor) and (value.is_meta or value.layout is not torch.strided):
            return False  # without numbers, or not with all of them
        return not isinstance(kinds, (list, tuple)) or str(value.dtype).removeprefix("torch.") in kinds

    return Check(allows, said)


def _protocol(hint: Any) -> Check:
    names = [name for name in {**vars(hint), **getattr(hint, "__annotations__", {})} if not name.startswith("_")]

    def allows(value: Any) -> bool:
        own = getattr(value, "__dict__", {})
        return not isinstance(value, type) and all(name in own or hasattr(type(value), name) for name in names)

    said = (
        "a model of TransformerLens, as mechsurgery.load_model gives it" if hint.__name__ == "Model" else hint.__name__
    )
    return Check(allows, said)


def _is_device(value: Any) -> bool:
    """Whether a value names devices that are there; None is the default one."""
    if value is None or not isinstance(value, (str, torch.device)):
        return value is None
    try:
        return all(_is_there(one.device) for one in named_devices(value))
    except InputError:
        return False


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type in ("cpu", "meta"):
        return True
    try:
        return torch.empty(0, device=device).numel() == 0
    except (RuntimeError, AssertionError, NotImplementedError):
        return False


_TOKENIZER = Check(
    lambda value: not isinstance(value, type) and hasattr(value, "all_special_tokens"),
    "a tokenizer of transformers, such as model.tokenizer (a model that has no tokenizer: set it)",
)
#: What is only gone through: a dictionary does for its keys.
_GONE_THROUGH = (Iterable, Collection)
_PLAIN = (int, float, str, bool, Any, object)
_LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection)
_SIMPLE: dict[Any, Callable[[str], Check]] = {
    int: _whole,
    float: _number,
    str: _text,
    bool: _truth,
    Path: _path,
    _TextOrPath: _text_or_path,
    typing.SupportsFloat: _float_like,
}

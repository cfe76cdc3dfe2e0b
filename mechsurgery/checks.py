"""One way to check what is given: arguments of public functions, and the content of files, against their annotations.

A module that ends in `check_arguments(__name__)` has every public function, constructor and method of it check what it
is given before anything runs: types by the annotation (`Sequence[str]` is no string, `int` no `True`, `float` finite,
`Literal` one of its choices, `Model` something with hook points), and by the parameter's name what a number or name of
that name may be (`n` is at least 1, a `name` has no control characters). What does not fit is an `InputError`
(among prompts a `PromptError`) that says what was given and what is allowed. Signatures, docstrings and what
editors show stay as they are; a call costs about a microsecond for each argument, so inner loops use modules that do
not check. `allowed` says what each type allows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import Parameter, iscoroutinefunction, isfunction, signature
from pathlib import PurePath
from typing import Any, NamedTuple

from .allowed import LEAST, Check, check_of, shown
from .errors import InputError, LoadError, MechsurgeryError

_OPERATORS = ("__init__", "__call__", "__add__", "__sub__", "__mul__", "__rmul__", "__or__", "__and__", "__getitem__")


def check_arguments(module: str, *, leave: Collection[str] = (), error: type[MechsurgeryError] = InputError) -> None:
    """Have the public functions and classes that a module defines check what they are given; call it at its end.

    `leave` names those that stay as they are: callbacks of other programs and what runs in inner loops. `error` is
    what is raised.
    """
    inside = vars(sys.modules[module])
    for name, own in list(inside.items()):
        if name.startswith("_") or name in leave or getattr(own, "__module__", None) != module:
            continue
        if isfunction(own) and not iscoroutinefunction(own):
            inside[name] = checked(own, kind=error)
        elif isinstance(own, type) and not issubclass(own, BaseException) and not getattr(own, "_is_protocol", False):
            _check_methods(own, leave, error)


def _check_methods(of_class: type, leave: Collection[str], error: type[MechsurgeryError]) -> None:
    for name, own in list(vars(of_class).items()):
        if (name.startswith("_") and name not in _OPERATORS) or f"{of_class.__name__}.{name}" in leave:
            continue
        if isfunction(own) and not iscoroutinefunction(own):
            setattr(of_class, name, checked(own, 1, of_class, error))
        elif isinstance(own, classmethod):
            setattr(of_class, name, classmethod(checked(own.__func__, 1, of_class, error)))
        elif isinstance(own, staticmethod):
            setattr(of_class, name, staticmethod(checked(own.__func__, 0, of_class, error)))


class _Plan(NamedTuple):
    """Of one function: parameters by position, what is checked of each, what it is called, what is raised."""

    positions: tuple[str, ...]
    checks: dict[str, Check]
    where: str
    error: type[MechsurgeryError]


def checked(
    function: Callable[..., Any],
    leading: int = 0,
    of_class: type | None = None,
    kind: type[MechsurgeryError] = InputError,
) -> Callable[..., Any]:
    """The same function, which first checks its arguments; `leading` are those of a method that are not (self)."""
    plan: _Plan | None = None

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal plan
        if plan is None:
            plan = _plan(function, leading, of_class, kind)
        checks = plan.checks
        name, value = "", None
        try:
            for name, value in zip(plan.positions, args[leading:] if leading else args):
                if name in checks and not checks[name].allows(value):
                    raise _refusal(plan, name, value)
            for name, value in options.items():
                if name in checks and not checks[name].allows(value):
                    raise _refusal(plan, name, value)
        except MechsurgeryError:
            raise
        except Exception as error:  # a value that cannot even be looked at, such as a list that fails when it is read
            raise _refusal(plan, name, value) from error
        try:
            return function(*args, **options)
        except TypeError as error:
            # Only where the call itself does not fit the signature has the callee no frame.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                _say_of_tables(plan, error, args, options)
                raise
            allowed = ", ".join(list(signature(function).parameters)[leading:])
            raise plan.error(f"{error}; {plan.where} takes ({allowed})") from None
        except (LookupError, ValueError, AttributeError) as error:
            _say_of_tables(plan, error, args, options)
            raise
        except OSError as error:
            _say_of_paths(plan, error, args, options)
            raise

    return call


def _say_of_tables(plan: _Plan, error: Exception, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise what pandas says of a table that was given, such as that it lacks a column, as an error of our own."""
    if isinstance(error, MechsurgeryError):
        return
    tables = [one for one in (*args, *options.values()) if type(one).__name__ in ("DataFrame", "Series")]
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = "" if last is None else str(last.tb_frame.f_globals.get("__name__"))
    if tables and where.startswith(("pandas", "numpy", "pyarrow", "mechsurgery.plots")):
        columns = [shown(one) for one in getattr(tables[0], "columns", tables[0].index)[:12]]
        raise plan.error(
            f"{plan.where}: a table or row does not have what is needed ({type(error).__name__}: {str(error)[:200]}); "
            f"it has {', '.join(columns)}"
        ) from error


def _say_of_paths(plan: _Plan, error: OSError, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise what the system says of a path that was given, such as that it may not be read, as an error of our own."""
    if isinstance(error, MechsurgeryError) or not isinstance(error.filename, str):
        return
    paths = [str(one) for one in (*args, *options.values()) if isinstance(one, (str, PurePath)) and str(one)]
    if any(error.filename.startswith(one) for one in paths):
        raise LoadError(f"{plan.where}: {shown(error.filename)} cannot be used ({error.strerror})") from error


def _plan(function: Callable[..., Any], leading: int, of_class: type | None, error: type[MechsurgeryError]) -> _Plan:
    """What is checked of a function's arguments, read from its annotations when it is first called."""
    parameters = list(signature(function).parameters.values())[leading:]
    inner = function
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    space = {**vars(sys.modules[function.__module__]), **getattr(inner, "__globals__", {})}
    checks = {}
    for one in parameters:
        if one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        own = f"{function.__name__}.{one.name}"
        check = check_of(_resolved(one.annotation, space), own if own in LEAST else one.name)
        if check is not None:
            checks[one.name] = _or_default(check, one.default)
    ordered = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    name = function.__name__
    where = name if of_class is None else of_class.__name__ if name == "__init__" else f"{of_class.__name__}.{name}"
    return _Plan(tuple(one.name for one in parameters if one.kind in ordered), checks, where, error)


def _or_default(check: Check, default: Any) -> Check:
    if default is Parameter.empty or check.allows(default):
        return check
    allows = check.allows
    return Check(
        lambda value: value is default or (type(value) is float and value == default) or allows(value), check.said
    )


def _resolved(annotation: Any, space: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return Any if annotation is Parameter.empty else annotation
    try:
        return eval(annotation, dict(space))
    except Exception:  # a name that only type checkers import
        return Any


def _refusal(plan: _Plan, name: str, value: Any) -> MechsurgeryError:
    hint = ""
    if isinstance(value, str) and "a list" in plan.checks[name].said:
        hint = f", such as [{shown(value)}]"
    wrong = "is not finite" if isinstance(value, float) and not math.isfinite(value) else "is not allowed"
    return plan.error(f"{plan.where}: {name}={shown(value)} {wrong}; give {plan.checks[name].said}{hint}")

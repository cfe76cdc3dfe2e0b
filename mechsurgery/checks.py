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
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from inspect import Parameter, iscoroutinefunction, isfunction, signature
from pathlib import Path
from typing import Any, NamedTuple

from .allowed import INNER, LEAST, Check, check_of, shown
from .errors import InputError, LoadError, MechsurgeryError

#: What is raised for a value that does not do, by Python and by the packages that are used here.
_OF_A_VALUE = (
    *(TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, NotImplementedError),
    *(RecursionError, re.error),
)
#: What the system says of a path.
_OF_A_PATH = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
#: Said by PyTorch when a CPU's memory is at its end, for which it has no exception of its own: smaller batches help.
LACKS_MEMORY = ("can't allocate memory", "not enough memory")
#: Where code lies that is no user's own: this package, installed ones, Python's, and what has no file.
_INSTALLED = (
    str(Path(__file__).parent) + os.sep,
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)
_OPERATORS = ("__init__", "__call__", "__add__", "__sub__", "__mul__", "__rmul__", "__or__", "__and__", "__getitem__")


def check_arguments(
    module: str, *, leave: Collection[str] = (), error: type[MechsurgeryError] = InputError, inner: bool = False
) -> None:
    """Have the public functions and classes that a module defines check what they are given; call it at its end.

    `leave` names those that stay as they are: callbacks of other programs and what runs in inner loops. `error` is
    what is raised. Of an `inner` module, which other modules call and users do not, types alone are checked.
    """
    inside = vars(sys.modules[module])
    for name, own in list(inside.items()):
        if name.startswith("_") or name in leave or getattr(own, "__module__", None) != module:
            continue
        if isfunction(own) and not iscoroutinefunction(own):
            inside[name] = checked(own, kind=error, inner=inner)
        elif isinstance(own, type) and not issubclass(own, BaseException) and not getattr(own, "_is_protocol", False):
            _check_methods(own, leave, error, inner)


def _check_methods(of_class: type, leave: Collection[str], error: type[MechsurgeryError], inner: bool) -> None:
    for name, own in list(vars(of_class).items()):
        if (name.startswith("_") and name not in _OPERATORS) or f"{of_class.__name__}.{name}" in leave:
            continue
        if isfunction(own) and not iscoroutinefunction(own):
            setattr(of_class, name, checked(own, 1, of_class, error, inner))
        elif isinstance(own, classmethod):
            setattr(of_class, name, classmethod(checked(own.__func__, 1, of_class, error, inner)))
        elif isinstance(own, staticmethod):
            setattr(of_class, name, staticmethod(checked(own.__func__, 0, of_class, error, inner)))


class _Plan(NamedTuple):
    """Of one function: parameters by position and `*rest`, what is checked of each, its name, what is raised."""

    positions: tuple[str, ...]
    rest: tuple[str, Check] | None
    checks: dict[str, Check]
    where: str
    error: type[MechsurgeryError]


def checked(
    function: Callable[..., Any],
    leading: int = 0,
    of_class: type | None = None,
    kind: type[MechsurgeryError] = InputError,
    inner: bool = False,
) -> Callable[..., Any]:
    """The same function, which first checks its arguments; `leading` are those of a method that are not (self)."""
    plan: _Plan | None = None

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal plan
        if plan is None:
            plan = _plan(function, leading, of_class, kind, inner)
        checks = plan.checks
        name, value = "", None
        try:
            for name, value in zip(plan.positions, args[leading:] if leading else args):
                if name in checks and not checks[name].allows(value):
                    raise _refusal(plan, name, value)
            if plan.rest is not None:
                name, check = plan.rest
                for value in args[leading + len(plan.positions) :]:
                    if not check.allows(value):
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
        except MechsurgeryError:
            raise
        except Exception as error:
            trace = error.__traceback__
            if type(error) is TypeError and (trace is None or trace.tb_next is None):
                # Only where the call itself does not fit the signature has the callee no frame.
                allowed = ", ".join(list(signature(function).parameters)[leading:])
                raise plan.error(f"{error}; {plan.where} takes ({allowed})") from None
            ours = _as_ours(plan, error, [*args[leading:], *options.values()])
            if ours is None:
                raise
            raise ours from error

    return call


def _as_ours(plan: _Plan, error: Exception, given: Sequence[Any]) -> MechsurgeryError | None:
    """What an error that came of what was given is called in the one tree; None for one that is to stay as it is.

    It stays where code of the user's own raised it, where memory was lacking, and where it is no error of a value: one
    of a connection, or a kind that a package has for itself.
    """
    if isinstance(error, OSError):
        path = isinstance(error, _OF_A_PATH) or error.filename is not None
        if not path or _came_through_others(error):
            return None
        which = "" if error.filename is None else f": {shown(error.filename)} cannot be used"
        return LoadError(f"{plan.where}{which} ({error.strerror or error})")
    of_a_value = isinstance(error, _OF_A_VALUE) or type(error) is RuntimeError
    if not of_a_value or any(said in str(error) for said in LACKS_MEMORY) or _came_through_others(error):
        return None
    said = f"({type(error).__name__}: {str(error)[:200]})"
    for table in given:
        if type(table).__name__ in ("DataFrame", "Series"):
            columns = ", ".join(shown(one) for one in getattr(table, "columns", table.index)[:12])
            return plan.error(f"{plan.where}: a table or row does not have what is needed {said}; it has {columns}")
    return plan.error(
        f"{plan.where} cannot work with what it was given {said}; its docstring says what it takes. If that is what "
        "was given, this is a fault of mechsurgery: please report it"
    )


def _came_through_others(error: Exception) -> bool:
    """Whether code that belongs to neither this package nor an installed one, nor to Python, had a part in an error."""
    trace = None if error.__traceback__ is None else error.__traceback__.tb_next
    while trace is not None:
        frame = trace.tb_frame
        file, module = frame.f_code.co_filename, frame.f_globals.get("__name__")
        if not file.startswith(_INSTALLED) or (file.startswith("<") and module == "__main__"):
            return True
        trace = trace.tb_next
    return False


def _plan(
    function: Callable[..., Any], leading: int, of_class: type | None, error: type[MechsurgeryError], inner: bool
) -> _Plan:
    """What is checked of a function's arguments, read from its annotations when it is first called."""
    parameters = list(signature(function).parameters.values())[leading:]
    innermost = function
    while hasattr(innermost, "__wrapped__"):
        innermost = innermost.__wrapped__
    space = {**vars(sys.modules[function.__module__]), **getattr(innermost, "__globals__", {})}
    checks, rest = {}, None
    for one in parameters:
        if one.kind is Parameter.VAR_KEYWORD:
            continue
        own = f"{function.__name__}.{one.name}"
        named = INNER if inner else own if own in LEAST else one.name
        check = check_of(_resolved(one.annotation, space), named)
        if check is not None and one.kind is Parameter.VAR_POSITIONAL:
            rest = one.name, check
        elif check is not None:
            checks[one.name] = _or_default(check, one.default)
    ordered = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    name = function.__name__
    where = name if of_class is None else of_class.__name__ if name == "__init__" else f"{of_class.__name__}.{name}"
    return _Plan(tuple(one.name for one in parameters if one.kind in ordered), rest, checks, where, error)


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
    check, hint = plan.checks.get(name) or (plan.rest or ("", None))[1], ""
    said = "something else" if check is None else check.said
    if isinstance(value, str) and "a list" in said:
        hint = f", such as [{shown(value)}]"
    wrong = "is not finite" if isinstance(value, float) and not math.isfinite(value) else "is not allowed"
    return plan.error(f"{plan.where}: {name}={shown(value)} {wrong}; give {said}{hint}")


# What lies beneath this module, and cannot import it.
check_arguments(f"{__package__}.safe_text", leave=("visible", "make_logs_visible"))
check_arguments(f"{__package__}.errors")

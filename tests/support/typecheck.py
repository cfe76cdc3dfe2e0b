"""The run-time type checker of the tests: an int passes where a float is asked for (PEP 484).

What has an array's shape in its signature is checked within a memo of jaxtyping, which holds the names of one call's
sizes against each other; all else is checked by beartype alone. jaxtyping's own way of checking a call, which binds its
signature and checks its arguments twice, takes longer than most functions do: over a quarter of the suite's time. It
stays for generators, and for annotations with names that a module imports for type checkers alone. Functions that are
made inside functions (hooks, closures) are left as they are: they would be compiled anew each time that the outer one
is called, which took a tenth of the suite.
"""

import ast
import dataclasses
import inspect
import re
from functools import cache, wraps
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
#: The same, raising what jaxtyping raises.
_checked_with_sizes = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_whole = jaxtyping.jaxtyped


def words_of(function: Any) -> set[str]:
    """The names in a function's annotations."""
    return {word for said in function.__annotations__.values() for word in re.findall(r"\w+", str(said))}


def has_shapes(function: Any) -> bool:
    """Whether an annotation of a function has an array's shape, such as `Float[Tensor, "n"]`, or a name of one."""
    return any("jaxtyping." in repr(function.__globals__.get(word)) for word in words_of(function))


@cache
def for_checkers_alone(file: str) -> frozenset[str]:
    """Names that a module imports for type checkers alone: jaxtyping passes over them, beartype does not."""
    guarded = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.If)]
    inside = [one for node in guarded if "TYPE_CHECKING" in ast.dump(node.test) for one in ast.walk(node)]
    return frozenset(
        alias.asname or alias.name
        for node in inside
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    )


def is_readable(function: Any) -> bool:
    """Whether beartype can read a function's annotations."""
    inside = function.__globals__
    return "TYPE_CHECKING" not in inside or not words_of(function) & for_checkers_alone(inside["__file__"])


def by_beartype(function: Any, check: Any = checked) -> Any:
    """A function with its types checked and its annotations as they were written; beartype puts its own in place."""
    written = dict(function.__annotations__)
    found = check(function)
    function.__annotations__ = found.__annotations__ = written
    return found


def with_sizes(function: Any) -> Any:
    """A function with its types checked, and the names of sizes held against each other, anew in each call."""
    check, config = by_beartype(function, _checked_with_sizes), jaxtyping.config

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if config.jaxtyping_disable:
            return function(*args, **options)
        with _whole("context"):
            return check(*args, **options)

    # As code of a package: an error that came through code of a user's own is left as it is by `mechsurgery.checks`.
    call.__code__ = call.__code__.replace(co_filename="<type checks>")
    return call


def as_needed(**how: Any) -> Any:
    """`jaxtyping.jaxtyped`, as its import hook asks for it, by the shortest way that checks all of it."""
    decorate = _whole(**how)

    def decorated(made: Any) -> Any:
        if "<locals>" in getattr(made, "__qualname__", ""):
            return made
        if inspect.isclass(made):
            if dataclasses.is_dataclass(made) and not hasattr(made.__init__, "__wrapped__"):
                made.__init__ = with_sizes(made.__init__) if is_readable(made.__init__) else decorate(made.__init__)
            return made
        if not inspect.isfunction(made) or not is_readable(made):
            return decorate(made)
        if not has_shapes(made):
            return by_beartype(made)
        return decorate(made) if inspect.isgeneratorfunction(made) else with_sizes(made)

    return decorated


jaxtyping.jaxtyped = as_needed

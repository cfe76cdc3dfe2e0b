"""The run-time type checker of the tests: an int passes where a float is asked for (PEP 484).

What has an array's shape in its signature is checked by jaxtyping, which holds the names of one call's sizes against
each other; that costs a call more than most functions do, a quarter of the time of a study's tests, so all else is
checked by beartype alone. Functions that are made inside functions (hooks, closures) are left as they are: they would
be compiled anew each time that the outer one is called, which took a tenth of the suite.
"""

import inspect
import re
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_whole = jaxtyping.jaxtyped


def has_shapes(function: Any) -> bool:
    """Whether an annotation of a function has an array's shape, such as `Float[Tensor, "n"]`, or a name of one."""
    words = {word for said in function.__annotations__.values() for word in re.findall(r"\w+", str(said))}
    return any("jaxtyping." in repr(function.__globals__.get(word)) for word in words)


def by_beartype(function: Any) -> Any:
    """A function with its types checked and its annotations as they were written; beartype puts its own in place."""
    written = dict(function.__annotations__)
    found = checked(function)
    function.__annotations__ = found.__annotations__ = written
    return found


def as_needed(**how: Any) -> Any:
    """`jaxtyping.jaxtyped`, as its import hook asks for it, for what needs it."""
    decorate = _whole(**how)

    def decorated(made: Any) -> Any:
        if "<locals>" in getattr(made, "__qualname__", ""):
            return made
        # jaxtyping passes over names that a module imports for type checkers alone; beartype does not.
        plain = inspect.isfunction(made) and "TYPE_CHECKING" not in made.__globals__ and not has_shapes(made)
        return by_beartype(made) if plain else decorate(made)

    return decorated


jaxtyping.jaxtyped = as_needed

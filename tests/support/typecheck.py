"""The run-time type checker of the tests: an int passes where a float is asked for (PEP 484).

Functions that are made inside functions (hooks, closures) are left as they are: they would be compiled anew each time
that the outer one is called, which took a tenth of the suite.
"""

from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_whole = jaxtyping.jaxtyped


def at_module_level(**how: Any) -> Any:
    """`jaxtyping.jaxtyped`, as its import hook asks for it, for what is no function inside a function."""
    decorate = _whole(**how)
    return lambda made: made if "<locals>" in getattr(made, "__qualname__", "") else decorate(made)


jaxtyping.jaxtyped = at_module_level

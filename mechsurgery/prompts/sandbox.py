"""Chat templates run as transformers runs them, but within a `Budget` and with no more of Jinja than templates use.

Transformers' sandbox keeps a template from files and from Python. It does not keep one from looping for ever or from
filling the memory, so here every loop, call, filter, operator and output is counted. What a legitimate template
writes is the same text, character for character.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from ..checks import check_arguments
from ..errors import PromptError
from .budget import CURRENT, Budget, OverBudgetError
from .clock import Clock
from .syntax import Counted, Generation, Hidden

#: Characters of a template; the longest that are published have a fifth of that.
LONGEST = 100_000
_RANGE = 10_000
_FILTERS = (
    "abs attr batch capitalize center count d default dictsort e escape first float forceescape format groupby indent "
    "int items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr "
    "slice sort string sum title trim truncate unique upper wordcount"
).split()
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii "
        "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip "
        "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines "
        "startswith strip swapcase title upper zfill".split()
    ),
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    list: frozenset({"index", "count", "copy"}),
    tuple: frozenset({"index", "count"}),
    float: frozenset({"is_integer"}),
}


class RefusedError(TemplateError):
    """The template itself raised: it does not take these turns."""


class _Dict:
    """`dict` in a template, of which no class can be reached."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` in a template, which keeps no underscored name and does not write out what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot keep the underscored name {name!r}")


class _Each:
    """What a loop goes over, each item a step."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        budget = CURRENT.get()
        for value in self.values:
            budget.step()
            yield value

    def __len__(self) -> int:
        return len(self.values)


class _Environment(ImmutableSandboxedEnvironment):
    """Transformers' environment for chat templates, counted."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, hidden: Mapping[int, str]) -> None:
        self._hidden = hidden
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        own = {name: _guarded(name, self.filters[name]) for name in _FILTERS}
        self.filters = {**own, "tojson": _guarded("tojson", _tojson), "_each": _each, "_kept": _kept}
        self.tests = {name: _guarded("", test) for name, test in self.tests.items()}
        self.globals = {
            "range": _range,
            "dict": _Dict(),
            "namespace": _Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise,
        }
        self.finalize = _finalize
        self._known = (_range, _raise, _Namespace, Cycler, Joiner)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return Counted().visit(Hidden(self._hidden).visit(tree) if self._hidden else tree)

    def concat(self, parts: Any) -> str:
        """Texts in one, counted before they are."""
        budget, texts = CURRENT.get(), []
        for text in parts:
            budget.step()
            budget.take(len(text))
            texts.append(text)
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A binary operation within the budget."""
        budget = CURRENT.get()
        budget.operation(operator, left, right)
        return budget.kept(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` within the budget."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            CURRENT.get().format(value.__self__, [*args, kwargs])
            return wrapped(*args, **kwargs)

        formatted.__self__ = value.__self__  # type: ignore[attr-defined]
        formatted.__name__ = value.__name__
        return formatted

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of something that templates may call, within the budget."""
        budget = CURRENT.get()
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if not __self._may_call(__obj, owner):
            raise SecurityError(f"templates cannot call {getattr(__obj, '__name__', type(__obj).__name__)!r} here")
        if isinstance(owner, str):
            args = budget.method(owner, __obj.__name__, args, kwargs)
        return budget.kept(super().call(__context, __obj, *args, **kwargs))

    def _may_call(self, called: Any, owner: Any) -> bool:
        if isinstance(called, (Macro, BlockReference, LoopContext, Undefined, _Dict, Joiner)) or called in self._known:
            return True
        if isinstance(owner, tuple(_METHODS)):
            allowed = next(names for kind, names in _METHODS.items() if isinstance(owner, kind))
            return isinstance(called, (BuiltinMethodType, MethodType, FunctionType)) and called.__name__ in allowed
        own = isinstance(called, MethodType) and isinstance(owner, (LoopContext, Cycler, _Dict, Generation, Clock))
        return own and not called.__name__.startswith("_")


def _guarded(name: str, function: Any) -> Callable[..., Any]:
    """A filter or test as a step of the budget; never computed when a template is compiled."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
    check = _CHECKS.get(name)

    @pass_context
    def run(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = CURRENT.get()
        budget.step()
        if check is not None:
            value = check(budget, value, *args, **kwargs)
        given = {None: (), "context": (context,), "eval_context": (context.eval_ctx,)}.get(
            passed, (context.environment,)
        )
        return budget.kept(function(*given, value, *args, **kwargs))

    return run


@pass_context
def _each(context: Any, values: Any) -> Any:
    return values if isinstance(values, Undefined) else _Each(values)


@pass_context
def _kept(context: Any, value: Any) -> Any:
    budget = CURRENT.get()
    budget.step()
    return budget.kept(value)


@pass_context
def _finalize(context: Any, value: Any) -> Any:
    budget = CURRENT.get()
    budget.step()
    budget.take(budget.weight(value))
    return budget.kept(value)


def _range(*args: int) -> range:
    """`range` of few numbers."""
    numbers = range(*args)
    CURRENT.get().parts(len(numbers) if max(map(abs, (numbers.start, numbers.stop))) < 2**62 else 2**62)
    return numbers


def _raise(message: Any = "") -> None:
    raise RefusedError(str(message)[:1000])


def _tojson(
    x: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _check_center(budget: Budget, value: Any, width: Any = 80) -> Any:
    budget.method("", "center", (width,), {})
    return value


def _check_indent(budget: Budget, value: Any, width: Any = 4, first: Any = False, blank: Any = False) -> Any:
    wide = len(width) if isinstance(width, str) else width if isinstance(width, int) else 0
    budget.fits(budget.weight(value) + (str(value).count("\n") + 1) * wide)
    return value


def _check_replace(budget: Budget, value: Any, old: Any, new: Any, count: Any = None) -> Any:
    budget.replaced(str(value), str(old), str(new))
    return value


def _check_format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> Any:
    budget.percent(str(value), kwargs or args)
    return value


def _check_join(budget: Budget, value: Any, d: Any = "", attribute: Any = None) -> Any:
    return value if isinstance(value, Undefined) else budget.joined(d, value)


def _check_parts(budget: Budget, value: Any, n: Any, fill_with: Any = None) -> Any:
    budget.parts(n)
    return value


def _check_round(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    budget.parts(abs(precision) * 100 if isinstance(precision, int) else 0)
    return value


def _check_sum(budget: Budget, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise OverBudgetError("it sums what are no numbers")
    return value


def _check_tojson(
    budget: Budget,
    x: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> Any:
    wide = len(indent) if isinstance(indent, str) else indent if isinstance(indent, int) else 0
    wide = max(wide, *(len(str(part)) for part in separators or ("",)))
    budget.fits(budget.weight(x) * (1 + max(0, wide)))
    return x


_CHECKS: Mapping[str, Callable[..., Any]] = {
    "center": _check_center,
    "indent": _check_indent,
    "replace": _check_replace,
    "format": _check_format,
    "join": _check_join,
    "batch": _check_parts,
    "slice": _check_parts,
    "round": _check_round,
    "sum": _check_sum,
    "tojson": _check_tojson,
}


@lru_cache(maxsize=16)
def _compiled(source: str, hidden: tuple[tuple[int, str], ...]) -> Any:
    return _Environment(dict(hidden)).from_string(source)


def run(source: str, variables: Mapping[str, Any], *, size: int, hidden: Mapping[int, str] | None = None) -> str:
    """What a template writes for a chat of `size` characters. Raises whatever it raises, or `OverBudgetError`.

    Characters in `hidden` are written as it says where they come from the template's own text.
    """
    if len(source) > LONGEST:
        raise OverBudgetError(f"it has {len(source):,} characters, of {LONGEST:,} that are allowed")
    token = CURRENT.set(Budget(size))
    try:
        return _compiled(source, tuple((hidden or {}).items())).render(variables)
    finally:
        CURRENT.reset(token)


check_arguments(__name__, error=PromptError, inner=True)

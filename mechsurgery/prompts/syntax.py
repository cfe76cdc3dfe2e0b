"""What is changed in a chat template before it runs: loops are counted, its own words can be spelled differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer

from ..checks import check_arguments
from ..errors import PromptError

#: Filters and methods whose arguments come out as text.
_WRITING = ("default", "d", "join", "format")


class Generation(Extension):
    """`{% generation %}`, the marks of what an assistant says: they change no text."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Any) -> nodes.Node:
        """The block as a call of `said`, with a scope of its own, as transformers has it."""
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(lineno)

    def said(self, caller: Callable[[], str]) -> str:
        """What stands between the marks."""
        return caller()


class Counted(NodeTransformer):
    """Put a count around every expression and loop that the environment has no other hold of."""

    def _loop(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_each", [], [], None, None).set_lineno(node.lineno)
        return node

    def _kept(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node, "_kept", [], [], None, None).set_lineno(node.lineno)

    def _literal(self, node: Any) -> nodes.Node:
        constant = getattr(node, "ctx", "load") == "store" or all(type(item) is nodes.Const for item in node.items)
        return self.generic_visit(node) if constant else self._kept(node)

    def _slice(self, node: Any) -> nodes.Node:
        return self._kept(node) if isinstance(node.arg, nodes.Slice) else self.generic_visit(node)

    visit_For = _loop
    visit_Getitem = _slice
    visit_Concat = visit_Compare = _kept
    visit_List = visit_Tuple = visit_Dict = _literal


class Hidden(NodeTransformer):
    """Spell what a template itself writes in other characters; what it compares or searches with stays as it is."""

    def __init__(self, table: Mapping[int, str]) -> None:
        self.table = table

    def _text(self, node: Any) -> nodes.Node:
        node.data = node.data.translate(self.table)
        return node

    def _constant(self, node: Any) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = node.value.translate(self.table)
        return node

    def _as_it_is(self, node: Any) -> nodes.Node:
        return node

    def _visit_but(self, node: Any, *parts: str) -> nodes.Node:
        """Visit a node without some of its parts."""
        kept = {part: getattr(node, part) for part in parts}
        for part in parts:
            setattr(node, part, [] if isinstance(kept[part], list) else None)
        self.generic_visit(node)
        for part in parts:
            setattr(node, part, kept[part])
        return node

    def _condition(self, node: Any) -> nodes.Node:
        return self._visit_but(node, "test")

    def _index(self, node: Any) -> nodes.Node:
        return self._visit_but(node, "arg")

    def _pair(self, node: Any) -> nodes.Node:
        return self._visit_but(node, "key")

    def _filter(self, node: Any) -> nodes.Node:
        return self.generic_visit(node) if node.name in _WRITING else self._visit_but(node, "args", "kwargs")

    def _call(self, node: Any) -> nodes.Node:
        method = node.node.attr if isinstance(node.node, nodes.Getattr) else "format"
        return self.generic_visit(node) if method in _WRITING else self._visit_but(node, "args", "kwargs")

    visit_TemplateData = _text
    visit_Const = _constant
    visit_Compare = visit_Test = _as_it_is
    visit_If = visit_CondExpr = _condition
    visit_Getitem = _index
    visit_Pair = _pair
    visit_Filter = _filter
    visit_Call = _call


check_arguments(__name__, error=PromptError, inner=True)

"""Texts that attack whatever shows them, and figures of every kind in which every name is one."""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd

from mechsurgery import plots
from mechsurgery.units import Circuit, UnitScores

from . import gallery

#: Each would run a script, ask another machine for something, or break a table, where it is not shown as text.
HOSTILE = [
    "<img/src='http://evil.example/a'/onerror=window.fired=1>",
    "</script><script>window.fired=2</script>",
    "\"'><svg/onload=window.fired=3>",
    "<a href='javascript:window.fired=4'>click</a>",
    "<a href='//evil.example/b'>",
    "<style>@import 'http://evil.example/c'</style>",
    "$\\href{javascript:window.fired=5}{x}$ and $y$",
    "%{x} %{customdata[0]}",
    "<!--<script>",
    "<span style='background:url(http://evil.example/d)'>s</span>",
    "a\x1b[31mb\u202ec\u200bd",
    "<b>bold</b><br>&lt;i&gt;",
    "<base href='http://evil.example/'><meta http-equiv=refresh content=0>",
]
#: Those that a name may be: control characters and marks that turn the writing round are refused there.
_NAMES = [one for one in HOSTILE if one.isprintable()]
#: Words with a meaning of their own, which stay as they are.
_MEANT = {*("baseline", "scaling", "steering", "rate", "number", "label", "m", "strength", "lower", "higher", "abs")}
_MEANT |= {*("refusal", "choice", "kl", "margin", "endpoint", "held", "failed", "column", "fraction", "layers", "")}


def hostile(text: str) -> str:
    """The text with an attack after it that a name may hold, always the same one."""
    return f"{text} {_NAMES[zlib.crc32(text.encode()) % len(_NAMES)]}"


def attacked(value: Any) -> Any:
    """A value in which every text that is shown is `hostile`."""
    if isinstance(value, str):
        return value if value in _MEANT or value.startswith(("blocks.", "recorded neurons")) else hostile(value)
    if isinstance(value, pd.DataFrame):
        return pd.DataFrame({name: value[name].map(attacked, na_action="ignore") for name in value})
    if isinstance(value, UnitScores):
        return replace(value, rule=attacked(value.rule), info=attacked(value.info))
    if isinstance(value, Circuit):
        return replace(value, name=attacked(value.name), info=attacked(value.info))
    if isinstance(value, dict):
        return {attacked(key) if isinstance(key, str) else key: attacked(one) for key, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return value  # rows
    return type(value)(attacked(one) for one in value) if isinstance(value, (list, tuple)) else value


def hostile_gallery() -> dict[str, Any]:
    """{name: figure}, one of every function of `mechsurgery.plots`, all that they are given attacked."""
    with _attacked_functions():
        return gallery.gallery()


@contextmanager
def _attacked_functions() -> Any:
    before = {name: getattr(plots, name) for name in gallery._DRAWERS}

    def changed(draw: Any) -> Any:
        return lambda *given, **options: draw(
            *map(attacked, given), **{k: v if k in ("x", "by") else attacked(v) for k, v in options.items()}
        )

    try:
        for name, draw in before.items():
            setattr(plots, name, changed(draw))
        yield
    finally:
        for name, draw in before.items():
            setattr(plots, name, draw)

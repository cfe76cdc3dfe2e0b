"""Token heat maps by circuitsvis, many on one page and without network.

circuitsvis writes its whole script (or a link to one) with every picture, and its script takes each token for HTML:
`<bos>` vanishes and `<img onerror=…>` runs. Here the script is written once and tokens are shown as the text they are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from ..checks import check_arguments
from ..errors import InputError
from ..safe_text import html_text, visible

_NUMBER = itertools.count()
#: Characters that show nothing, or move what stands after them: they are written by their number.
_UNSEEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]"
)


def shown_token(token: str) -> str:
    """A token as it is to be read: spaces as ·, line ends as ↵, tabs as →, what cannot be seen by its number.

    >>> shown_token(" the")
    '·the'
    """
    text = token.replace(" ", "·").replace("\r", "␍").replace("\n", "↵").replace("\t", "→").replace("\u00a0", "⍽")
    return visible(_UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)) or "∅"


class TokenHeatmaps:
    """Texts as tokens with a colour each: `fragment()` for a page with `script()` once, or shown in a notebook."""

    def __init__(self, rows: Iterable[tuple[str, Sequence[str], Sequence[float]]]) -> None:
        self.rows = [(str(label), list(tokens), [float(v) for v in values]) for label, tokens, values in rows]
        for label, tokens, values in self.rows:
            if len(tokens) != len(values):
                raise InputError(f"{len(tokens)} tokens and {len(values)} values in row {label!r}; give one of each")

    def fragment(self) -> str:
        """HTML of the heat maps, all on one colour scale; needs `script()` before it on the page."""
        top = max((abs(v) for _, _, values in self.rows for v in values), default=1.0) or 1.0
        parts = []
        for label, tokens, values in self.rows:
            name = f"heat-{next(_NUMBER)}"
            props = {
                "tokens": [_as_text(shown_token(token)) for token in tokens],
                "values": [round(v, 5) for v in values],
                "minValue": -top,
                "maxValue": top,
            }
            parts.append(
                f"<div class='heat'><small>{html_text(label)}</small><div id='{name}'></div></div>"
                f"<script>CircuitsVis.render('{name}',CircuitsVis.ColoredTokens,{_json(props)})</script>"
            )
        return "".join(parts)

    @staticmethod
    @cache
    def script() -> str:
        """The script of circuitsvis, to stand once on a page."""
        source = resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
        safe = source.replace("</script", r"<\/script")
        return f"<script>{safe}</script>"

    def _repr_html_(self) -> str:
        return self.script() + self.fragment()


def _as_text(token: str) -> str:
    """A token that reads the same as HTML (in the picture) and as text (in circuitsvis' tooltip).

    An invisible word joiner after `<` and `&` keeps them from beginning a tag or an entity; entities such as `&lt;`
    would stand in the tooltip as they are.
    """
    return re.sub("[<&]", "\\g<0>\u2060", token)


def _json(value: object) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


check_arguments(__name__, leave=("shown_token",))  # of any text, which it makes safe

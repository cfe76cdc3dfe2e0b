"""Text of prompts, models and strangers, made harmless for the place where it is written.

A token, a name or a path may hold anything: markup, commands to a terminal, a formula for a spreadsheet. Whatever shows
such text calls the function of its place here: `visible` for a terminal, a log or an error, `html_text` and
`html_table` for a page or a notebook, `figure_text` for plotly, `csv_text`, `markdown_table` and `latex_table` for
tables in files.
"""

from __future__ import annotations

import html
import logging
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: What commands a terminal, turns text around, or shows nothing; line ends and tabs stay.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    # Joiners of no width belong into some scripts and into emoji, and not beside a Latin letter.
    "\U000e0000-\U000e0fff]|[\u200c\u200d](?=[\x00-\x7f])|(?<=[\x00-\x7f])[\u200c\u200d]"
)
#: Keeps notebooks from reading dollars as mathematics.
_NOT_MATHEMATICS = "tex2jax_ignore mathjax_ignore"
#: Where a spreadsheet would begin to calculate, after what it skips.
_FORMULA = re.compile("[\\s\ufeff\u200b]*[=+@\uff1d\uff0b\uff0d\uff20-]|[\t\r\n]")
#: A number, an interval: what calculates nothing though it begins with a sign.
_NUMBER = re.compile(r"[-+]?(?:[\d\s.,%\[\]();…–−+-]*|(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+|inf|nan)", re.IGNORECASE)
_LATEX = {one: f"\\{one}" for one in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "}


def visible(text: Any) -> str:
    r"""The text with what cannot be seen, or commands a terminal, written out; line ends and tabs stay as they are.

    >>> visible("a\x1b[2J\u202eb\n")
    'a␛[2J⟨U+202E⟩b\n'
    """
    return _UNSEEN.sub(_written, str(text))


def _written(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else f"⟨U+{code:04X}⟩"


def html_text(text: Any) -> str:
    """The text for HTML, also inside a quoted attribute.

    >>> html_text("<b>")
    '&lt;b&gt;'
    """
    return html.escape(visible(text), quote=True)


def html_table(table: pd.DataFrame, **options: Any) -> str:
    """A table for a notebook, all text of it escaped; `options` are those of `DataFrame.to_html`."""
    shown = _mapped(table, visible).to_html(**{"index": False, "escape": True} | options)
    return f"<div class='{_NOT_MATHEMATICS}'>{shown}</div>"


def html_note(text: Any) -> str:
    """A paragraph for a notebook."""
    return f"<p class='{_NOT_MATHEMATICS}'>{html_text(text)}</p>"


def figure_text(text: Any) -> str:
    """The text for plotly, which reads some HTML, mathematics between dollars, and %{…} as a place to fill.

    >>> figure_text("<b> $x$ %{y}")
    '&lt;b&gt; &#36;x&#36; %&#123;y}'
    """
    escaped = html.escape(visible(text), quote=False)
    return escaped.replace("$", "&#36;").replace("%{", "%&#123;")


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV without its index; text that a spreadsheet would calculate begins with an apostrophe."""
    return _mapped(table, _no_formula).to_csv(index=False)


def _no_formula(text: str) -> str:
    """Text that stays text in a spreadsheet; what is but a number stays one.

    >>> _no_formula("=1+1"), _no_formula("-0.5"), _no_formula("-cmd")
    ("'=1+1", '-0.5', "'-cmd")
    """
    calculated = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{visible(text)}" if calculated else visible(text)


def markdown_table(table: pd.DataFrame) -> str:
    """A table as Markdown, numbers to three digits; what is text stays text."""
    escaped = _mapped(table, _markdown)
    return escaped.to_markdown(index=False, floatfmt=".3g")


def _markdown(text: str) -> str:
    r"""Text in a cell of a Markdown table.

    >>> _markdown("a|b `c` [d](e) <f>"), _markdown("write_norm [1, 2]")
    ('a\\|b \\`c\\` [d]\\(e) &lt;f&gt;', 'write_norm [1, 2]')
    """
    escaped = re.sub(r"[\\`|*$]", r"\\\g<0>", html.escape(visible(text), quote=False))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", escaped).replace("~~", r"\~\~")
    return re.sub(r"\](?=[(\[])", r"]\\", escaped).replace("\n", "<br>").replace("\t", " ")


def latex_table(table: pd.DataFrame, caption: str) -> str:
    """A table as LaTeX (booktabs) with a caption, numbers to three digits; what is text stays text."""
    return _mapped(table, latex_text).to_latex(
        index=False, escape=False, float_format="%.3g", caption=latex_text(caption)
    )


def latex_text(text: Any) -> str:
    r"""The text for LaTeX, also where a row of a table begins.

    >>> latex_text("50 % & [x]")
    '50 \\% \\& [x]'
    """
    escaped = "".join(_LATEX.get(one, one) for one in visible(text))
    # After the end of a row, a bracket or a star would be an option of it.
    return f"{{}}{escaped}" if escaped.lstrip().startswith(("[", "*")) else escaped


def _mapped(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    """The table with every text in it changed, the names of its columns too; all else as it is."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        # A list, a path or another thing of the caller's is written as its text.
        plain = value is None or isinstance(value, (bool, int, float, complex)) or hasattr(value, "dtype")
        return value if plain or type(value).__module__.startswith("pandas") else change(str(value))

    found = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if getattr(kind, "kind", "O") in "OUS":
            found.isetitem(place, table.iloc[:, place].map(changed, na_action="ignore"))
    return found.set_axis([change(str(name)) for name in table.columns], axis=1)


class _Visible(logging.Handler):
    """Makes what this package logs visible before any other handler writes it."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = visible(record.getMessage()), ()
        last = logging.lastResort
        # Where nobody set up logging, Python's own last resort writes warnings; a handler here must not end that.
        if last is not None and not logging.getLogger().handlers and record.levelno >= last.level:
            last.handle(record)


def make_logs_visible() -> None:
    """Have all loggers of this package write visible text, once."""
    logger = logging.getLogger(__package__)
    if not any(isinstance(one, _Visible) for one in logger.handlers):
        logger.addHandler(_Visible())

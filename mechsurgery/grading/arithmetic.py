"""Whether a response ends at the right number, as word problems (GSM8K) are graded.

GSM8K (Cobbe et al. 2021, 2110.14168) writes its answer after "####". A response's number is the one after its last
"####", or else the last number in it; they are compared as numbers, so 1,200 and $1200.00 are one.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from ..checks import check_arguments
from ..prompts import Prompt
from .grade import Grade

_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|[-−]?\.\d+")
MARK = "####"


def final_number(text: str) -> Decimal | None:
    """The number after the last "####", or else the last number of a text; None where it has none.

    >>> final_number("3 + 4 = 7, so she pays $1,200.00."), final_number("no idea")
    (Decimal('1200.00'), None)
    """
    before, mark, after = text.rpartition(MARK)
    found = _NUMBER.findall(after if mark else text)
    if mark and not found:
        found = _NUMBER.findall(before)
    chosen = (found[0] if mark and _NUMBER.findall(after) else found[-1]) if found else None
    if chosen is None:
        return None
    try:
        return Decimal(chosen.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None


def _is_right(prompt: Prompt, response: str) -> bool | None:
    """Whether the numbers are equal; None where the prompt's completion has none to compare with."""
    wanted = None if prompt.completion is None else final_number(prompt.completion)
    return None if wanted is None else final_number(response) == wanted


#: The response's final number is that of the prompt's `completion`.
FINAL_NUMBER = Grade("final number", "final-number-1", _is_right)


check_arguments(__name__, inner=True)

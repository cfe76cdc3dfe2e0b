"""Is a response text at all? Quality as the share of n-grams that are not repeats; grades that ask for it first."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from ..checks import check_arguments
from .grade import ANSWERS, BROKEN, Grade, compiled

#: A response below this quality counts as degenerate.
DEGENERATE_BELOW = 0.5
#: A response with a larger share of letters of a script that was not asked in counts as foreign.
FOREIGN_ABOVE = 0.3
#: Scripts that are written together.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
_WORD = re.compile(r"\w+(?:'\w+)?", re.UNICODE)


def ngram_quality(response: str, n: int = 3) -> float:
    """1 − fraction of repeated word n-grams, in [0, 1]; 0 for a response with no word.

    The paper's output quality. Responses shorter than `n` words have one n-gram and quality 1.

    >>> ngram_quality("the cat sat on the mat"), ngram_quality("no no no no no no")
    (1.0, 0.25)
    """
    words = _WORD.findall(response.lower())
    if not words:
        return 0.0
    grams = [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]
    return len(set(grams)) / len(grams)


def is_degenerate(response: str) -> bool:
    """Empty, looping, or more symbols than letters: neither a refusal nor an answer.

    Looping is `ngram_quality` below `DEGENERATE_BELOW`, or one word making up more than half of ten or more.
    """
    words = _WORD.findall(response.lower())
    if not words or ngram_quality(response) < DEGENERATE_BELOW:
        return True
    if len(words) >= 10 and max(words.count(word) for word in set(words)) > len(words) / 2:
        return True
    visible = re.sub(r"\s", "", response)
    letters = sum(character.isalnum() for character in visible)
    return letters < len(visible) / 2


def foreign_share(asked: str, response: str) -> float:
    """Share of the response's letters that are of its commonest script absent from what was asked, in [0, 1].

    0 where either has no letters. It cannot see another language in the same script (German for English), and takes a
    translation that was asked for as foreign.

    >>> foreign_share("Who is it?", "Это он."), foreign_share("Who is it?", "C'est lui.")
    (1.0, 0.0)
    """
    known, said = _scripts(asked), _scripts(response)
    foreign = [count for script, count in said.items() if script not in known]
    return max(foreign) / said.total() if known and foreign else 0.0


def _scripts(text: str) -> Counter[str]:
    """How many letters a text has of each script: the first word of a letter's Unicode name, once unified (NFKC)."""
    letters = (character for character in unicodedata.normalize("NFKC", text) if character.isalpha())
    names = (unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters)
    return Counter(_TOGETHER.get(name, name) for name in names)


DEGENERATE = Grade("degenerate", "degenerate-1", lambda _, response: is_degenerate(response))
QUALITY = Grade("quality", "trigrams-1", lambda _, response: ngram_quality(response), scale="number")


def by_pattern(bad: str, good: str | None = None, *, name: str = "outcome") -> Grade:
    """One of `ANSWERS` ("bad", "good", "broken"), by regular expressions searched in the response (case is ignored).

    Without `good`, what is not bad and not degenerate is good. Degenerate responses are broken whatever they match, and
    with `good` so is what matches neither.
    Raises `InputError` for what is no regular expression.
    """
    shows, right = compiled(bad), None if good is None else compiled(good)

    def decide(_prompt: object, response: str) -> str:
        if is_degenerate(response):
            return BROKEN
        if shows.search(response):
            return "bad"
        return "good" if right is None or right.search(response) else BROKEN

    version = f"{DEGENERATE.version}, bad {bad}" + ("" if good is None else f", good {good}")
    return Grade(name, version, decide, labels=ANSWERS)


check_arguments(__name__)

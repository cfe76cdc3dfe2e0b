"""Control tokens, and text that is encoded without them: what a prompt says never begins a turn or ends one.

A tokenizer reads `<|im_end|>` as the token that ends a turn wherever it stands. Here only what the chat template
writes is read so. Text that holds no such mark is encoded as ever. Where it does, the text goes through a copy of the
tokenizer in which control tokens are spelled with a character that no text has, so that the marks in the text are
letters like others and everything else is split as before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ..checks import check_arguments
from ..errors import PromptError

Spans = tuple[tuple[int, int], ...]
_PRIVATE = range(0xF0000, 0x110000)
_SPELLED = "\U0010f3a7"


@dataclass(frozen=True, eq=False)
class Controls:
    """A tokenizer's control tokens: its special tokens, and added ones that its chat template writes."""

    texts: tuple[str, ...]
    ids: frozenset[int]
    pattern: re.Pattern[str]
    #: Characters of which each control token has one, mostly `<`, `|` and `>`.
    signs: str
    _copies: dict[str, _Copy] = field(default_factory=dict)

    def spans(self, text: str) -> Spans:
        """Where control tokens stand in a text, as the tokenizer finds them: the first, and of those the longest."""
        return tuple(found.span() for found in self.pattern.finditer(text)) if self.texts else ()

    def suspect(self, texts: Iterable[str]) -> bool:
        """Whether a control token might come from these texts, wholly or in part."""
        return any(sign in text for text in texts for sign in self.signs)

    def count(self, ids: Iterable[int]) -> int:
        """How many of some token ids are control tokens."""
        return sum(map(self.ids.__contains__, ids))

    def copy(self, tokenizer: Any, text: str) -> _Copy:
        """The tokenizer that reads control tokens only where they are spelled with a character that `text` has not."""
        mark = _SPELLED if _SPELLED not in text else next(private(text))
        if mark not in self._copies:
            made = _Copy.of(tokenizer, self, mark)
            if mark != _SPELLED:
                return made
            self._copies[mark] = made
        return self._copies[mark]


_KNOWN: WeakKeyDictionary[Any, tuple[Any, Controls]] = WeakKeyDictionary()


def controls_of(tokenizer: Any, template: str | None, shown: Callable[[], str]) -> Controls:
    """The control tokens of a tokenizer; `shown()` is a chat as its `template` writes it."""
    added = getattr(tokenizer, "_added_tokens_decoder", None)
    special = tuple(getattr(tokenizer, "all_special_tokens", ()))
    key = (template, len(tokenizer) if hasattr(tokenizer, "__len__") else 0, special, added)
    known = _KNOWN.get(tokenizer)
    if known is not None and known[0] == key:
        return known[1]
    found = dict(zip(special, getattr(tokenizer, "all_special_ids", ())))
    others: dict[str, int] = {}
    for token, entry in getattr(tokenizer, "added_tokens_decoder", {}).items():
        (found if getattr(entry, "special", False) else others)[str(entry)] = int(token)
    written = "" if not others or template is None else f"{template}\n{shown()}"
    found |= {text: token for text, token in others.items() if text in written}
    # White space is text, also where a template writes it and the tokenizer has a token of its own for it.
    texts = tuple(sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text)))
    signs = dict.fromkeys(sign for text in texts for sign in _signs(text))
    pattern = re.compile("|".join(map(re.escape, texts)) or "(?!)")
    unknown = getattr(tokenizer, "unk_token_id", None)
    controls = Controls(texts, frozenset(found[text] for text in texts) - {unknown}, pattern, "".join(signs))
    _KNOWN[tokenizer] = key, controls
    return controls


def _signs(text: str) -> str:
    marks = [sign for sign in text if not sign.isalnum() and not sign.isspace() and sign != "_"]
    return "".join(marks) or text[0]


def private(text: str) -> Iterator[str]:
    """Private-use characters that do not stand in a text. Raises `PromptError` where it has them all."""
    used = set(text)
    yield from (chr(code) for code in _PRIVATE if chr(code) not in used)
    raise PromptError("a text uses every private character of Unicode; remove some")


@dataclass(frozen=True, eq=False)
class _Copy:
    """A tokenizer in which control tokens are spelled with a mark before them."""

    backend: Any
    mark: str
    original: Mapping[int, int]

    @classmethod
    def of(cls, tokenizer: Any, controls: Controls, mark: str) -> _Copy:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PromptError(
                "a text holds a control token, and this tokenizer cannot read it as plain text: it is no fast one; "
                "take it out of the text, load the tokenizer with use_fast=True, or ask for it with "
                "Template(control_tokens=True)"
            )
        content, texts = json.loads(backend.to_str()), set(controls.texts)
        content["truncation"] = content["padding"] = None
        for token in content["added_tokens"]:
            if token["content"] in texts:
                token["content"] = mark + token["content"]
        _respell(content["model"], texts, mark)
        made = Tokenizer.from_str(json.dumps(content))
        # The copy may have numbered added tokens anew.
        found = ((made.token_to_id(token["content"]), token["id"]) for token in content["added_tokens"])
        return cls(made, mark, {new: old for new, old in found if new is not None and new != old})

    def encode(self, text: str, written: Spans) -> list[int]:
        """Token ids of a text in which control tokens stand at `written` and nowhere else."""
        parts, place = [], 0
        for start, end in written:
            parts += [text[place:start], self.mark, text[start:end]]
            place = end
        ids = self.backend.encode("".join([*parts, text[place:]]), add_special_tokens=False).ids
        return [self.original.get(token, token) for token in ids]


def _respell(model: dict[str, Any], texts: set[str], mark: str) -> None:
    """Where control tokens stand in the vocabulary itself, too, words of a text would still be read as them."""
    texts = texts - {model.get("unk_token")}
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {mark + word if word in texts else word: token for word, token in vocabulary.items()}
    elif isinstance(vocabulary, list):
        rest = [[mark + word if word in texts else word, score] for word, score in vocabulary]
        unknown = model.get("unk_id")
        if unknown is not None:
            rest[unknown] = vocabulary[unknown]
        model["vocab"] = rest
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if "".join(pair) not in texts and not texts.intersection(pair)]


def encode_text(
    tokenizer: Any, controls: Controls, text: str, written: Spans = (), *, begin: bool = False
) -> list[int]:
    """Token ids of a text in which only the tokens at `written` are control tokens.

    With `begin`, the tokenizer's own special tokens around it, too. The same as `tokenizer.encode` where the text
    holds no other control token. Raises `PromptError` where the tokenizer cannot read one as text.
    """
    before, after = _around(tokenizer) if begin else ([], [])
    if controls.spans(text) == written:
        ids = list(tokenizer.encode(text, add_special_tokens=begin))
        if controls.count(ids) <= len(written) + controls.count(before) + controls.count(after):
            return ids
    ids = controls.copy(tokenizer, text).encode(text, written)
    if controls.count(ids) > len(written):
        raise PromptError(
            f"a text holds a control token which this tokenizer cannot read as plain text: {text[:80]!r}; take it out, "
            "or ask for it with Template(control_tokens=True)"
        )
    return [*before, *ids, *after]


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and after a text."""
    bare, whole = (list(tokenizer.encode("a", add_special_tokens=own)) for own in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def written_spans(
    controls: Controls,
    messages: Sequence[tuple[str, str]],
    shown: str,
    render: Callable[[Sequence[tuple[str, str]], Mapping[int, str] | None], str],
) -> Spans:
    """Where a chat template itself writes control tokens in `shown`, its text for the messages.

    The chat is rendered again with private characters for those that control tokens are made of, one for one: in the
    template's own words, and where that makes a difference, in the messages instead. Where the text is the same but for
    these, they show who wrote what. Raises `PromptError` where they make a difference in both, and a message holds a
    control token.
    """
    texts = [text for _, text in messages]
    if not controls.texts or not controls.suspect(texts):
        return controls.spans(shown)
    free = private("".join([shown, *texts])) if _has_private("".join([shown, *texts])) else map(chr, _PRIVATE)
    hidden = {ord(sign): next(free) for sign in controls.signs}
    back = str.maketrans({other: chr(sign) for sign, other in hidden.items()})
    for own in (True, False):
        turns = messages if own else [(role, text.translate(hidden)) for role, text in messages]
        try:
            again = render(turns, hidden if own else None)
        except PromptError:
            continue
        if again.translate(back) != shown:
            continue
        if not own:
            return controls.spans(again)
        return tuple(
            (start, end)
            for start, end in controls.spans(shown)
            if all(again[place] != shown[place] for place in range(start, end) if shown[place] in controls.signs)
        )
    if any(controls.pattern.search(text) for text in texts):
        raise PromptError(
            "this chat template looks for marks of control tokens in its turns, and one of these holds such a mark, so "
            "that its own cannot be told from it; take it out of the text, or ask for it with "
            "Template(control_tokens=True)"
        )
    return controls.spans(shown)


def _has_private(text: str) -> bool:
    return bool(text) and max(text) >= chr(_PRIVATE[0])


check_arguments(__name__, error=PromptError, inner=True)

"""`PromptSet`: prompts with ids, groups and labels, and splits that never share an item.

A group is what must not be split: the noun of a request, the behaviour of a benchmark item, a question that
was asked in several ways. Nothing here needs a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ..allowed import shown
from ..artifacts import load_document, save_document
from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from ..reading import readable
from ..safe_text import html_note, html_table
from .files import read_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One prompt: a user's turn (or raw text), or a whole chat in `messages`.

    `group` defaults to the id. `prefix` is text the assistant's turn begins with, `completion` a given
    answer, `choices` the letters of a multiple-choice question and `answer` the index of the right one.
    """

    id: str
    text: str
    group: str = ""
    label: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    prefix: str = ""
    completion: str | None = None
    choices: tuple[str, ...] = ()
    answer: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.id)
        asked = [self.text, self.system, *(text for role, text in self.messages if role != "assistant")]
        for text in (*asked, self.prefix, self.completion, *(text for _, text in self.messages)):
            check_text("" if text is None else text, f"prompt {self.id!r}")
        if any("\0" in text for text in asked if text):
            raise PromptError(f"prompt {self.id!r} has a NUL character; remove it, or read the file in its encoding")
        if not self.text.strip() and not self.messages:
            raise PromptError(f"prompt {self.id!r} is empty; give it a text")
        if self.answer is not None and not 0 <= self.answer < len(self.choices):
            raise PromptError(f"prompt {self.id!r} has answer {self.answer} for {len(self.choices)} choices")


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order, with unique ids."""

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        ids = [prompt.id for prompt in self.prompts]
        if len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise PromptError(f"ids {listed(twice)} stand twice in prompt set {self.name!r}; give each prompt its own")

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        if isinstance(index, slice):
            return replace(self, prompts=self.prompts[index])
        return self.prompts[index]

    @property
    def ids(self) -> list[str]:
        """Ids in order."""
        return [prompt.id for prompt in self.prompts]

    @property
    def texts(self) -> list[str]:
        """Texts in order."""
        return [prompt.text for prompt in self.prompts]

    @property
    def groups(self) -> list[str]:
        """The different groups, in order of first appearance."""
        return list(dict.fromkeys(prompt.group for prompt in self.prompts))

    @property
    def digest(self) -> str:
        """SHA-256 of the content (not of the name): the same in every process."""
        content = json.dumps([asdict(prompt) for prompt in self.prompts], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def split(self, fraction: float = 0.5, *, seed: int = 0) -> tuple[PromptSet, PromptSet]:
        """Two sets that share no group; the first has about `fraction` of the groups. Depends on no order."""
        first = first_groups(self.groups, fraction, seed)
        return self.where(lambda p: p.group in first), self.where(lambda p: p.group not in first)

    def take(self, n: int, *, seed: int = 0) -> PromptSet:
        """At most `n` prompts, spread evenly over groups; all where there are no more."""
        if n < 1:
            raise PromptError(f"take({n}) leaves no prompt; take at least 1")
        if n >= len(self):
            return self
        return _balanced(self, n, random.Random(f"take:{seed}"))

    def where(self, keep: Callable[[Prompt], bool]) -> PromptSet:
        """The prompts for which `keep(prompt)` is true."""
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if keep(prompt)))

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        name: str = "prompts",
        label: str = "",
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> PromptSet:
        """Prompts from plain texts; ids count up unless given."""
        texts = list(texts)
        ids = [f"{name}-{i}" for i in range(len(texts))] if ids is None else list(ids)
        groups = [""] * len(texts) if groups is None else list(groups)
        if not len(texts) == len(ids) == len(groups):
            raise PromptError(f"{len(texts)} texts, {len(ids)} ids and {len(groups)} groups; give one of each a prompt")
        return cls(name, tuple(Prompt(str(i), str(t), str(g), label) for i, t, g in zip(ids, texts, groups)))

    @classmethod
    def from_records(cls, records: Iterable[dict[str, Any]], name: str = "prompts") -> PromptSet:
        """Prompts from dictionaries with the fields of `Prompt` (at least `text`)."""
        known = {field.name for field in fields(Prompt)}
        prompts = []
        for number, record in enumerate(records):
            unknown = set(record) - known
            if unknown or "text" not in record:
                raise PromptError(f"record {number} has fields {listed(sorted(record))}; allowed: {listed(known, 20)}")
            prompts.append(Prompt(**{"id": f"{name}-{number}", **record, **_listed(record, number)}))
        return cls(name, tuple(prompts))

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        text: str = "text",
        id: str | None = None,
        group: str | None = None,
        label: str | None = None,
        name: str = "prompts",
    ) -> PromptSet:
        """Prompts from the columns of a pandas table; rows without a text are refused."""
        wanted = [column for column in (text, id, group, label) if column is not None]
        missing = [column for column in wanted if column not in frame.columns]
        if missing:
            raise PromptError(f"no column {listed(missing)} in {name!r}; its columns: {listed(frame.columns, 30)}")
        empty = [i for i, value in enumerate(frame[text]) if not isinstance(value, str) or not value.strip()]
        if empty:
            raise PromptError(f"rows {listed(empty)} of {name!r} have no text in column {text!r}; fill or drop them")

        def column(key: str | None, i: int) -> str:
            value: Any = None if key is None else frame[key].iloc[i]
            if isinstance(value, (list, dict, tuple)) or (hasattr(value, "ndim") and value.ndim):
                raise PromptError(f"row {i} of {name!r} has {shown(value)} in column {key!r}; give a text or number")
            return "" if value is None or pd.isna(value) else str(value)

        return cls(
            name,
            tuple(
                Prompt(column(id, i) or f"{name}-{i}", value, column(group, i), column(label, i))
                for i, value in enumerate(frame[text])
            ),
        )

    @classmethod
    def from_file(cls, path: str | Path, *, text: str = "text", name: str | None = None, **columns: Any) -> PromptSet:
        """Prompts from a CSV, TSV, JSON, JSONL or Parquet file, or the lines of a .txt; `columns` as in `from_frame`.

        The lines of a .txt file are the texts, whatever `text` names. Texts that stand twice are dropped with a
        warning.
        """
        frame = read_table(path)
        text = "text" if Path(path).suffix == ".txt" else text
        return without_duplicates(cls.from_frame(frame, text=text, name=name or Path(path).stem, **columns))

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, a row per prompt."""
        names = [field.name for field in fields(Prompt)]
        return pd.DataFrame([[getattr(prompt, key) for key in names] for prompt in self], columns=names)

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        content = {"name": self.name, "prompts": [asdict(prompt) for prompt in self.prompts]}
        return save_document(path, "PromptSet", content)

    @classmethod
    def load(cls, path: str | Path) -> PromptSet:
        """Read what `save` wrote."""
        keys = {"name": str, "prompts": list[dict[str, Any]]}
        content = load_document(path, "PromptSet", keys, "give a file written by PromptSet.save")
        with readable(path, "a PromptSet"):
            return cls.from_records(content["prompts"], content["name"])

    def _repr_html_(self) -> str:
        shown = pd.DataFrame([(p.id, p.label, p.text[:200]) for p in self.prompts[:10]])
        return html_note(f"PromptSet {self.name}: {len(self)} prompts") + html_table(shown, header=False)


def normalised(text: str) -> str:
    """What two texts are compared by: case folded, white space collapsed."""
    return re.sub(r"\s+", " ", text).strip().casefold()


#: Characters of a text at most: about a million tokens, more than the contexts of today's models hold.
LONGEST = 4_000_000


def check_text(text: str, what: str) -> None:
    """Raise `PromptError` for what no tokenizer can read or no model can hold: half a character, a book."""
    if not isinstance(text, str):
        raise PromptError(f"{what} is a {type(text).__name__} and no text: {text!r:.80}; give a str")
    if len(text) > LONGEST:
        raise PromptError(f"{what} has {len(text):,} characters, of {LONGEST:,} that are allowed; shorten it")
    half = re.search(r"[\ud800-\udfff]", text)
    if half is not None:
        raise PromptError(
            f"{what} has a lone surrogate ({half.group()!r}, half of a character) at place {half.start()}; remove it, "
            "or read the file with its right encoding"
        )


def check_no_overlap(a: PromptSet, b: PromptSet, *, by: Literal["text", "group"] = "text") -> None:
    """Raise `PromptError` naming the prompts of `b` whose text (or group) also stands in `a`."""
    key = _content if by == "text" else lambda prompt: prompt.group
    known = {key(prompt) for prompt in a}
    shared = [prompt.id for prompt in b if key(prompt) in known]
    if shared:
        raise PromptError(
            f"{len(shared)} prompts of {b.name!r} share their {by} with {a.name!r}: {listed(shared, 5)}; "
            "remove them from one, or split by group"
        )


def check_distinct(sets: Mapping[str, PromptSet]) -> None:
    """Raise `PromptError` where two sets have the same content, as a copy of PHIL once had NLP's."""
    seen: dict[tuple[str, ...], str] = {}
    for name, prompts in sets.items():
        key = tuple(sorted(map(_content, prompts)))
        if key in seen:
            raise PromptError(f"{seen[key]!r} and {name!r} are the same {len(prompts)} prompts; load one of them anew")
        seen[key] = name


def without_duplicates(prompts: PromptSet) -> PromptSet:
    """The first of every text; which prompts were dropped is logged as a warning."""
    first: dict[str, Prompt] = {}
    dropped = [p.id for p in prompts if first.setdefault(_content(p) + repr(p.choices), p) is not p]
    if not dropped:
        return prompts
    logger.warning("dropped %d repeated texts of %r: %s", len(dropped), prompts.name, listed(dropped, 5))
    return replace(prompts, prompts=tuple(first.values()))


def _content(prompt: Prompt) -> str:
    """What two prompts are compared by."""
    return normalised(prompt.text) + "\0" + repr(prompt.messages)


def _listed(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The choices and the messages of a record, which JSON has as lists, as tuples."""
    choices, messages = record.get("choices", ()), record.get("messages", ())
    if not isinstance(choices, (list, tuple)) or not isinstance(messages, (list, tuple)):
        raise PromptError(f"record {number} has choices or messages that are no list; give lists")
    if not all(isinstance(turn, (list, tuple)) and len(turn) == 2 for turn in messages):
        raise PromptError(f"record {number} has messages that are no (role, text); give a list of pairs")
    return {"choices": tuple(choices), "messages": tuple((role, text) for role, text in messages)}


def first_groups(groups: Iterable[str], fraction: float, seed: int) -> set[str]:
    """About `fraction` of the different groups, drawn at random; depends on no order."""
    groups = sorted(set(groups))
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction} is outside (0, 1); 0.5 halves the groups")
    if len(groups) < 2:
        raise PromptError(f"{len(groups)} group cannot be split in two; give prompts of at least 2 groups")
    random.Random(f"split:{seed}").shuffle(groups)
    return set(groups[: min(len(groups) - 1, max(1, round(fraction * len(groups))))])


def _balanced(prompts: PromptSet, n: int, generator: random.Random) -> PromptSet:
    by_group: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_group.setdefault(prompt.group, []).append(index)
    queues = [by_group[group] for group in sorted(by_group)]
    generator.shuffle(queues)
    for queue in queues:
        generator.shuffle(queue)
    chosen: list[int] = []
    while len(chosen) < n:
        for queue in queues:
            if queue and len(chosen) < n:
                chosen.append(queue.pop())
    return replace(prompts, prompts=tuple(prompts.prompts[i] for i in sorted(chosen)))


check_arguments(__name__, error=PromptError)

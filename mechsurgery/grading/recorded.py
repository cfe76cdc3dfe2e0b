"""Answers of judges that are kept: recorded ones, and a judge that is recorded as it answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..artifacts import load_json, save_json
from ..checks import check_arguments
from ..errors import InputError, LoadError, WriteError
from ..reading import checksum
from .judges import Judge, texts_of

VERSION = "judge-answers-1"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RecordedJudge:
    """Answers that were recorded before, by content of the prompt: for tests and for sharing a grading.

    `settings` are those of the judge that answered; where they are not known, the answers' digest, so that other
    answers under the same name are another judge.
    """

    recorded: Mapping[str, str]
    name: str = "recorded"
    settings: str = ""

    @classmethod
    def of(cls, answers: Mapping[str, str], name: str = "recorded") -> RecordedJudge:
        """From {prompt: the judge's answer}."""
        recorded = {_key(prompt): answer for prompt, answer in answers.items()}
        return cls(recorded, name, _digest(recorded))

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The recorded answers. Raises `InputError` where one was never recorded."""
        missing = sum(_key(prompt) not in self.recorded for prompt in prompts)
        if missing:
            raise InputError(f"no recorded answer for {missing} of {len(prompts)} prompts; grade them first")
        return [self.recorded[_key(prompt)] for prompt in prompts]

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        return _save(path, self, {"recorded": dict(self.recorded)})

    @classmethod
    def load(cls, path: str | Path) -> RecordedJudge:
        """Read what `save` wrote. Raises `LoadError` for anything else."""
        content = _content(path)
        return cls(content["recorded"], content["name"], content.get("settings", _digest(content["recorded"])))


class Recording:
    """A judge of which every question and answer is kept in a file; each different question is asked once.

    What is asked again, also by a later process with the same file, is read from there. `RecordedJudge.load` (on the
    command line `recorded:FILE`) answers from the file without the judge, under the judge's name. With no `path` it is
    kept in memory. Answers are written after every `every` questions, so that an interrupted run loses few. Several
    threads and processes may use one file. Raises `InputError` where the file is of another judge, or of the same with
    other settings.
    """

    def __init__(self, judge: Judge, path: str | Path | None, *, every: int = 64) -> None:
        if every < 1:
            raise InputError(f"every={every}; answers are written after a number of questions, at least 1")
        self.judge, self.path, self.every = judge, None if path is None else Path(path), every
        self.settings = str(getattr(judge, "settings", "") or "")
        self._recorded: dict[str, str] = {}
        self._questions: dict[str, str] = {}
        self._lock = threading.Lock()
        self._read()

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.judge.name

    @property
    def spent(self) -> Mapping[str, float] | None:
        """What the judge has spent so far, where it counts that."""
        return getattr(self.judge, "spent", None)

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The judge's answers, those that are known without asking."""
        with self._lock:
            new = [prompt for prompt in dict.fromkeys(prompts) if _key(prompt) not in self._recorded]
            for start in range(0, len(new), self.every):
                asked = new[start : start + self.every]
                for prompt, answer in zip(asked, texts_of(self.judge, asked)):
                    self._recorded[_key(prompt)], self._questions[_key(prompt)] = _whole(answer), prompt
                self._write()
            return [self._recorded[_key(prompt)] for prompt in prompts]

    def _read(self) -> None:
        """Take over what is in the file by now: another recording of the judge may write there too."""
        if self.path is None or not self.path.is_file():
            return
        known = _content(self.path)
        if known["name"] != self.name:
            raise InputError(
                f"{str(self.path)!r} holds answers of {known['name']!r}, not of {self.name!r}; give another"
            )
        if known.get("settings", self.settings) != self.settings:
            raise InputError(
                f"{str(self.path)!r} holds answers of {self.name!r} with other settings ({known['settings']!r}, now "
                f"{self.settings!r}); give another file"
            )
        self._recorded = {**known["recorded"], **self._recorded}
        self._questions = {**known["questions"], **self._questions}

    def _write(self) -> None:
        if self.path is None:
            return
        with _only_one(self.path):
            self._read()
            _save(self.path, self, {"recorded": self._recorded, "questions": self._questions})


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Within it no other process reads and writes the file, where the system can lock files."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(f".{path.name}.lock"), "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise WriteError(f"{str(path)!r} cannot be written ({error.strerror}); give another file") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _save(path: str | Path, judge: RecordedJudge | Recording, kept: Mapping[str, Any]) -> Path:
    facts = {"name": judge.name, "settings": judge.settings, "version": VERSION, **kept}
    return save_json(path, {**facts, "checksum": checksum(facts)})


def _content(path: str | Path) -> dict[str, Any]:
    """A file of answers, every part of which is what it must be. Raises `LoadError`."""
    content = load_json(path)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise LoadError(f"{str(path)!r} holds no recorded answers of {VERSION}; record them again")
    said = content.pop("checksum", None)
    if said is not None and said != checksum(content):
        raise LoadError(
            f"{str(path)!r} is not what was written: its checksum differs; record them again, or, where the change is "
            "meant, remove its line 'checksum'"
        )
    found = {"questions": {}, **content}
    texts = all(isinstance(found.get(key), dict) for key in ("recorded", "questions")) and all(
        isinstance(text, str) and _DIGEST.fullmatch(key)
        for part in ("recorded", "questions")
        for key, text in found[part].items()
    )
    named = isinstance(found.get("name"), str) and isinstance(found.get("settings", ""), str)
    wrong = texts and [key for key, question in found["questions"].items() if _key(question) != key]
    if not texts or not named or wrong:
        raise LoadError(f"{str(path)!r} is damaged: answers and questions do not fit together; record them again")
    return found


def _digest(recorded: Mapping[str, str]) -> str:
    return sha256(json.dumps(dict(recorded), sort_keys=True).encode()).hexdigest()[:16]


def _key(prompt: str) -> str:
    return sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _whole(text: str) -> str:
    """As a file holds it: half a pair of surrogates, which is no UTF-8, as its number."""
    return text.encode("utf-8", "backslashreplace").decode()


check_arguments(__name__)

"""Models that judge responses: what a grade asks of one, and a local model. Recorded answers: `recorded`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..checks import check_arguments
from ..errors import InputError
from ..models.protocol import Model
from ..prompts import Prompt


@runtime_checkable
class Judge(Protocol):
    """Anything that answers prompts: a local model, an HTTP endpoint, a recording."""

    @property
    def name(self) -> str:
        """What stands for the judge in tables and in kept grades."""
        ...

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in order."""
        ...


def ask(judge: Judge, questions: Sequence[str]) -> list[str]:
    """The judge's answer to every question; each different question is asked once.

    Raises `InputError` for a judge that does not give one text for each.
    """
    different = list(dict.fromkeys(questions))
    answers = dict(zip(different, texts_of(judge, different)))
    return [answers[question] for question in questions]


def texts_of(judge: Judge, questions: Sequence[str]) -> list[str]:
    """One text per question."""
    given = judge.answers(questions) if questions else []
    if not isinstance(given, (list, tuple)) or len(given) != len(questions):
        said = f"{len(given)} answers" if isinstance(given, (list, tuple)) else f"a {type(given).__name__}"
        raise InputError(f"judge {judge.name!r} gave {said} for {len(questions)} questions; it must give one text each")
    for one in given:
        if not isinstance(one, str):
            raise InputError(f"judge {judge.name!r} gave a {type(one).__name__} for an answer; answers are texts")
    return list(given)


def request_of(prompt: Prompt) -> str:
    """What the user asks: the prompt's text, or the last turn of the user in a whole chat."""
    turns = [text for role, text in prompt.messages if role == "user"]
    return turns[-1] if turns else prompt.text


def spent_by(judges: Iterable[Judge]) -> dict[str, dict[str, float]]:
    """{judge: what it has spent so far} of those that count it: answers asked and kept, tokens, cost."""
    counted = {called(judge): getattr(judge, "spent", None) for judge in judges}
    return {name: dict(spent) for name, spent in counted.items() if isinstance(spent, Mapping)}


def called(judge: Judge) -> str:
    """A judge's name and what else its answers depend on (its `settings`), for a grade's version."""
    settings = str(getattr(judge, "settings", "") or "")
    return f"{judge.name} ({settings})" if settings else judge.name


@dataclass(frozen=True, eq=False)
class LocalJudge:
    """Any model loaded with `load_model`, answering greedily by its chat template."""

    model: Model
    max_new_tokens: int = 256
    max_rows: int = 16

    @property
    def name(self) -> str:
        """The model's name."""
        return f"local {self.model.cfg.model_name}"

    @property
    def settings(self) -> str:
        """The model's weights, and how long its answers may be."""
        from ..models.fingerprint import fingerprint

        return f"{fingerprint(self.model)}, {self.max_new_tokens} tokens"

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One generation per prompt, batched; empty where the judge is still thinking after `max_new_tokens`."""
        from ..models.generate import generate
        from ..prompts.chat import encode, response_text

        tokenizer = self.model.tokenizer
        ids = encode(tokenizer, prompts)
        answers = generate(self.model, ids, max_new_tokens=self.max_new_tokens, max_rows=self.max_rows)
        return [response_text(tokenizer, tokens) or "" for tokens in answers]


check_arguments(__name__)

"""Answers while units are scaled: the unmodified model and its changed selves, as rows of one batch, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..checks import check_arguments
from ..errors import InputError, PromptError
from ..intervention import Intervention, row_hooks
from ..models import generate
from ..models.tokens import tokenizer_of
from ..prompts.chat import encode, response_text
from .coordinates import multiplied

if TYPE_CHECKING:
    from .catalogue import Catalogue

#: The most that one question may hold.
MOST_CHARACTERS, MOST_TOKENS, MOST_UNITS, LARGEST_M = 20_000, 512, 20_000, 100.0

_NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Ask:
    """A question: a prompt, the multiplier of each unit that is not left at 1, and a random circuit to set beside it.

    `random` is the seed of a matched random circuit with the same multipliers, None for none.
    """

    prompt: str
    multipliers: Mapping[str, float] = field(default_factory=dict)
    random: int | None = None
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        _check(self.prompt, self.multipliers, self.random, self.max_new_tokens)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Ask:
        """The question in a message of the explorer, which may hold anything, checked. Raises `InputError`."""
        known = {key: message[key] for key in ("prompt", "multipliers", "random", "max_new_tokens") if key in message}
        _check(**known)
        return cls(**{"prompt": "", **known})


def _check(prompt: Any = "", multipliers: Any = _NONE, random: Any = None, max_new_tokens: Any = 1) -> None:
    """Raise `InputError` for what no question may hold."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("the prompt is empty; type one")
    if len(prompt) > MOST_CHARACTERS:
        raise InputError(f"the prompt has {len(prompt):,} characters; {MOST_CHARACTERS:,} are allowed")
    if not _whole(max_new_tokens) or not 1 <= max_new_tokens <= MOST_TOKENS:
        raise InputError(f"max_new_tokens={_brief(max_new_tokens)}; give a number from 1 to {MOST_TOKENS}")
    if random is not None and not (_whole(random) and 0 <= random < 2**31):
        raise InputError(f"random={_brief(random)}; give a seed, a number from 0 to 2³¹ − 1, or none")
    if not isinstance(multipliers, Mapping) or len(multipliers) > MOST_UNITS:
        raise InputError(f"multipliers must be {{unit: number}}, for at most {MOST_UNITS:,} units")
    for name, m in multipliers.items():
        number = isinstance(m, (int, float)) and not isinstance(m, bool)
        # Size first: integers too large for a float have no other test.
        if not isinstance(name, str) or not number or abs(m) > LARGEST_M or not math.isfinite(m):
            raise InputError(
                f"multiplier {_brief(m)} of unit {_brief(name)}; give a number from −{LARGEST_M:g} to {LARGEST_M:g}"
            )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    return repr(value)[:80]


class Live:
    """Answers questions about the model of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def interventions(self, ask: Ask) -> dict[str, Intervention | None]:
        """What is done in each row: nothing in "baseline"; what was asked in "changed"; random units in "random".

        Raises `InputError` or `SiteError` for an unknown unit.
        """
        units = {self.catalogue.unit(name): float(m) for name, m in ask.multipliers.items()}
        widths = self.catalogue.widths
        runs: dict[str, Intervention | None] = {"baseline": None}
        runs["changed"] = multiplied(units, widths, name="changed")
        if ask.random is not None:
            runs["random"] = multiplied(units, widths, name="random", seed=ask.random)
        return runs

    def stream(self, ask: Ask) -> Iterator[dict[str, Any]]:
        """After every token `{"texts": {row: text so far}, "done": False}`; the last one has `done` True.

        The hooks are on the model only inside one step, so that dropping the iterator leaves the model as it was.
        Raises `PromptError` for a prompt that does not fit, `InputError` or `SiteError` for an unknown unit.
        """
        model, template = self.catalogue.model, self.catalogue.template
        runs = self.interventions(ask)
        (ids,) = encode(tokenizer_of(model), [ask.prompt], template=template)
        if len(ids) + ask.max_new_tokens - 1 > model.cfg.n_ctx:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, and with {ask.max_new_tokens} new ones does not fit into the "
                f"context of {model.cfg.n_ctx}; shorten it or ask for fewer new tokens"
            )
        # Rows that do the same thing are run once.
        distinct = list({id(run): run for run in runs.values()}.values())
        place = {name: next(i for i, run in enumerate(distinct) if run is own) for name, own in runs.items()}

        def hooks(rows: list[int]) -> list[tuple[str, Any]]:
            own = [distinct[row] for row in rows]
            return row_hooks(own, [0.0 if run is None else run.strength for run in own])

        texts: dict[str, str] = dict.fromkeys(runs, "")
        for new in generate.stream(model, ids, len(distinct), hooks=hooks, max_new_tokens=ask.max_new_tokens):
            texts = {name: self._text(new[row]) for name, row in place.items()}
            yield {"texts": texts, "done": False}
        yield {"texts": texts, "done": True}

    def _text(self, new: list[int]) -> str:
        tokenizer = tokenizer_of(self.catalogue.model)
        answer = response_text(tokenizer, new, self.catalogue.template)
        return tokenizer.decode(new, skip_special_tokens=True) if answer is None else answer


check_arguments(__name__, inner=True)

"""`Template`: how prompts are put before a model, as something that can be written down and used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Literal, cast, get_args

from ..checks import check_arguments
from ..errors import InputError, listed
from .clock import Clock, midnight
from .jinja import applied_template
from .sets import check_text

Kind = Literal["auto", "chat", "plain", "raw"]
_TAKEN = ("enable_thinking", "messages", "conversation", "tokenize", "add_generation_prompt", "chat_template")
_OTHER_DAYS = (date(1999, 12, 31), date(2001, 2, 5))


@dataclass(frozen=True)
class Template:
    """How prompts are put before a model; every `template=` takes one, or just its kind.

    `kind`: "chat" is the tokenizer's own chat template, "plain" is `User: … / Assistant:`, "raw" the bare text, and
    "auto" the tokenizer's own where it has one and plain where not. `system` goes before prompts that have no system
    text of their own. `thinking` is whether the model is to think first (`enable_thinking` of Qwen3 and others,
    `thinking` of Granite); `arguments` are handed to the chat template besides, e.g. `{"date_string": "26 Jul 2024"}`;
    `strftime_now`, an ISO date, is the day that templates are told.

    With `control_tokens`, marks such as `<|im_end|>` in texts are read as the tokens that they name; otherwise only
    those that the template writes are. `as_published` puts the tokenizer's begin token before templated text that has
    one, as published code did that tokenises such text like any other. Raises `InputError` for values that cannot be
    written down as JSON.
    """

    kind: Kind = "auto"
    system: str | None = None
    thinking: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    control_tokens: bool = field(default=False, kw_only=True)
    as_published: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise InputError(f"arguments={self.arguments!r:.80} of a template must be a mapping of names to values")
        object.__setattr__(self, "arguments", dict(self.arguments))
        _checked_kind(self.kind)
        for name in ("thinking", "control_tokens", "as_published"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r:.80} of a template must be True or False")
        taken = [name for name in self.arguments if name in _TAKEN]
        if taken:
            raise InputError(f"arguments= of a template cannot set {listed(taken)}; thinking is set by thinking=")
        try:
            json.dumps(self.arguments)
            date.fromisoformat(self.arguments.get("strftime_now", "2024-07-26"))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"arguments={self.arguments!r:.200} of a template must be plain values, dates ISO"
            ) from error
        check_text("" if self.system is None else self.system, "the system text of a template")

    def facts(self) -> dict[str, Any]:
        """Everything it says, as plain values for a manifest."""
        return asdict(self)

    def frozen(self, tokenizer: Any) -> Template:
        """The same with today's date among its arguments, so that what is continued tomorrow has the same prompts.

        Found out by rendering on several days. The date stands in `date_string` where that alone makes the same text
        on any day, in a format in which the template asked for it, else in `strftime_now`. Unchanged where the day
        makes no difference or was given.
        """
        if kind_of(tokenizer, self) != "chat" or "strftime_now" in self.arguments:
            return self
        today = date.today()
        shown, formats = self._shown(tokenizer, today)
        if not formats or self._always(tokenizer, shown):
            return self
        for asked in formats:
            named = replace(self, arguments={**self.arguments, "date_string": today.strftime(asked)})
            if named._always(tokenizer, shown):
                return named
        return replace(self, arguments={**self.arguments, "strftime_now": today.isoformat()})

    def _always(self, tokenizer: Any, shown: list[str]) -> bool:
        """Whether this is how chats are rendered on other days too."""
        return all(self._shown(tokenizer, day)[0] == shown for day in _OTHER_DAYS)

    def _shown(self, tokenizer: Any, day: date) -> tuple[list[str], list[str]]:
        """Two chats as they are rendered on a day, and the formats in which the template asked for it."""
        clock = Clock(midnight(day))
        chats = ([("user", "Hello")], [("system", "Be kind."), ("user", "Hello")])
        shown = [applied(tokenizer, chat, self, clock) for chat in chats]
        return shown, list(dict.fromkeys(clock.formats))


def as_template(template: str | Template) -> Template:
    """The template, or the one of a kind. Raises `InputError` for a kind there is not."""
    return template if isinstance(template, Template) else Template(_checked_kind(template))


def _checked_kind(kind: str) -> Kind:
    if kind not in get_args(Kind):
        raise InputError(f"template={kind!r:.80} is not one of {listed(get_args(Kind))}, and no Template")
    return cast(Kind, kind)


def kind_of(tokenizer: Any, template: str | Template) -> str:
    """Which kind a template is for a tokenizer: "chat", "plain" or "raw". Raises `InputError` where it cannot be."""
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer, so prompts cannot become tokens; load it from a directory with a tokenizer, "
            "or set model.tokenizer"
        )
    kind = template.kind if isinstance(template, Template) else _checked_kind(template)
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if kind == "auto":
        return "chat" if has_template else "plain"
    if kind == "chat" and not has_template:
        raise InputError("this tokenizer has no chat template; use template='plain' for a base model")
    return kind


def applied(tokenizer: Any, messages: list[tuple[str, str]], template: Template, clock: Clock | None = None) -> str:
    """Turns as the tokenizer's own chat template writes them. Raises `PromptError` where it cannot."""
    return applied_template(tokenizer, messages, given_to(template), clock)


def given_to(template: Template) -> dict[str, Any]:
    """What a chat template is given besides the turns."""
    return {"enable_thinking": template.thinking, "thinking": template.thinking, **template.arguments}


check_arguments(__name__)

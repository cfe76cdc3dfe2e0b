"""A tokenizer's chat template put to use: every way in which it can fail is one error that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ..checks import check_arguments
from ..errors import PromptError
from .clock import Clock, midnight
from .sets import check_text

_INSTEAD = "give other turns or arguments, set tokenizer.chat_template to one that works, or use template='plain'"


class _StoppedError(PromptError):
    """The template took more than it may."""


def source_of(tokenizer: Any) -> str:
    """The text of a tokenizer's chat template. Raises `PromptError` where there is none, or several and no default."""
    try:
        source = tokenizer.get_chat_template()
    except Exception as error:
        raise PromptError(f"this tokenizer has no chat template that can be used: {error}; {_INSTEAD}") from error
    if not isinstance(source, str):
        raise PromptError(f"this tokenizer's chat template is a {type(source).__name__} and no text; {_INSTEAD}")
    return source


def applied_template(
    tokenizer: Any,
    messages: list[tuple[str, str]],
    given: Mapping[str, Any],
    clock: Clock | None = None,
    *,
    hidden: Mapping[int, str] | None = None,
) -> str:
    """A chat as the tokenizer's template writes it, ready for the assistant's turn.

    `given` are its arguments; `strftime_now` among them is the day that it is told (default: today, or `clock`).
    Characters in `hidden` are written as it says where the template has them, and not a turn. A system text that the
    template refuses or leaves out goes before the first user turn. Raises `PromptError` whatever the template does
    wrong, and where it takes too much time or memory or writes nothing.
    """
    from jinja2 import TemplateError

    system = messages[0][0] == "system" and len(messages) > 1
    try:
        text = _run(tokenizer, messages, given, clock, hidden)
        if not system or not _left_out(text, tokenizer, messages, given, clock, hidden):
            return text
    except TemplateError as error:
        if not system:
            raise PromptError(f"the chat template refuses these turns: {_said(error)}; {_INSTEAD}") from error
    # Gemma's template refuses system turns: their text goes before the first user turn.
    (_, said), (role, first), *rest = messages
    return applied_template(tokenizer, [(role, f"{said}\n\n{first}"), *rest], given, clock, hidden=hidden)


def tried_templates(tokenizer: Any, chats: Sequence[list[tuple[str, str]]], given: Mapping[str, Any]) -> list[str]:
    """Those of some chats that the template takes. Raises `PromptError` where it takes too much time or memory."""
    shown = []
    for chat in chats:
        try:
            shown.append(applied_template(tokenizer, chat, given))
        except _StoppedError:
            raise
        except PromptError:
            continue
    return shown


def _left_out(text: str, tokenizer: Any, messages: list[tuple[str, str]], *how: Any) -> bool:
    """Whether the template wrote nothing for the system turn."""
    from jinja2 import TemplateError

    if not messages[0][1].strip() or messages[0][1].strip() in text:
        return False
    try:
        return _run(tokenizer, messages[1:], *how) == text
    except (TemplateError, PromptError):
        return False


def _run(
    tokenizer: Any,
    messages: list[tuple[str, str]],
    given: Mapping[str, Any],
    clock: Clock | None,
    hidden: Mapping[int, str] | None,
) -> str:
    from jinja2 import TemplateError

    from .budget import OverBudgetError
    from .sandbox import run

    source, given = source_of(tokenizer), dict(given)
    day = given.pop("strftime_now", None)
    clock = (
        clock
        if day is None and clock is not None
        else Clock(None if day is None else midnight(date.fromisoformat(day)))
    )
    variables = {
        "messages": [{"role": role, "content": text} for role, text in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "strftime_now": clock.strftime_now,
        **{name: _hide(value, hidden) for name, value in {**tokenizer.special_tokens_map, **given}.items()},
    }
    try:
        text = run(source, variables, size=sum(len(text) for _, text in messages), hidden=hidden)
    except OverBudgetError as error:
        raise _StoppedError(f"the chat template was stopped: {error}; {_INSTEAD}") from error
    except TemplateError:
        raise
    except Exception as error:
        raise PromptError(f"the chat template fails: {type(error).__name__}: {_said(error)}; {_INSTEAD}") from error
    if not text.strip():
        raise PromptError(f"the chat template writes nothing for these turns; {_INSTEAD}")
    check_text(text, "what the chat template writes")
    return text


def _hide(value: Any, hidden: Mapping[int, str] | None) -> Any:
    return value.translate(hidden) if isinstance(value, str) and hidden else value


def _said(error: Exception) -> str:
    return " ".join(str(error)[:300].split()) or type(error).__name__


check_arguments(__name__, error=PromptError, inner=True)

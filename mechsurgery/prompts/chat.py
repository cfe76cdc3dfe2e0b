"""From prompts to token ids, and from new tokens to an answer: the model's own chat template, or a plain one.

Templates write the begin-of-text token themselves, so their text is tokenised without special tokens and
never gets two. What a template writes may depend on the day (Llama 3.2 names the date) and on whether the model is
to think before it answers (Qwen3): `Template` says both, so that a prompt can be written down and made again.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Literal, cast, get_args

from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from .sets import Prompt, check_text

logger = logging.getLogger(__name__)

Kind = Literal["auto", "chat", "plain", "raw"]
_PLAIN_STOPS = ("\nUser:", "\nAssistant:")
_THOUGHT, _THOUGHT_END = "<think>", "</think>"
_CHAT_NAME = re.compile(r"instruct|chat|[-_]it(?![a-z])", re.IGNORECASE)
_TAKEN = ("enable_thinking", "messages", "conversation", "tokenize", "add_generation_prompt", "chat_template")


@dataclass(frozen=True)
class Template:
    """How prompts are put before a model; every `template=` takes one, or just its kind.

    `kind`: "chat" is the tokenizer's own chat template, "plain" is `User: … / Assistant:`, "raw" the bare text, and
    "auto" the tokenizer's own where it has one and plain where not. `system` goes before prompts that have no system
    text of their own. `thinking` is whether the model is to think first (`enable_thinking` of Qwen3 and others);
    `arguments` are handed to the chat template besides, e.g. `{"date_string": "26 Jul 2024"}`; `strftime_now`, an ISO
    date, is the day that templates are told. Raises `InputError` for values that cannot be written down as JSON.
    """

    kind: Kind = "auto"
    system: str | None = None
    thinking: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", dict(self.arguments))
        _checked_kind(self.kind)
        taken = [name for name in self.arguments if name in _TAKEN]
        if taken:
            raise InputError(f"arguments= of a template cannot set {listed(taken)}; thinking is set by thinking=")
        try:
            json.dumps(self.arguments)
            date.fromisoformat(self.arguments.get("strftime_now", "2024-07-26"))
        except (TypeError, ValueError) as error:
            raise InputError(f"arguments={self.arguments} of a template must be plain values, dates ISO") from error
        check_text(self.system or "", "the system text of a template")

    def facts(self) -> dict[str, Any]:
        """Everything it says, as plain values for a manifest."""
        return asdict(self)

    def frozen(self, tokenizer: Any) -> Template:
        """The same with today's date among its arguments, so that what is continued tomorrow has the same prompts.

        The date stands in `date_string` where the tokenizer's template takes that, in the template's own format, else
        in `strftime_now`. Unchanged where the day makes no difference or was given.
        """
        if _kind(tokenizer, self) != "chat" or "strftime_now" in self.arguments:
            return self
        today = date.today()
        formats = [call["format"] for call in _TODAY.finditer(tokenizer.get_chat_template())]
        shown = self._shown(tokenizer, today)
        if not formats or shown == self._shown(tokenizer, _ANOTHER_DAY):
            return self
        named = replace(self, arguments={**self.arguments, "date_string": today.strftime(formats[0])})
        if shown == named._shown(tokenizer, _ANOTHER_DAY):
            return named
        return replace(self, arguments={**self.arguments, "strftime_now": today.isoformat()})

    def _shown(self, tokenizer: Any, day: date) -> list[str]:
        """Two chats as they are rendered on a day."""
        template = replace(self, arguments={**self.arguments, "strftime_now": day.isoformat()})
        chats = ([("user", "Hello")], [("system", "Be kind."), ("user", "Hello")])
        return [_apply(tokenizer, chat, template) for chat in chats]


#: How chat templates ask for today's date.
_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")
_ANOTHER_DAY = date(1999, 12, 31)


def as_template(template: str | Template) -> Template:
    """The template, or the one of a kind. Raises `InputError` for a kind there is not."""
    return template if isinstance(template, Template) else Template(_checked_kind(template))


def _checked_kind(kind: str) -> Kind:
    if kind not in get_args(Kind):
        raise InputError(f"template={kind!r} is not one of {listed(get_args(Kind))}, and no Template")
    return cast(Kind, kind)


def encode(tokenizer: Any, prompts: Iterable[Prompt | str], *, template: str | Template = "auto") -> list[list[int]]:
    """Token ids of every prompt, ready for the model to answer. A prompt's `prefix` begins the answer."""
    return [tokenise(tokenizer, render(tokenizer, item, template=template), template) for item in prompts]


def check_template(tokenizer: Any, template: str | Template = "auto", *, name: str = "") -> None:
    """Find out before anything runs whether prompts can be put before this model.

    Raises `InputError` where there is no tokenizer, or `template` asks for a chat template that it does not have. A
    model whose `name` says that it is a chat model, and whose tokenizer has no chat template, is a warning: its prompts
    would be put plainly, and it would answer less well than it can.
    """
    if _kind(tokenizer, template) == "plain" and as_template(template).kind == "auto" and _CHAT_NAME.search(name):
        logger.warning(
            "%s sounds like a chat model, but its tokenizer has no chat template, so prompts are put as 'User: … "
            "Assistant:'; set model.tokenizer.chat_template, or give template='plain' if that is meant",
            name,
        )


def tokenise(tokenizer: Any, text: str, template: str | Template = "auto") -> list[int]:
    """Token ids of rendered text; only plain and raw text get the tokenizer's begin token."""
    if _kind(tokenizer, template) == "chat":
        return list(tokenizer.encode(text, add_special_tokens=False))
    ids = list(tokenizer.encode(text))
    # Some tokenizers end plain text with an end token, after which no answer can follow.
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def render(tokenizer: Any, prompt: Prompt | str, *, template: str | Template = "auto") -> str:
    """The text that `encode` tokenises."""
    prompt = prompt if isinstance(prompt, Prompt) else Prompt("text", prompt)
    template = as_template(template)
    kind = _kind(tokenizer, template)
    if kind == "raw":
        return prompt.text + prompt.prefix
    messages = _messages(prompt, template.system)
    if kind == "chat":
        return _with_prefix(_apply(tokenizer, messages, template), prompt.prefix)
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(role, role.title())}: {text}" for role, text in messages]
    return _with_prefix("\n\n".join([*turns, "Assistant:"]), prompt.prefix)


def rendered_example(tokenizer: Any, prompt: Prompt | str, template: str | Template = "auto") -> dict[str, Any]:
    """One prompt as the model gets it, for a manifest: the template's facts, the text and its token ids."""
    text = render(tokenizer, prompt, template=template)
    return {"template": as_template(template).facts(), "text": text, "tokens": tokenise(tokenizer, text, template)}


def stop_texts(tokenizer: Any, template: str | Template = "auto") -> tuple[str, ...]:
    """Texts at which a response ends besides the end token: the next turn of the plain template."""
    return _PLAIN_STOPS if _kind(tokenizer, template) == "plain" else ()


def turn_tokens(tokenizer: Any, tokens: Sequence[int], template: str | Template = "auto") -> list[int]:
    """Those of the new tokens that belong to the model's own turn, without the next turn of the plain template."""
    kept = [int(token) for token in tokens]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    own = min((text.find(stop) for stop in stop_texts(tokenizer, template) if stop in text), default=len(text))
    # Not only until the stop is gone: what it begins with ("\nUser") is the next turn's too.
    while kept and own < len(text):
        kept.pop()
        text = tokenizer.decode(kept, skip_special_tokens=True)
        own = min(own, len(text))
    return kept


def response_text(tokenizer: Any, tokens: Sequence[int], template: str | Template = "auto") -> str | None:
    """The answer in a model's new tokens, without special tokens, thoughts and the plain template's next turn.

    What stands after the last `</think>` counts. `None` where a thought was begun, by the model or by its prompt, and
    not ended: there is no answer to grade.
    """
    stops = stop_texts(tokenizer, template)
    text = _decoded(tokenizer, [int(token) for token in tokens])
    for stop in stops:
        text = text.split(stop)[0]
    _, ended, answer = text.rpartition(_THOUGHT_END)
    if _THOUGHT in answer or (not ended and _begins_with_thought(tokenizer, template)):
        return None
    return answer.strip()


def _decoded(tokenizer: Any, tokens: list[int]) -> str:
    """The text without special tokens, but with the marks of thoughts where these are special tokens."""
    special = set(getattr(tokenizer, "all_special_tokens", ())) & {_THOUGHT, _THOUGHT_END}
    if not special:
        return tokenizer.decode(tokens, skip_special_tokens=True)
    marks = {tokenizer.convert_tokens_to_ids(mark): mark for mark in special}
    parts: list[str] = []
    start = 0
    for end in [*(i for i, token in enumerate(tokens) if token in marks), len(tokens)]:
        parts.append(tokenizer.decode(tokens[start:end], skip_special_tokens=True))
        parts += [marks[token] for token in tokens[end : end + 1]]
        start = end + 1
    return "".join(parts)


def _begins_with_thought(tokenizer: Any, template: str | Template) -> bool:
    """Whether prompts end inside a thought, which the response goes on with."""
    if _kind(tokenizer, template) != "chat" or _THOUGHT not in str(tokenizer.chat_template):
        return False
    shown = render(tokenizer, "Hello", template=template)
    return _THOUGHT in shown.rpartition(_THOUGHT_END)[2]


def _kind(tokenizer: Any, template: str | Template) -> str:
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer, so prompts cannot become tokens; load it from a directory with a tokenizer, "
            "or set model.tokenizer"
        )
    kind = as_template(template).kind
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if kind == "auto":
        return "chat" if has_template else "plain"
    if kind == "chat" and not has_template:
        raise InputError("this tokenizer has no chat template; use template='plain' for a base model")
    return kind


def _messages(prompt: Prompt, system: str | None) -> list[tuple[str, str]]:
    messages = list(prompt.messages) or [("user", prompt.text)]
    system = prompt.system if prompt.system is not None else system
    return messages if system is None or messages[0][0] == "system" else [("system", system), *messages]


def _apply(tokenizer: Any, messages: list[tuple[str, str]], template: Template) -> str:
    from jinja2 import TemplateError

    options = {"enable_thinking": template.thinking, **template.arguments}
    if "strftime_now" in options:
        # Only plain values reach a template, no function, so the day is written into the template's text.
        day = date.fromisoformat(options.pop("strftime_now"))
        source = tokenizer.get_chat_template()
        options["chat_template"] = _TODAY.sub(lambda call: repr(day.strftime(call["format"])), source)

    def apply(turns: list[tuple[str, str]]) -> str:
        chat = [{"role": role, "content": text} for role, text in turns]
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)

    try:
        return apply(messages)
    except TemplateError as error:
        if messages[0][0] != "system" or len(messages) == 1:
            raise PromptError(
                f"the chat template refuses these turns: {error}; give others, or template='plain'"
            ) from error
        # Gemma's template refuses system turns: their text goes before the first user turn.
        (_, system), (role, text), *rest = messages
        return _apply(tokenizer, [(role, f"{system}\n\n{text}"), *rest], template)


def _with_prefix(text: str, prefix: str) -> str:
    if not prefix:
        return text
    joined = "" if text.endswith((" ", "\n", ">")) or prefix.startswith(" ") else " "
    return text + joined + prefix


check_arguments(__name__, error=PromptError)

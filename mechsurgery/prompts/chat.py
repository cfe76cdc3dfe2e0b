"""From prompts to token ids, and from new tokens to an answer: the model's own chat template, or a plain one.

Templates write the begin-of-text token themselves, so their text is tokenised without special tokens and
never gets two. What a template writes may depend on the day (Llama 3.2 names the date) and on whether the model is
to think before it answers (Qwen3): `Template` says both, so that a prompt can be written down and made again.
Control tokens are what the template writes: the same marks in a prompt, a system text or an answer are plain text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from .control import Controls, Spans, controls_of, encode_text, written_spans
from .jinja import applied_template, tried_templates
from .sets import Prompt, check_text
from .template import Template, applied, as_template, given_to, kind_of

logger = logging.getLogger(__name__)

_PLAIN_STOPS = ("\nUser:", "\nAssistant:")
_THOUGHT, _THOUGHT_END = "<think>", "</think>"
_BASE_NAME = re.compile(r"(?<![a-z])base(?![a-z])|[-_]pt(?![a-z])", re.IGNORECASE)
_CHAT_NAME = re.compile(r"instruct|chat|[-_]it(?![a-z])", re.IGNORECASE)
_APART = "\U0010f3a6"
_ROLES = ("system", "user", "assistant", "developer", "model", "tool")


def encode(tokenizer: Any, prompts: Iterable[Prompt | str], *, template: str | Template = "auto") -> list[list[int]]:
    """Token ids of every prompt, ready for the model to answer. A prompt's `prefix` begins the answer.

    Raises `PromptError` for a chat template that fails, takes too much time or memory, or writes nothing.
    """
    template = as_template(template)
    controls = _controls(tokenizer, template)
    shown = (_shown(tokenizer, _as_prompt(item), template, controls) for item in prompts)
    return [_ids(tokenizer, text, written, template, controls) for text, written in shown]


def check_template(
    tokenizer: Any, template: str | Template = "auto", *, name: str = "", stops: Sequence[int] = ()
) -> None:
    """Find out before anything runs whether prompts can be put before this model.

    Raises `InputError` where there is no tokenizer, or `template` asks for a chat template that it does not have, and
    `PromptError` for one that does not work. Warned of are: a model whose `name` says that it is a chat model, without
    a chat template; a chat template on what seems to be a base model, by its name or because none of the tokens in
    `stops` (at which the model ends) is what the template ends a turn with; and `as_published`.
    """
    chosen = as_template(template)
    kind = kind_of(tokenizer, chosen)
    if kind == "chat":
        _warn_of_base(tokenizer, chosen, name, stops)
    if kind == "plain" and chosen.kind == "auto" and _CHAT_NAME.search(name):
        logger.warning(
            "%s sounds like a chat model, but its tokenizer has no chat template, so prompts are put as 'User: … "
            "Assistant:'; set model.tokenizer.chat_template, or give template='plain' if that is meant",
            name,
        )


def _warn_of_base(tokenizer: Any, template: Template, name: str, stops: Sequence[int]) -> None:
    """Warn of a chat template on a base model, and of a begin token that stands twice."""
    if template.as_published and encode(tokenizer, ["Hello"], template=template)[0][:2] == [tokenizer.bos_token_id] * 2:
        logger.warning("as_published: every prompt has its begin token twice, as in the published code")
    if template.kind != "auto" or name.startswith("organism/"):  # all of these were trained on their template
        return
    said = "This is what I said."
    chat = [("user", "Hello"), ("assistant", said), ("user", "Go on")]
    shown = "".join(tried_templates(tokenizer, [chat], given_to(template)))
    ends = _controls(tokenizer, template).pattern.search(shown.rpartition(said)[2]) if said in shown else None
    other = ends is not None and len(stops) and tokenizer.convert_tokens_to_ids(ends.group()) not in stops
    if other or _BASE_NAME.search(name):
        logger.warning(
            "%s seems to be a base model, though its tokenizer has a chat template%s; prompts are put in that "
            "template, which it may not have been trained on: give template='plain' for 'User: … Assistant:', or "
            "template='chat' if the template is meant",
            name or "this model",
            f", and it does not stop at {ends.group()!r}" if other and ends is not None else "",
        )


def encode_continued(
    tokenizer: Any, prompt: Prompt | str, text: str, *, template: str | Template = "auto"
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of the prompt with a text after it, of which nothing is read as a control token."""
    template = as_template(template)
    controls = _controls(tokenizer, template)
    shown, written = _shown(tokenizer, _as_prompt(prompt), template, controls)
    start, whole = (_ids(tokenizer, one, written, template, controls) for one in (shown, shown + text))
    return start, whole


def encode_plain(tokenizer: Any, text: str, template: str | Template = "auto") -> list[int]:
    """Token ids of a text by itself, without special tokens, and without control tokens unless `template` has them."""
    check_text(text, "the text")
    template = as_template(template)
    if template.control_tokens:
        return list(tokenizer.encode(text, add_special_tokens=False))
    return encode_text(tokenizer, _controls(tokenizer, template), text)


def render_apart(tokenizer: Any, prompt: Prompt | str, *, template: str | Template = "auto") -> str:
    """The text of `render` for tools that keep texts: marks that the template did not write are broken by a private
    character, which `encode_apart` takes out.
    """
    template = as_template(template)
    controls = _controls(tokenizer, template)
    text, written = _shown(tokenizer, _as_prompt(prompt), template, controls)
    if template.control_tokens:
        return text
    for start, _ in reversed([span for span in controls.spans(text) if span not in written]):
        text = text[: start + 1] + _APART + text[start + 1 :]
    return text


def encode_apart(tokenizer: Any, text: str, *, template: str | Template = "auto", begin: bool = False) -> list[int]:
    """Token ids of a text that begins with one of `render_apart`; with `begin`, with the tokenizer's special tokens."""
    check_text(text, "the text")
    template = as_template(template)
    if template.control_tokens:
        return list(tokenizer.encode(text, add_special_tokens=begin))
    controls = _controls(tokenizer, template)
    before = ((start, end, text.count(_APART, 0, start)) for start, end in controls.spans(text))
    moved = tuple((start - n, end - n) for start, end, n in before)
    return encode_text(tokenizer, controls, text.replace(_APART, ""), moved, begin=begin)


def _ids(tokenizer: Any, text: str, written: Spans, template: Template, controls: Controls) -> list[int]:
    """Token ids of rendered text; only plain and raw text get the tokenizer's begin token."""
    begin = kind_of(tokenizer, template) != "chat" or template.as_published
    if template.control_tokens:
        ids = list(tokenizer.encode(text, add_special_tokens=begin))
        opening = getattr(tokenizer, "bos_token_id", None)
        if opening is not None and ids[:2] == [opening, opening] and not template.as_published:
            ids = ids[1:]
    else:
        ids = encode_text(tokenizer, controls, text, written, begin=begin)
    # Some tokenizers end plain text with an end token, after which no answer can follow.
    ids = ids[:-1] if begin and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    if not ids:
        raise PromptError(f"the text {text[:80]!r} has no tokens once rendered; give a text, or another template")
    return ids


def render(tokenizer: Any, prompt: Prompt | str, *, template: str | Template = "auto") -> str:
    """The text that `encode` tokenises."""
    return _rendered(tokenizer, _as_prompt(prompt), as_template(template))[0]


def _as_prompt(prompt: Prompt | str) -> Prompt:
    return prompt if isinstance(prompt, Prompt) else Prompt("text", prompt)


def _rendered(tokenizer: Any, prompt: Prompt, template: Template) -> tuple[str, list[tuple[str, str]], str]:
    """The whole text of a prompt, its turns, and what a chat template wrote for them."""
    kind = kind_of(tokenizer, template)
    if kind == "raw":
        return prompt.text + prompt.prefix, [], ""
    messages = _messages(prompt, template.system)
    if kind == "chat":
        shown = applied(tokenizer, messages, template)
        return _with_prefix(shown, prompt.prefix), messages, shown
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(role, role.title())}: {text}" for role, text in messages]
    return _with_prefix("\n\n".join([*turns, "Assistant:"]), prompt.prefix), messages, ""


def _shown(tokenizer: Any, prompt: Prompt, template: Template, controls: Controls) -> tuple[str, Spans]:
    """The text of a prompt, and where the chat template wrote control tokens in it."""
    text, messages, shown = _rendered(tokenizer, prompt, template)
    if not shown or template.control_tokens:
        return text, ()

    def again(turns: Sequence[tuple[str, str]], hidden: Mapping[int, str] | None) -> str:
        return applied_template(tokenizer, list(turns), given_to(template), hidden=hidden)

    _check_roles(controls, messages)
    return text, written_spans(controls, messages, shown, again)


def _controls(tokenizer: Any, template: Template) -> Controls:
    """The tokenizer's control tokens."""
    if kind_of(tokenizer, "auto") != "chat":
        return controls_of(tokenizer, None, str)
    chats = [[("user", "a")], [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]]

    def shown() -> str:
        both = (given_to(replace(template, thinking=thinking)) for thinking in (False, True))
        return "\n".join(text for given in both for text in tried_templates(tokenizer, chats, given))

    return controls_of(tokenizer, str(tokenizer.chat_template), shown)


def _check_roles(controls: Controls, messages: Sequence[tuple[str, str]]) -> None:
    """A role is written by the template as it stands, so it must not be able to name a control token."""
    for role, _ in messages:
        if role in _ROLES:
            continue
        if not re.fullmatch(r"[\w-]{1,40}", role) or any(role == text.strip(controls.signs) for text in controls.texts):
            raise PromptError(f"a turn has the role {role[:40]!r}; give one of {listed(_ROLES)}, or another short name")


def rendered_example(tokenizer: Any, prompt: Prompt | str, template: str | Template = "auto") -> dict[str, Any]:
    """One prompt as the model gets it, for a manifest: the template's facts, the text and its token ids."""
    text = render(tokenizer, prompt, template=template)
    (ids,) = encode(tokenizer, [prompt], template=template)
    return {"template": as_template(template).facts(), "text": text, "tokens": ids}


def stop_texts(tokenizer: Any, template: str | Template = "auto") -> tuple[str, ...]:
    """Texts at which a response ends besides the end token: the next turn of the plain template."""
    return _PLAIN_STOPS if kind_of(tokenizer, template) == "plain" else ()


def _checked_tokens(tokens: Iterable[int]) -> list[int]:
    """Token ids as numbers. Raises `InputError` for what is none."""
    try:
        kept = [int(token) for token in tokens]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"tokens must be token ids: {error}") from error
    if kept and not 0 <= min(kept) <= max(kept) < 2**31:
        raise InputError(f"tokens has {min(kept)} to {max(kept)}; token ids count from 0")
    return kept


def turn_tokens(tokenizer: Any, tokens: Sequence[int], template: str | Template = "auto") -> list[int]:
    """Those of the new tokens that belong to the model's own turn, without the next turn of the plain template."""
    kept = _checked_tokens(tokens)
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
    text = _decoded(tokenizer, _checked_tokens(tokens))
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
    if kind_of(tokenizer, template) != "chat" or _THOUGHT not in str(tokenizer.chat_template):
        return False
    shown = render(tokenizer, "Hello", template=template)
    return _THOUGHT in shown.rpartition(_THOUGHT_END)[2]


def _messages(prompt: Prompt, system: str | None) -> list[tuple[str, str]]:
    messages = list(prompt.messages) or [("user", prompt.text)]
    system = prompt.system if prompt.system is not None else system
    return messages if system is None or messages[0][0] == "system" else [("system", system), *messages]


def _with_prefix(text: str, prefix: str) -> str:
    if not prefix:
        return text
    joined = "" if text.endswith((" ", "\n", ">")) or prefix.startswith(" ") else " "
    return text + joined + prefix


check_arguments(__name__, error=PromptError)

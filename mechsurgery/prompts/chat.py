"""From prompts to token ids: the model's own chat template, or a plain one for base models.

Templates write the begin-of-text token themselves, so their text is tokenised without special tokens and
never gets two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..errors import InputError
from .sets import Prompt

Template = Literal["auto", "chat", "plain", "raw"]
_PLAIN_STOPS = ("\nUser:", "\nAssistant:")


def encode(
    tokenizer: Any, prompts: Iterable[Prompt | str], *, template: str = "auto", system: str | None = None
) -> list[list[int]]:
    """Token ids of every prompt, ready for the model to answer.

    `template`: "chat" is the tokenizer's own, "plain" is `User: … / Assistant:`, "raw" the bare text, and
    "auto" the tokenizer's own where it has one and plain where not. A prompt's `prefix` begins the answer.
    """
    return [_encode_one(tokenizer, _prompt(item), template, system) for item in prompts]


def render(tokenizer: Any, prompt: Prompt | str, *, template: str = "auto", system: str | None = None) -> str:
    """The text that `encode` tokenises."""
    prompt = _prompt(prompt)
    kind = _kind(tokenizer, template)
    if kind == "raw":
        return prompt.text + prompt.prefix
    messages = _messages(prompt, system)
    if kind == "chat":
        return _with_prefix(_apply(tokenizer, messages), prompt.prefix)
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(role, role.title())}: {text}" for role, text in messages]
    return _with_prefix("\n\n".join([*turns, "Assistant:"]), prompt.prefix)


def stop_texts(tokenizer: Any, template: str = "auto") -> tuple[str, ...]:
    """Texts at which a response ends besides the end token: the next turn of the plain template."""
    return _PLAIN_STOPS if _kind(tokenizer, template) == "plain" else ()


def _prompt(item: Prompt | str) -> Prompt:
    return item if isinstance(item, Prompt) else Prompt("text", item)


def _kind(tokenizer: Any, template: str) -> str:
    if template not in ("auto", "chat", "plain", "raw"):
        raise InputError(f"template={template!r} is not one of 'auto', 'chat', 'plain', 'raw'")
    has_own = getattr(tokenizer, "chat_template", None) is not None
    if template == "auto":
        return "chat" if has_own else "plain"
    if template == "chat" and not has_own:
        raise InputError("this tokenizer has no chat template; use template='plain' for a base model")
    return template


def _messages(prompt: Prompt, system: str | None) -> list[tuple[str, str]]:
    messages = list(prompt.messages) or [("user", prompt.text)]
    system = prompt.system if prompt.system is not None else system
    return messages if system is None else [("system", system), *messages]


def _apply(tokenizer: Any, messages: list[tuple[str, str]]) -> str:
    from jinja2 import TemplateError

    def apply(turns: list[tuple[str, str]]) -> str:
        chat = [{"role": role, "content": text} for role, text in turns]
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    try:
        return apply(messages)
    except TemplateError:
        if messages[0][0] != "system":
            raise
        # Gemma's template refuses system turns: their text goes before the first user turn.
        (_, system), (role, text), *rest = messages
        return apply([(role, f"{system}\n\n{text}"), *rest])


def _with_prefix(text: str, prefix: str) -> str:
    if not prefix:
        return text
    joined = "" if text.endswith((" ", "\n", ">")) or prefix.startswith(" ") else " "
    return text + joined + prefix


def _encode_one(tokenizer: Any, prompt: Prompt, template: str, system: str | None) -> list[int]:
    text = render(tokenizer, prompt, template=template, system=system)
    if _kind(tokenizer, template) == "chat":
        return list(tokenizer.encode(text, add_special_tokens=False))
    ids = list(tokenizer.encode(text))
    # Some tokenizers end plain text with an end token, after which no answer can follow.
    if ids and tokenizer.eos_token_id is not None and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids

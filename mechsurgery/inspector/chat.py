"""A chat in the terminal with an intervention on the model: what is said with it, and beside it without.

The hooks are on the model only while a token is computed, so an answer may be stopped at any time.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..checks import check_arguments
from ..directions import Direction
from ..errors import InputError, MechsurgeryError, PromptError
from ..intervention import Intervention, as_found, scale_latents, steer
from ..models import generate
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.tokens import tokenizer_of
from ..prompts import Prompt
from ..prompts.chat import Template, as_template, encode, response_text, stop_texts
from ..safe_text import visible
from ..units import Circuit

Write = Callable[[str], Any]
_HELP = """\
/m X         multiply the circuit's units by X: 0 takes them out (or does what they were found with), 1 changes nothing
/strength X  steer with strength X: 0 changes nothing, negative steers away
/off, /on    without the intervention, and with it again
/both        show what the unchanged model would say to the same conversation, too (again: no longer)
/reset       forget the conversation
/quit        leave, as does Ctrl-D; Ctrl-C stops an answer
//text       say a text that begins with a slash"""
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Piece:
    """Some more of an answer's text (none where a token alone makes no text), with all of its tokens so far.

    The last piece has `note`: why the answer ended, where that is worth saying.
    """

    text: str
    tokens: Sequence[int]
    note: str = ""


class Chat:
    """A conversation with a model while a circuit is scaled by `m`, a direction steers with `strength`, or both.

    A circuit of latents needs the `dictionary` that they belong to.

    With a chat template the conversation is remembered and every turn is answered in its light; without one, or with
    `single`, every text is a prompt by itself. Raises `MismatchError` or `SiteError` where circuit or direction do not
    fit the model, `InputError` where there is neither.
    """

    def __init__(
        self,
        model: Model,
        *,
        circuit: Circuit | None = None,
        dictionary: Dictionary | None = None,
        m: float = 0.0,
        direction: Direction | None = None,
        strength: float = 1.0,
        template: str | Template = "auto",
        max_new_tokens: int = 128,
        single: bool = False,
    ) -> None:
        if circuit is None and direction is None:
            raise InputError("a chat needs something to change: give a circuit (--circuit) or a direction (--steer)")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens} must be at least 1")
        self.model, self.template, self.max_new_tokens = model, template, max_new_tokens
        self._tokenizer = tokenizer_of(model)
        self._scaling = None
        if circuit is not None:
            self._scaling = as_found(circuit) if dictionary is None else scale_latents(circuit, dictionary)
        self._steering = None if direction is None else steer(direction)
        self.m, self.strength = _number("m", m), _number("strength", strength)
        self.on, self.single = True, single
        self.turns: list[tuple[str, str]] = []
        self.intervention().check(model)

    @property
    def remembers(self) -> bool:
        """Whether what was said before is part of the next prompt: where the tokenizer has a chat template."""
        has_template = getattr(self._tokenizer, "chat_template", None) is not None
        return not self.single and has_template and as_template(self.template).kind in ("auto", "chat")

    def intervention(self) -> Intervention:
        """What is done to the model while it is on."""
        parts = []
        if self._scaling is not None:
            parts.append(self._scaling.at(1 - self.m))
        if self._steering is not None:
            parts.append(self._steering.at(self.strength))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def set(self, name: str, value: str) -> None:
        """Set "m" or "strength" from its text. Raises `InputError` for what is no number or cannot be set."""
        if (self._scaling if name == "m" else self._steering) is None:
            needed = "a circuit (--circuit FILE)" if name == "m" else "a direction (--steer FILE)"
            raise InputError(f"/{name} needs {needed}, and this chat was started without one")
        number = _number(name, value)
        if name == "m":
            self.m = number
        else:
            self.strength = number

    def state(self) -> str:
        """What is on now, in a few words."""
        if not self.on:
            return "off: the unchanged model"
        scaled = [f"m = {self.m:g}"] if self._scaling is not None else []
        steered = [f"strength = {self.strength:g}"] if self._steering is not None else []
        return ", ".join(scaled + steered)

    def introduction(self) -> str:
        """What this chat is, in a few lines."""
        changed = " and ".join(part.name for part in (self._scaling, self._steering) if part is not None)
        alone = "" if self.remembers else " Every line is a prompt by itself."
        return f"{self.model.cfg.model_name} with {changed} at {self.state()}.{alone} /help lists what can be said."

    def ids(self, text: str) -> list[int]:
        """Token ids of the conversation with `text` as its last turn. Raises `PromptError` for an unusable text."""
        messages = (*self.turns, ("user", text)) if self.remembers else ()
        return encode(self._tokenizer, [Prompt("chat", text, messages=messages)], template=self.template)[0]

    def answer(self, text: str, *, changed: bool = True) -> Iterator[Piece]:
        """The answer piece by piece, remembering nothing. Raises `PromptError` where the context has no room."""
        ids, n_ctx = self.ids(text), int(self.model.cfg.n_ctx)
        room = n_ctx + 1 - len(ids)
        if room < 1:
            forget = "; /reset begins anew" if self.turns else "; shorten the prompt"
            raise PromptError(f"the conversation has {len(ids)} tokens, more than the context of {n_ctx}{forget}")
        n_new = min(self.max_new_tokens, room)
        hooks = self.intervention().hooks() if changed and self.on else []
        stops, shown, new = stop_texts(self._tokenizer, self.template), "", list[int]()
        for (new,) in generate.stream(self.model, ids, hooks=lambda rows: hooks, max_new_tokens=n_new):
            whole = self._tokenizer.decode(new, skip_special_tokens=True)
            settled = _settled(whole, stops)
            # A longer text can decode to another beginning; what was printed stays.
            grown = settled[len(shown) :] if settled.startswith(shown) else ""
            shown += grown
            yield Piece(grown, new)
            if any(stop in whole for stop in stops):
                break
        whole = _cut(self._tokenizer.decode(new, skip_special_tokens=True), stops)
        rest = whole[len(shown) :] if whole.startswith(shown) else ""
        yield Piece(rest, new, self._note(len(new), n_new, room))

    def remember(self, text: str, tokens: Sequence[int]) -> None:
        """Add a question and the tokens of its answer to the conversation, without thoughts."""
        if self.remembers:
            said = response_text(self._tokenizer, tokens, self.template)
            unfinished = self._tokenizer.decode(tokens, skip_special_tokens=True) if said is None else said
            self.turns += [("user", text), ("assistant", unfinished)]

    def _note(self, n: int, n_new: int, room: int) -> str:
        if n < n_new:
            return ""
        if n_new == room:
            return f"cut: the context of {self.model.cfg.n_ctx} tokens is full; /reset begins anew"
        return f"cut after {n} tokens; --max-new-tokens allows more"


def _number(name: str, value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} must be a number, such as 0.5; {str(value)[:40]!r} is none")
    return number


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _settled(text: str, stops: Sequence[str]) -> str:
    """What of a growing text can be shown: no half character at its end, no beginning of a next turn."""
    text = _cut(text, stops).rstrip(_REPLACEMENT)
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:n]):
                return text[:-n]
    return text


def typed_lines() -> Iterator[str]:
    """Lines typed at a terminal (Ctrl-D ends them) or read from a pipe."""
    stdin = sys.stdin
    if not stdin.isatty():
        yield from stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401 (lets input edit its line and bring back earlier ones)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()  # noqa: T201
            return
        except KeyboardInterrupt:
            print("\nCtrl-D leaves")  # noqa: T201


def converse(chat: Chat, lines: Iterator[str], write: Write) -> None:
    """Answer line after line until they end or one is /quit. Errors are written in one line, and the chat goes on."""
    both = False
    for line in lines:
        text = line.strip()
        try:
            if text == "/quit":
                return
            if text == "/both":
                both = not both
                write("both answers from now on\n" if both else "one answer from now on\n")
            elif text.startswith("/") and not text.startswith("//"):
                write(f"{_command(chat, text)}\n")
            elif text:
                _turn(chat, text[1:] if text.startswith("//") else text, both, write)
        except MechsurgeryError as error:
            write(f"error: {' '.join(visible(str(error)).split())}\n")


def _command(chat: Chat, text: str) -> str:
    """Do what a command says; what is to be shown then."""
    name, _, value = text[1:].partition(" ")
    if name == "help":
        return _HELP
    if name in ("m", "strength"):
        chat.set(name, value.strip())
        return chat.state()
    if name in ("on", "off"):
        chat.on = name == "on"
        return chat.state()
    if name == "reset":
        chat.turns.clear()
        return "the conversation is forgotten"
    raise InputError(f"no command {text.split()[0]!r}; /help lists them")


def _turn(chat: Chat, text: str, both: bool, write: Write) -> None:
    """One question and its answer, streamed; with `both`, the unchanged model's answer to it besides."""
    beside = both and chat.on
    if beside and _say(chat, text, False, write, "unchanged: ")[1]:
        return
    tokens, _ = _say(chat, text, True, write, f"{chat.state()}: " if beside else "")
    chat.remember(text, tokens)


def _say(chat: Chat, text: str, changed: bool, write: Write, label: str) -> tuple[Sequence[int], bool]:
    """Stream an answer after its label; its tokens, and whether Ctrl-C stopped it."""
    tokens: Sequence[int] = ()
    note = ""
    with stoppable() as stopped:
        for piece in chat.answer(text, changed=changed):
            tokens, note = piece.tokens, piece.note
            write(label + visible(piece.text))
            label = ""
            if stopped():
                note = "stopped"
                break
        write(f"\n[{note}]\n" if note else "\n")
        return tokens, stopped()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only makes the function given answer True; the second is a `KeyboardInterrupt`.

    So an answer ends between two tokens, and never while hooks are being put on or taken off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


check_arguments(__name__)

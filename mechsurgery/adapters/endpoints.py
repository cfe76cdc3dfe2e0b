"""Judges by name, and one behind any OpenAI-compatible HTTP endpoint, with retries, a rate limit and kept answers.

The key is read from the environment when a request is made; it is in no file, message, repr or pickle. What an endpoint
answers is a stranger's: it is given so much time and so many bytes, and followed nowhere.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..artifacts import load_json, write_text
from ..checks import check_arguments
from ..errors import InputError, LoadError, needs_extra
from ..grading.judges import Judge, LocalJudge
from ..grading.recorded import RecordedJudge
from ..progress import progress_bar
from .asking import Stop, at_once
from .http_calls import Again, call, chat_text, used_tokens

logger = logging.getLogger(__name__)
#: Threads that share a judge take turns for the time of their next request, and at its counts.
_TURNS = threading.Lock()


def judge_from(text: str, **options: Any) -> Judge:
    """The judge that a command line names; `options` are those of the judge's class.

    "recorded:FILE.json" is a `RecordedJudge`, "https://host/v1#model" an `EndpointJudge`, anything else a model to
    load for a `LocalJudge`.
    """
    if text.startswith("recorded:"):
        return RecordedJudge.load(text.removeprefix("recorded:"))
    if text.startswith(("http://", "https://")):
        url, _, model = text.partition("#")
        _check_address(url)
        if not model:
            raise InputError(f"judge {text!r} names no model; write it after a #, as in {url}#some-model")
        return EndpointJudge(url, model, **options)
    from ..models import load_model

    return LocalJudge(load_model(text), **options)


@dataclass(eq=False)
class EndpointJudge:
    """`POST {url}/chat/completions` at temperature 0.

    `key_env` names the environment variable with the key (None for an endpoint without one). 429, 5xx and
    time-outs are tried `retries` times more with growing pauses (or as long as `Retry-After` says); anything
    else is one error, a redirection too. One answer, with all its tries and pauses, takes `deadline` seconds at most;
    `timeout` is that of one step of a try. With `cache`, a folder, every answer is kept by the content of what was
    asked and never asked again; an answer without text is "", and is not kept. At most `at_once` requests are open at a
    time. With `price`, that of a million tokens asked and of a million answered, `spent` also says what it cost.
    """

    url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    requests_per_minute: float = 60.0
    retries: int = 5
    timeout: float = 60.0
    max_tokens: int = 512
    longest_pause: float = 60.0
    cache: str | Path | None = None
    progress: bool | None = None
    deadline: float = 300.0
    at_once: int = 4
    price: tuple[float, float] | None = None
    _next: float = field(default=0.0, repr=False)
    _spent: Counter[str] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        _check_address(self.url)
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_env, re.ASCII):
            raise InputError("key_env is the name of an environment variable, such as 'OPENAI_API_KEY', not the key")
        sizes = {name: getattr(self, name) for name in ("requests_per_minute", "timeout", "deadline", "max_tokens")}
        for name, value in sizes.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise InputError(f"{name}={value!r}; give a number above 0")
        if type(self.at_once) is not int or self.at_once < 1:
            raise InputError(f"at_once={self.at_once!r} requests; give a whole number, at least 1")
        if self.price is not None and not all(0 <= one < math.inf for one in self.price):
            raise InputError(f"price={self.price}; give two numbers, of a million tokens asked and answered")
        if self.retries < 0 or not 0 <= self.longest_pause < math.inf:
            raise InputError(f"retries={self.retries} and longest_pause={self.longest_pause}; give at least 0")

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.model

    @property
    def settings(self) -> str:
        """The endpoint, and how long its answers may be."""
        return f"{self.url}, {self.max_tokens} tokens"

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in order; kept answers cost no request.

        Raises `InputError` where the endpoint refuses or still fails after all retries; answers that came
        before are in the cache.
        """
        with needs_extra("judge", "a judge behind an endpoint"):
            import httpx
            import tenacity  # noqa: F401 (each request is tried again with it)
        answers = {prompt: self._kept(prompt) for prompt in dict.fromkeys(prompts)}
        lacking = [prompt for prompt, kept in answers.items() if kept is None]
        self._spent["kept"] += len(answers) - len(lacking)
        with (
            progress_bar(f"judge {self.model}", shown=self.progress, total=len(lacking), unit="prompt") as bar,
            httpx.Client(timeout=self.timeout, follow_redirects=False) as client,
        ):
            for place, answer in at_once(partial(self._ask, client), lacking, self.at_once):
                self._keep(lacking[place], answer)
                answers[lacking[place]] = answer
                bar.update(1)
        return [answers[prompt] or "" for prompt in prompts]

    @property
    def spent(self) -> dict[str, float]:
        """So far: answers that were asked for and that were kept, tokens asked and answered, and with a `price` cost.

        Tokens are those that the endpoint says; kept answers cost nothing.
        """
        names = ("asked", "kept", "prompt_tokens", "completion_tokens")
        found: dict[str, float] = {name: self._spent[name] for name in names}
        if self.price is not None:
            asked, answered = self.price
            found["cost"] = (found["prompt_tokens"] * asked + found["completion_tokens"] * answered) / 1e6
        return found

    def _ask(self, client: Any, prompt: str, stop: Stop) -> str:
        from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        self._wait_turn(stop)
        ends = time.monotonic() + self.deadline
        backoff = wait_exponential(multiplier=0.5, max=self.longest_pause)

        def pause(state: Any) -> float:
            asked = getattr(state.outcome.exception(), "wait", None)
            return min(self.longest_pause, asked) if asked is not None else backoff(state)

        def late(state: Any) -> bool:
            return time.monotonic() + (state.upcoming_sleep or 0.0) >= ends

        attempts = Retrying(
            stop=lambda state: stop_after_attempt(self.retries + 1)(state) or late(state),
            wait=pause,
            retry=retry_if_exception_type(Again),
            sleep=stop.pause,
        )
        problem = ""
        try:
            return attempts(self._post, client, prompt, ends)
        except RetryError as error:
            last, tries = error.last_attempt.exception(), error.last_attempt.attempt_number
            problem = f"{self.url} still fails after {tries} tries: {last}; try later or more slowly"
            if tries <= self.retries:
                problem = f"{self.url} gave no answer within {self.deadline:g} s ({tries} tries): {last}; try later"
        raise InputError(problem)  # outside, so that what holds the request, and its key, is not its context

    def _wait_turn(self, stop: Stop) -> None:
        """Wait until the rate limit allows one more request."""
        with _TURNS:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self.requests_per_minute
        stop.pause(turn - now)

    def _post(self, client: Any, prompt: str, ends: float) -> str:
        headers, key = self._headers()
        status, headers, body = call(
            client, f"{self.url.rstrip('/')}/chat/completions", self._body(prompt), headers, ends
        )
        if status == 429 or status >= 500:
            raise Again(f"status {status}", _seconds(headers.get("retry-after")))
        if status != 200:
            hint = f"; is the key in ${self.key_env} right?" if status in (401, 403) else ""
            hint = "; give the address that it is really at" if 300 <= status < 400 else hint
            raise InputError(f"{self.url} answered with status {status} for model {self.model!r}{hint}")
        read, written = used_tokens(body)
        with _TURNS:
            self._spent.update(asked=1, prompt_tokens=read, completion_tokens=written)
        text = chat_text(body)
        # An endpoint that repeats its key must not have it written anywhere.
        return text.replace(key, "‹key›") if key else text

    def _body(self, prompt: str) -> bytes:
        """What is sent, in ASCII."""
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": self.model, "temperature": 0, "max_tokens": self.max_tokens, "messages": messages}
        return json.dumps(asked).encode()

    def _headers(self) -> tuple[dict[str, str], str]:
        """What is sent beside the body, and the key."""
        plain = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key_env is None:
            return plain, ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InputError(f"no key: set the environment variable {self.key_env}, or pass key_env=None")
        if not re.fullmatch(r"[!-~]+", key):
            raise InputError(f"the key in ${self.key_env} has spaces or signs that no key has; set it again")
        return {**plain, "Authorization": f"Bearer {key}"}, key

    def _asked(self, prompt: str) -> str:
        """The digest of everything that the answer depends on: the address and all that is sent there."""
        return sha256(self.url.encode() + b"\n" + self._body(prompt)).hexdigest()

    def _path(self, prompt: str) -> Path:
        return Path(str(self.cache)) / f"{self._asked(prompt)[:32]}.json"

    def _kept(self, prompt: str) -> str | None:
        if self.cache is None or not self._path(prompt).is_file():
            return None
        try:
            content = load_json(self._path(prompt))
        except LoadError:
            content = None
        whole = isinstance(content, dict) and content.get("asked") == self._asked(prompt)
        answer = content.get("answer") if whole else None
        if isinstance(answer, str) and answer and content.get("checksum") == _checksum(answer):
            return answer
        logger.warning("%s cannot be read and is asked again", self._path(prompt))
        return None

    def _keep(self, prompt: str, answer: str) -> None:
        if self.cache is None or not answer:
            return
        facts = {"model": self.model, "url": self.url, "prompt": prompt, "answer": answer}
        content = {"asked": self._asked(prompt), "checksum": _checksum(answer), **facts}
        write_text(self._path(prompt), json.dumps(content, indent=2) + "\n")


def _check_address(url: str) -> None:
    """Raise `InputError`, which never repeats a password, for what is no plain http(s) address."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.startswith(("http://", "https://")) else None
        usable = parts is not None and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        raise InputError("no address of an endpoint; give an http(s) address such as 'https://host/v1'")
    if "@" in url or "?" in url or "#" in url:
        raise InputError("an address with a name, password or query; give the plain one, and the key by key_env=")


def _checksum(answer: str) -> str:
    return sha256(answer.encode()).hexdigest()


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


check_arguments(__name__)

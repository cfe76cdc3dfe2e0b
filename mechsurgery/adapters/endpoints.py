"""Judges by name, and one behind any OpenAI-compatible HTTP endpoint, with retries, a rate limit and kept answers.

The key is read from the environment when a request is made; it is in no file, message or repr.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..artifacts import load_json, save_json
from ..checks import check_arguments
from ..errors import InputError, LoadError, needs_extra
from ..grading.judges import Judge, LocalJudge, RecordedJudge
from ..progress import with_progress

logger = logging.getLogger(__name__)


def judge_from(text: str, **options: Any) -> Judge:
    """The judge that a command line names; `options` are those of the judge's class.

    "recorded:FILE.json" is a `RecordedJudge`, "https://host/v1#model" an `EndpointJudge`, anything else a model to
    load for a `LocalJudge`.
    """
    if text.startswith("recorded:"):
        return RecordedJudge.load(text.removeprefix("recorded:"))
    if text.startswith(("http://", "https://")):
        url, _, model = text.partition("#")
        if not model:
            raise InputError(f"judge {text!r} names no model; write it after a #, as in {url}#some-model")
        return EndpointJudge(url, model, **options)
    from ..models import load_model

    return LocalJudge(load_model(text), **options)


class _Again(Exception):
    """The endpoint is busy or broken for now; `wait` seconds where it says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(eq=False)
class EndpointJudge:
    """`POST {url}/chat/completions` at temperature 0.

    `key_env` names the environment variable with the key (None for an endpoint without one). 429, 5xx and
    time-outs are tried `retries` times more with growing pauses (or as long as `Retry-After` says); anything
    else is one error. With `cache`, a folder, every answer is kept by the content of what was asked and never
    asked again.
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
    _next: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"url={self.url!r}; give an http(s) address such as 'https://host/v1'")
        if self.requests_per_minute <= 0 or self.retries < 0:
            raise InputError("requests_per_minute must be above 0 and retries at least 0")

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.model

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in order; kept answers cost no request.

        Raises `InputError` where the endpoint refuses or still fails after all retries; answers that came
        before are in the cache.
        """
        with needs_extra("judge", "a judge behind an endpoint"):
            import httpx
            import tenacity  # noqa: F401 (each request is tried again with it)
        answers = []
        with httpx.Client(timeout=self.timeout) as client:
            for prompt in with_progress(prompts, f"judge {self.model}", shown=self.progress, unit="prompt"):
                kept = self._kept(prompt)
                if kept is None:
                    kept = self._ask(client, prompt)
                    self._keep(prompt, kept)
                answers.append(kept)
        return answers

    def _ask(self, client: Any, prompt: str) -> str:
        from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        backoff = wait_exponential(multiplier=0.5, max=self.longest_pause)

        def pause(state: Any) -> float:
            asked = getattr(state.outcome.exception(), "wait", None)
            return min(self.longest_pause, asked) if asked is not None else backoff(state)

        attempts = Retrying(
            stop=stop_after_attempt(self.retries + 1), wait=pause, retry=retry_if_exception_type(_Again)
        )
        try:
            return attempts(self._post, client, prompt)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise InputError(
                f"{self.url} still fails after {self.retries + 1} tries: {last}; try later or more slowly"
            ) from None

    def _post(self, client: Any, prompt: str) -> str:
        import httpx

        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + 60 / self.requests_per_minute
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
        try:
            reply = client.post(f"{self.url.rstrip('/')}/chat/completions", json=body, headers=self._headers())
        except httpx.TimeoutException as error:
            raise _Again(f"no answer within {self.timeout:g} s ({type(error).__name__})") from None
        except httpx.TransportError as error:
            raise _Again(f"no connection ({type(error).__name__})") from None
        if reply.status_code == 429 or reply.status_code >= 500:
            raise _Again(f"status {reply.status_code}", _seconds(reply.headers.get("retry-after")))
        if reply.status_code != 200:
            hint = f"; is the key in ${self.key_env} right?" if reply.status_code in (401, 403) else ""
            raise InputError(f"{self.url} answered with status {reply.status_code} for model {self.model!r}{hint}")
        try:
            return str(reply.json()["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise _Again("an answer that is no chat completion") from None

    def _headers(self) -> dict[str, str]:
        if self.key_env is None:
            return {}
        key = os.environ.get(self.key_env)
        if not key:
            raise InputError(f"no key: set the environment variable {self.key_env}, or pass key_env=None")
        return {"Authorization": f"Bearer {key}"}

    def _path(self, prompt: str) -> Path:
        facts = repr((self.url, self.model, self.max_tokens, prompt))
        return Path(str(self.cache)) / f"{sha256(facts.encode()).hexdigest()[:32]}.json"

    def _kept(self, prompt: str) -> str | None:
        if self.cache is None or not self._path(prompt).is_file():
            return None
        try:
            return str(load_json(self._path(prompt))["answer"])
        except (LoadError, KeyError, TypeError):
            logger.warning("%s cannot be read and is asked again", self._path(prompt))
            return None

    def _keep(self, prompt: str, answer: str) -> None:
        if self.cache is not None:
            save_json(self._path(prompt), {"model": self.model, "url": self.url, "prompt": prompt, "answer": answer})


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


check_arguments(__name__)

"""A HookedTransformer as lm_eval wants a model.

The conventions are those of lm_eval's own `HFLM`, so that numbers can be compared: the prefix token is the begin token,
a context too long is cut on the left, a rolling log-likelihood scores every token of a text once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..checks import check_arguments
from ..digests import digest_of
from ..errors import InputError, PromptError, listed, needs_extra
from ..intervention import Custom, Intervention, applied
from ..models import sites, tokens
from ..models.capture import final_residual
from ..models.fingerprint import fingerprint
from ..models.generate import generate
from ..progress import with_progress
from ..prompts import Prompt
from ..prompts.chat import Template, as_template, encode_apart, render_apart, stop_texts

#: How many new tokens a generative task gets that does not say.
MAX_GEN_TOKS = 256

_ROUND = 32
_CHUNK = 1 << 26
_SAMPLING = ("top_p", "top_k", "min_p", "typical_p")
_NEUTRAL = {"top_k": (0, -1), "min_p": (0,), "use_cache": (True, False)}

Request = tuple[Any, list[int], list[int]]


@cache
def lm_class() -> type:
    """The adapter as a subclass of lm_eval's `TemplateLM`, made when first needed."""
    with needs_extra("lm-eval", "an lm-eval task"):
        from lm_eval.api.model import TemplateLM
    return type("HookedLM", (_Adapter, TemplateLM), {"__doc__": _Adapter.__doc__})


class _Adapter:
    """What lm_eval's `TemplateLM` leaves open, on a HookedTransformer; `lm` makes these."""

    max_gen_toks = MAX_GEN_TOKS
    cache_hook: Any

    def __init__(
        self, model: Any, intervention: Intervention, batch_size: int, max_length: int | None, template: str | Template
    ) -> None:
        super().__init__()
        n_ctx = int(model.cfg.n_ctx)
        if model.tokenizer is None or model.tokenizer.eos_token_id is None:
            raise InputError("this model's tokenizer has no end token; set model.tokenizer and its eos_token")
        max_length = n_ctx if max_length is None else max_length
        if batch_size < 1 or not 2 <= max_length <= n_ctx:
            raise InputError(f"batch_size={batch_size} must be at least 1, max_length={max_length} from 2 to {n_ctx}")
        template = as_template(template)
        if template.kind == "raw":
            raise InputError("template='raw' has no turns; use 'auto', 'chat' or 'plain', or no chat template")
        self._plain = bool(stop_texts(model.tokenizer, template))
        intervention.check(model)
        self.model, self.intervention, self.tokenizer = model, intervention, model.tokenizer
        self.batch_size, self.max_length, self.template = batch_size, max_length, template

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the begin token, or the end token where there is none."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and chat template in lm_eval's cache of requests."""
        name = f"{self.model.cfg.model_name}--{'plain' if self._plain else 'chat'}--{_digest(self.template.facts())}"
        return name.replace("/", "__")

    def key(self) -> str:
        """16 hexadecimal digits for all that an answer to a request depends on."""
        run = self.intervention
        done = (run.digest, run.strength) if run.strength else None
        return _digest((fingerprint(self.model), tokens.tokenizer_digest(self.tokenizer), done, self.max_length))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text (None where none is applied); it is chosen in `lm`, not by name here."""
        if isinstance(chat_template, str):
            raise InputError(f"chat template {chat_template!r} cannot be chosen by name; use True and lm(template=…)")
        if not chat_template:
            return None
        return "User: … / Assistant:" if self._plain else str(self.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text; without a generation prompt, the last assistant turn is left open."""
        turns = [(turn["role"], turn["content"]) for turn in chat_history]
        prefix = turns.pop()[1] if not add_generation_prompt and turns[-1][0] == "assistant" else ""
        prompt = Prompt("chat", "", messages=tuple(turns), prefix=prefix)
        return render_apart(self.tokenizer, prompt, template=self.template)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; by default with the tokenizer's special tokens unless the text begins with one already.

        Within a chat of `apply_chat_template` only what the template wrote is read as control tokens; other text is
        read as lm_eval's own model reads it.
        """
        begin = self.tokenizer.decode([self.prefix_token_id])
        special = not string.startswith(begin) if add_special_tokens is None else add_special_tokens
        ids = encode_apart(self.tokenizer, string, template=self.template, begin=special)
        if add_special_tokens is not None:
            return ids
        # Some tokenizers end plain text with an end token, after which nothing can follow.
        ended = len(ids) > 1 and ids[-1] == self.eot_token_id and not string.endswith(self.tokenizer.eos_token)
        return ids[:-1] if ended else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding gives it) of every continuation after its context.

        Requests with the same input, such as the one-token choices of a question, share a row.
        """
        members: dict[tuple[int, ...], list[int]] = {}
        for i, (text, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise PromptError(
                    f"a continuation of {len(continuation)} tokens cannot be scored in a context of "
                    f"{self.max_length}: {text!r:.200}; change the task's text or max_length"
                )
            whole = [*(context or [self.prefix_token_id]), *continuation]
            members.setdefault(tuple(whole[-(self.max_length + 1) : -1]), []).append(i)
        if not members:
            return []
        answers: list[Any] = [None] * len(requests)
        inputs = list(members)
        batches = tokens.batches_for(self.model, inputs, max_rows=self.batch_size)
        with applied(self.model, self.intervention):
            for batch in with_progress(batches, "reading log-likelihoods", shown=False if disable_tqdm else None):
                asked = [(row, i) for row, place in enumerate(batch.rows) for i in members[inputs[place]]]
                scores = self._scores(batch, [(row, requests[i][2]) for row, i in asked])
                for (_, i), score in zip(asked, scores):
                    answers[i] = score
                    if requests[i][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[i][0], score)
        return answers

    @torch.no_grad()
    def _scores(self, batch: tokens.Batch, ends: list[tuple[int, list[int]]]) -> list[tuple[float, bool]]:
        """For each (row, continuation at the end of that row): its log-probability, and whether it is greedy."""
        length, device = batch.ids.shape[1], batch.ids.device
        rows = torch.tensor([row for row, end in ends for _ in end], device=device)
        places = torch.tensor([length - len(end) + j for _, end in ends for j in range(len(end))], device=device)
        targets = torch.tensor([token for _, end in ends for token in end], device=device)
        step = max(1, _CHUNK // sites.vocabulary(self.model))
        logs, greedy = [], []
        residual = final_residual(self.model, batch.ids, batch.mask)
        for part in torch.arange(len(rows), device=device).split(step):
            logits = sites.unembed(self.model, residual[rows[part], places[part]]).float()
            logs.append(logits.gather(-1, targets[part, None])[:, 0] - logits.logsumexp(-1))
            greedy.append(logits.argmax(-1) == targets[part])
        lengths = [len(end) for _, end in ends]
        sums = [float(part.sum()) for part in torch.cat(logs).double().cpu().split(lengths)]
        return list(zip(sums, [bool(part.all()) for part in torch.cat(greedy).cpu().split(lengths)]))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of every text, each token scored once, after the prefix token.

        Texts longer than the context are scored in windows of `max_length`, the last one with all the
        context that fits. As in `HFLM`, a begin token that the tokenizer adds is scored too.
        """
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[Request] = []
        counts = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            whole = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs = [make_disjoint_window(pair) for pair in whole]
            windows += [(None, list(context), list(scored)) for context, scored in pairs]
            counts.append(len(pairs))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        totals = [sum(next(scores)[0] for _ in range(count)) + 0.0 for count in counts]
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text after every context, up to the first of its `until` strings, the end token or `max_gen_toks`.

        Greedy unless `do_sample` or a temperature above 0 is given; a sample depends on the generation
        argument `seed` (default 0) and the request's place. Raises `InputError` for arguments it cannot honour.
        """
        groups: dict[_Decoding, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(_decoding(request.args[1], self.max_length), []).append(i)
        texts = [""] * len(requests)
        with applied(self.model, self.intervention):
            for how, members in groups.items():
                room = self.max_length - how.n_new
                contexts = [self.tok_encode(requests[i].args[0])[-room:] or [self.prefix_token_id] for i in members]
                for i, text in zip(members, self._generated(contexts, how, members, quiet=disable_tqdm)):
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return texts

    def _generated(self, contexts: list[list[int]], how: _Decoding, streams: list[int], quiet: bool) -> list[str]:
        """Greedy decoding goes in rounds, after which the texts that have reached a stop string are done."""
        known = self.tokenizer.get_added_vocab()
        stop = {*tokens.stop_ids(self.model), *(known[text] for text in how.until if text in known)}
        at_places = any(isinstance(edit.change, Custom) for edit in self.intervention.edits)
        n = min(_ROUND, how.n_new) if how.until and not how.temperature and not at_places else how.n_new
        new: list[list[int]] = [[] for _ in contexts]
        going, done = list(range(len(contexts))), 0
        while going and done < how.n_new:
            n = min(n, how.n_new - done)
            added = generate(
                self.model,
                [contexts[i] + new[i] for i in going],
                max_new_tokens=n,
                temperature=how.temperature,
                seed=how.seed,
                streams=[streams[i] for i in going],
                stop=sorted(stop),
                max_rows=self.batch_size,
                progress=False if quiet else None,
            )
            for i, ids in zip(going, added):
                new[i] = new[i] + ids
            done += n
            texts = {i: self._text(new[i]) for i, ids in zip(going, added) if len(ids) == n}
            going = [i for i, text in texts.items() if how.cut(text) == text]
        return [how.cut(self._text(ids)) for ids in new]

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


@dataclass(frozen=True)
class _Decoding:
    """How one request is to be decoded; temperature 0 is greedy."""

    until: tuple[str, ...]
    n_new: int
    temperature: float
    seed: int

    def cut(self, text: str) -> str:
        for stop in self.until:
            text = text.split(stop)[0]
        return text


def _decoding(arguments: Mapping[str, Any], max_length: int) -> _Decoding:
    """From lm_eval's generation arguments, or `InputError` for what `generate` does not do."""
    from lm_eval.models.utils import normalize_gen_kwargs

    given = {name: value for name, value in arguments.items() if value is not None}
    temperature, seed = float(given.get("temperature", 1.0)), int(given.pop("seed", 0))
    given = dict(normalize_gen_kwargs(given, MAX_GEN_TOKS))
    given.pop("temperature", None)
    sampled, n_new, until = (given.pop(name) for name in ("do_sample", "max_gen_toks", "until"))
    if sampled and temperature <= 0:
        raise InputError(f"do_sample=True with temperature={temperature:g}; give one above 0, or no do_sample")
    if not 0 < n_new < max_length:
        raise InputError(
            f"max_gen_toks={n_new} leaves no room for a prompt in a context of {max_length}; give 1 to "
            f"{max_length - 1}, e.g. gen_kwargs={{'max_gen_toks': {max(1, max_length // 2)}}}"
        )
    idle = () if sampled else _SAMPLING
    wrong = [name for name, value in given.items() if name not in idle and value not in _NEUTRAL.get(name, (1,))]
    if wrong:
        raise InputError(
            f"generation arguments {listed(wrong)} are not supported; use until, max_gen_toks, do_sample, "
            "temperature and seed"
        )
    return _Decoding(tuple(dict.fromkeys(text for text in until if text)), n_new, temperature * bool(sampled), seed)


def _digest(facts: Any) -> str:
    return digest_of(facts)[:16]


check_arguments(__name__, inner=True)

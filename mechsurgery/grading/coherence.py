"""Is a response one that the unmodified model could have given? Its mean log-probability per token, and a threshold.

Word salad, answers to something else and broken grammar are unlikely under the model before it was changed. How likely
is likely enough is read off what the unmodified model itself says when it is sampled at temperature 1: greedy answers
are far more likely than any other acceptable one, so a threshold taken from them would call most good answers broken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifacts import load_json, save_json
from ..checks import check_arguments
from ..digests import digest_of
from ..errors import InputError, LoadError, MismatchError, listed
from ..models import sites, tokens
from ..models.divergence import HELD, log_probs
from ..models.generate import generate
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.unmodified import check_unmodified
from ..prompts import Prompt, PromptSet
from ..prompts.chat import Template, as_template, encode, encode_continued, encode_plain, render, response_text
from .grade import Grade, Item

logger = logging.getLogger(__name__)
VERSION = "coherence-1"
_FEWEST = 8


def response_ids(
    tokenizer: Any, prompt: Prompt, response: str, *, template: str | Template = "auto"
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of a response as it stands after the prompt; no special token is added to it.

    A space stands between them where the prompt's own `prefix` would have one. Where the text of both is tokenised
    differently at the seam, the response is tokenised by itself.
    """
    if not response.strip():
        return encode(tokenizer, [prompt], template=template)[0], []
    joint = response if not prompt.prefix or prompt.prefix[-1:].isspace() else f" {response}"
    shown = render(tokenizer, prompt, template=template)
    text = render(tokenizer, replace(prompt, prefix=prompt.prefix + joint), template=template)
    start, whole = encode_continued(tokenizer, prompt, text[len(shown) :], template=template)
    if whole[: len(start)] == start:
        return start, whole[len(start) :]
    return start, encode_plain(tokenizer, text[len(shown) :], template)


@in_turn
@torch.no_grad()
def mean_log_probs(
    model: Model,
    items: Sequence[Item],
    *,
    template: str | Template = "auto",
    max_rows: int = 64,
    max_tokens: int = 16384,
) -> list[float]:
    """Mean log-probability (nats) of each response's tokens given its prompt and the tokens before; one forward pass.

    `items` are (prompt, response). NaN for an empty response. What stands beyond the model's context is left out.
    Log-probabilities are float32 whatever the model's number format. Raises `PromptError` for a prompt that does not
    fit into the context.
    """
    tokenizer, n_ctx = tokens.tokenizer_of(model), model.cfg.n_ctx
    means = [math.nan] * len(items)
    both = [response_ids(tokenizer, *item, template=template) for item in items]
    # Nothing is predicted from the last token, so it needs no room in the context.
    said = {row: (start, own[: n_ctx + 1 - len(start)]) for row, (start, own) in enumerate(both) if own}
    if not said:
        return means
    tokens.check_lengths([start for start, _ in said.values()], n_ctx)
    rows = list(said)
    fed = [[*start, *own[:-1]] for start, own in said.values()]
    widest = max(len(own) for _, own in said.values())
    held = max(1, min(max_rows, HELD // (widest * sites.vocabulary(model))))
    for batch in tokens.batches_for(model, fed, max_rows=held, max_tokens=max_tokens):
        answers = [said[rows[place]][1] for place in batch.rows]
        for place, mean in zip(batch.rows, _means(model, batch, answers).tolist()):
            means[rows[place]] = mean
    return means


def _means(model: Model, batch: tokens.Batch, answers: Sequence[Sequence[int]]) -> Tensor:
    """The mean log-probability of each row's answer, of which the last token is not fed in. Shape [batch]."""
    wide = max(len(own) for own in answers)
    wanted = torch.tensor([[0] * (wide - len(own)) + list(own) for own in answers], device=batch.ids.device)
    counts = torch.tensor([len(own) for own in answers], device=batch.ids.device)
    counted = torch.arange(wide, device=batch.ids.device) >= wide - counts[:, None]
    each = log_probs(model, batch.ids, batch.mask, wide).gather(-1, wanted[..., None])[..., 0]
    return (each.masked_fill(~counted, 0.0).sum(-1) / counts).cpu()


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A model, the mean log-probability (nats) from which on a response is coherent under it, and its fingerprint."""

    model: Model
    threshold: float
    fingerprint: str

    def check(self) -> None:
        """Raises `MismatchError` where the model is no longer the one that the threshold was measured on."""
        now = sites.fingerprint(self.model)
        name = self.model.cfg.model_name
        if now != self.fingerprint:
            raise MismatchError(
                f"{name!r} has fingerprint {now}, and its threshold was calibrated at {self.fingerprint}: its weights "
                "were changed (baked or trained) since; load the unmodified model again, or calibrate anew"
            )
        hooked = [point for point, hook in sites.hooked(self.model).hook_dict.items() if hook.fwd_hooks]
        if hooked:
            raise MismatchError(
                f"{name!r} has hooks at {listed(hooked)}, so it is not the unmodified model; grade outside of "
                "applied(…), or call model.reset_hooks()"
            )


@dataclass(frozen=True, eq=False)
class Coherence:
    """Whether responses are likely enough under the unmodified model, or under the base where there is one.

    `yardsticks` are the unmodified model's and, if given, the base's; a response is coherent if it reaches the
    threshold of one of them. `template` says how prompts are rendered, "auto" by each model's own. `calibrated` makes
    one.
    """

    yardsticks: tuple[Yardstick, ...]
    template: Template = Template()
    max_rows: int = 64

    @property
    def version(self) -> str:
        """Everything that decisions depend on: fingerprints, thresholds, template."""
        each = ", ".join(f"{yard.fingerprint} from {yard.threshold:.6f}" for yard in self.yardsticks)
        return f"{VERSION}: {each}; {self.template.facts()}"

    def values(self, items: Sequence[Item]) -> list[tuple[float, ...]]:
        """Mean log-probability of every (prompt, response) under every yardstick's model; NaN where there is no text.

        Raises `MismatchError` where a model is no longer the one that was calibrated.
        """
        for yard in self.yardsticks:
            yard.check()
        options = {"template": self.template, "max_rows": self.max_rows}
        return list(zip(*(mean_log_probs(yard.model, items, **options) for yard in self.yardsticks)))

    def coherent(self, items: Sequence[Item]) -> list[bool | None]:
        """Whether each response reaches one of the thresholds; None where there is no text."""
        return [
            None if any(map(math.isnan, own)) else any(v >= yard.threshold for v, yard in zip(own, self.yardsticks))
            for own in self.values(items)
        ]

    def incoherent(self, name: str = "incoherent") -> Grade:
        """The rate of responses that reach no threshold; None for an empty response."""

        def decide_all(items: Sequence[Item]) -> list[bool | None]:
            return [None if coherent is None else not coherent for coherent in self.coherent(items)]

        return Grade(name, self.version, decide_all=decide_all)

    def grade(self, name: str = "coherence") -> Grade:
        """The number: mean log-probability per token under the unmodified model; None for an empty response."""

        def decide_all(items: Sequence[Item]) -> list[float | None]:
            return [None if math.isnan(own[0]) else own[0] for own in self.values(items)]

        return Grade(name, self.version, decide_all=decide_all, scale="number")


@in_turn
def calibrated(
    model: Model,
    prompts: PromptSet | Sequence[Prompt],
    *,
    base: Model | None = None,
    quantile: float = 0.05,
    n: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    template: str | Template = "auto",
    max_new_tokens: int = 32,
    max_rows: int = 64,
    folder: str | Path | None = None,
) -> Coherence:
    """Thresholds such that a share `quantile` of the unmodified model's own answers to `prompts` would be incoherent.

    `n` answers of at most `max_new_tokens` tokens are sampled at a `temperature`, prompts taking turns in random order;
    a lower temperature makes the threshold stricter. Give prompts like those that will be graded **and** others that
    the model answers otherwise: from harmless ones alone the threshold is so strict that refusals are called broken.
    The base's threshold is read off the base's own samples. With a `folder` each threshold is kept there, by all that
    it depends on, and not sampled again. docs/outcomes.md has what was measured. Raises `InputError`
    for a share outside 0 to 1, fewer than 8 samples, greedy answers, or a model that says nothing.
    """
    items = list(prompts)
    if not 0 <= quantile < 1 or n < _FEWEST or temperature <= 0 or not items:
        raise InputError(
            f"quantile={quantile} must be from 0 to below 1, n={n} at least {_FEWEST}, temperature={temperature} above "
            f"0, and there must be prompts (given: {len(items)})"
        )
    chosen = as_template(template).frozen(tokens.tokenizer_of(model))
    order = np.random.default_rng([seed, 3]).permutation(len(items))
    drawn = [items[order[i % len(items)]] for i in range(n)]

    def yardstick(of: Model) -> Yardstick:
        ids = encode(tokens.tokenizer_of(of), drawn, template=chosen)
        fingerprint = sites.fingerprint(of)
        spoken = (tokens.tokenizer_digest(of.tokenizer), tokens.stop_ids(of), chosen, max_new_tokens, max_rows)
        key = digest_of("threshold", VERSION, fingerprint, ids, quantile, temperature, seed, spoken)
        kept = None if folder is None else Path(folder) / f"{key[:32]}.json"
        if kept is not None:
            check_unmodified(of)
            threshold = _kept_threshold(kept, key)
            if threshold is not None:
                return Yardstick(of, threshold, fingerprint)
        options = {"max_new_tokens": max_new_tokens, "max_rows": max_rows}
        new = generate(of, ids, temperature=temperature, seed=seed, **options)
        texts = [response_text(of.tokenizer, own, chosen) for own in new]
        answers = [(prompt, text) for prompt, text in zip(drawn, texts) if text]
        if len(answers) < _FEWEST:
            raise InputError(
                f"{of.cfg.model_name!r} gave {len(answers)} answers in {n} samples, the rest is empty or unfinished "
                "thought; raise n or max_new_tokens, or give other prompts"
            )
        values = mean_log_probs(of, answers, template=chosen, max_rows=max_rows)
        threshold = float(np.quantile(values, quantile))
        if kept is not None:
            said = {"key": key, "threshold": threshold, "model": str(of.cfg.model_name), "answers": len(answers)}
            save_json(kept, {**said, "checksum": digest_of(said)})
        return Yardstick(of, threshold, fingerprint)

    models = [model] if base is None else [model, base]
    return Coherence(tuple(yardstick(each) for each in models), chosen, max_rows)


def _kept_threshold(path: Path, key: str) -> float | None:
    """The threshold in a file of this key; None where there is no such file, or it is not as it was written."""
    if not path.is_file():
        return None
    try:
        kept = load_json(path)
        if kept.pop("checksum") == digest_of(kept) and kept["key"] == key:
            return float(kept["threshold"])
        why = "it is not as it was written, or another key's"
    except (LoadError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error)
    logger.warning("%s is not used, its threshold is sampled again: %s", path, why)
    return None


check_arguments(__name__)

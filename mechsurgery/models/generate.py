"""Batched generation with a key–value cache, left padding and hooks that may differ from row to row.

HookedTransformer's own `generate` takes no attention mask and is silently wrong for left-padded tensors;
this loop passes the mask at every step, unembeds only the last position and ends with the last row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError
from ..progress import with_progress
from . import sites, tokens
from .capture import RowHooks, checked_hooks, require_finite
from .fitting import Halved, rows_at_once
from .positions import prompts_end
from .prefix import Prefix, run_prefix
from .protocol import Model
from .turns import in_turn
from .with_hooks import with_hooks


@in_turn
@torch.no_grad()
def generate(
    model: Model,
    ids: Sequence[Sequence[int]],
    *,
    hooks: RowHooks | None = None,
    alike: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    on_first: Callable[[list[int], Float[Tensor, "batch d_vocab"]], Any] | None = None,
    stop: Sequence[int] | None = None,
    max_rows: int | None = None,
    max_tokens: int = 16384,
    named: Callable[[int], str] = "prompt {}".format,
    progress: bool | None = False,
) -> list[list[int]]:
    """New tokens for every prompt, without the end token; greedy for temperature 0.

    `hooks(rows)` gives the hooks of a batch from its prompts' places in `ids`; they act on the prompt and on
    every generated token. `alike` has a number for every row: those with equal numbers have equal hooks, so that what
    all prompts begin with runs once for each number (without `hooks`, once). A sampled row depends only on `seed` and
    its number in `streams` (default: its place; give equal numbers to rows that are to draw alike), not on its batch.
    `on_first(rows, logits)` sees the logits of the first new token of every batch. `stop` are the end tokens (default:
    the model's). A batch has at most `max_rows` rows (default: what is usual on the device), fewer where memory is
    short, and is halved where it runs out all the same, with a warning in the log.
    Raises `PromptError` where a prompt and `max_new_tokens`, less the last one, exceed the context, `ActivationError`
    where logits are NaN or infinite, with what `named` calls the row.
    """
    temperature = check_temperature(temperature)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} must be at least 1")
    tokens.check_lengths(ids, model.cfg.n_ctx, max_new_tokens)
    ends = torch.tensor(sorted(stop if stop is not None else tokens.stop_ids(model)), dtype=torch.long)
    at_once = rows_at_once(model, ids, max_rows=max_rows, new_tokens=max_new_tokens)
    limits: dict[str, Any] = {"max_rows": at_once, "max_tokens": max_tokens}
    checked = None if hooks is None else partial(checked_hooks, model, hooks)
    prefix = run_prefix(model, ids, hooks=checked, alike=alike, new_tokens=max_new_tokens, **limits)
    fed = ids if prefix is None else prefix.rest(ids)
    batches = tokens.batches_for(model, fed, new_tokens=max_new_tokens, **limits)
    responses: list[list[int]] = [[] for _ in ids]
    handed: set[int] = set()

    def first(rows: list[int], logits: Tensor) -> None:
        if on_first is not None and not handed.issuperset(rows):
            on_first(rows, logits)
            handed.update(rows)

    def answer(batch: tokens.Batch) -> None:
        draws = None
        if temperature > 0:
            draws = _draws([row if streams is None else streams[row] for row in batch.rows], seed, max_new_tokens)
        state = _State(batch, ends.to(batch.ids.device), max_new_tokens, temperature, draws, named, prefix)
        while state.unfinished():
            with with_hooks(model, checked_hooks(model, hooks, state.rows)):
                state.decode(model, first)
            state.drop_finished_rows()
        for row, response in zip(batch.rows, state.responses):
            responses[row] = response

    halved = Halved(answer)
    for batch in with_progress(batches, "generating", shown=progress):
        halved(batch)
    return responses


def stream(
    model: Model,
    ids: Sequence[int],
    rows: int = 1,
    *,
    hooks: RowHooks | None = None,
    max_new_tokens: int = 32,
    stop: Sequence[int] | None = None,
) -> Iterator[list[list[int]]]:
    """Greedy answers to one prompt while they grow: after every token, the new tokens of each of `rows` rows.

    `hooks(rows)` gives the hooks of the batch, so that each row can have its own intervention. They are on the model
    only while a token is computed: between two tokens, and when the iterator is dropped, the model is as it was. Ends
    when every row has ended; equal to `generate` on the same rows. Raises `PromptError` where the prompt and
    `max_new_tokens`, less the last one, exceed the context.
    """
    if max_new_tokens < 1 or rows < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} and rows={rows} must be at least 1")
    tokens.check_lengths([ids], model.cfg.n_ctx, max_new_tokens)
    ends = torch.tensor(sorted(stop if stop is not None else tokens.stop_ids(model)), dtype=torch.long)
    (batch,) = tokens.batches_for(model, [ids] * rows, max_rows=rows, max_tokens=rows * len(ids))
    state = _State(batch, ends.to(batch.ids.device), max_new_tokens, 0.0, None)
    # Batches may come in another order than the rows; each row's own place is kept.
    order = [batch.rows.index(row) for row in range(rows)]
    while state.growing():
        with torch.no_grad(), with_hooks(model, checked_hooks(model, hooks, batch.rows)):
            state.step(model, None)
        state.check()
        yield [state.so_far(place) for place in order]


class _State:
    """A batch while it is decoded. Rows that have ended are dropped once they are half of it."""

    def __init__(
        self,
        batch: tokens.Batch,
        ends: Tensor,
        n_new: int,
        temperature: float,
        draws: Tensor | None,
        named: Callable[[int], str] = "row {}".format,
        prefix: Prefix | None = None,
    ) -> None:
        self.rows = list(batch.rows)
        self.responses: list[list[int]] = [[] for _ in batch.rows]
        self._places = torch.arange(len(batch.rows))
        self._current, self._mask = batch.ids, batch.mask
        self._ends, self._n_new, self._temperature, self._draws = ends, n_new, temperature, draws
        self._done = torch.zeros(len(batch.rows), dtype=torch.bool, device=batch.ids.device)
        self._bad, self._named = self._done.clone(), named
        self._prefix = prefix
        self._cache: Any = None
        self._step = 0
        self._new: list[Tensor] = []

    def unfinished(self) -> bool:
        return self._step < self._n_new and len(self.rows) > 0

    def growing(self) -> bool:
        """Whether any row goes on (for batches whose finished rows are not dropped)."""
        return self._step < self._n_new and not bool(self._done.all())

    def so_far(self, place: int) -> list[int]:
        """The new tokens of the row at a place of the batch, before its rows are dropped."""
        return [token for step in self._new if (token := int(step[place])) >= 0]

    def step(self, model: Model, on_first: Callable[[list[int], Tensor], Any] | None) -> None:
        """One new token for every row; −1 in a row that has ended."""
        if self._cache is None:
            length = self._current.shape[1] + self._n_new - 1
            if self._prefix is None:
                self._cache = sites.new_cache(model, len(self.rows), length, self._current.device)
            else:
                self._cache = self._prefix.cache(self.rows, length)
        with prompts_end(model, None if self._step else 0):
            residual = sites.run(model, self._current, self._mask, model.cfg.n_layers, cache=self._cache)
        assert residual is not None
        logits = sites.unembed(model, residual[:, -1:])[:, 0].float()
        if self._step == 0 and on_first is not None:
            on_first(self.rows, logits)
        draw = None if self._draws is None else self._draws[:, self._step]
        if draw is None:
            chosen = logits.argmax(-1)
            decided = logits.gather(1, chosen[:, None])[:, 0]  # NaN counts as the largest number
        else:
            chosen, decided = _sample(logits / self._temperature, draw)
        self._bad |= ~(torch.isfinite(decided) | self._done)
        self._done |= torch.isin(chosen, self._ends)
        self._new.append(chosen.masked_fill(self._done, -1))
        self._current, self._mask = chosen[:, None], torch.ones_like(chosen[:, None])
        self._step += 1

    def decode(self, model: Model, on_first: Callable[[list[int], Tensor], Any] | None) -> None:
        """New tokens until the last row has ended, or half of the rows have."""
        while self._step < self._n_new:
            self.step(model, on_first)
            # Whether rows are done is waited for here, and at the end their tokens are: numbers are looked at then.
            if len(self._ends) and 2 * int(self._done.sum()) >= len(self._done):
                break
        self.check()
        for place, new in zip(self._places.tolist(), torch.stack(self._new, dim=1).tolist()):
            self.responses[place] += [token for token in new if token >= 0]
        self._new.clear()

    def check(self) -> None:
        """Raise `ActivationError` where a token was chosen from logits that are not finite."""
        require_finite(self._bad, self.rows, self._named, f"the logits within {self._step} new tokens of")

    def drop_finished_rows(self) -> None:
        """Keep only the rows that go on, in the cache too."""
        keep = (~self._done).nonzero()[:, 0]
        self.rows = [self.rows[i] for i in keep.tolist()]
        self._places = self._places[keep.cpu()]
        self._done, self._bad = self._done[keep], self._bad[keep]
        self._current, self._mask = self._current[keep], self._mask[keep]
        if self._draws is not None:
            self._draws = self._draws[keep.to(self._draws.device)]
        if len(self.rows):
            self._cache.keep(keep)


def _draws(streams: list[int], seed: int, n: int) -> Float[Tensor, "batch n"]:
    """Uniform numbers that depend on the seed and the stream alone."""
    return torch.tensor(np.stack([np.random.default_rng([seed, stream]).random(n) for stream in streams])).float()


def _sample(
    logits: Float[Tensor, "batch d_vocab"], draw: Float[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the draw; and all of it, 1."""
    cumulative = logits.softmax(-1).double().cumsum(-1)
    target = draw.to(cumulative)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return chosen, cumulative[:, -1]


#: The lowest temperature above 0: there it is greedy decoding but for rounding, and logits divided by it are finite.
COLDEST = 1e-6


def check_temperature(temperature: float) -> float:
    """The temperature. Raises `InputError` where it is not 0, or finite and at least `COLDEST`."""
    if temperature != 0 and not COLDEST <= temperature < math.inf:
        raise InputError(f"temperature={temperature} must be 0 (greedy), or finite and at least {COLDEST:g}")
    return float(temperature)


check_arguments(__name__)

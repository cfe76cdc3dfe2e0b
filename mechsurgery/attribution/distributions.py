"""What a model says and how sure it is of every token: recorded once, to measure distances from it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..models import generate, sites, tokens
from ..models.capture import final_residual
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import PromptSet, encode
from ..prompts.chat import Template

#: Log-probabilities kept at each position; all other tokens are one more outcome.
KEPT = 512
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Distributions:
    """A model's answers and its next-token distributions at the positions that predict them.

    `ids` are prompt and answer without the last token, `n_last` how many last positions predict the answer. Of each
    position the `KEPT` most probable tokens are held, and the rest as one outcome, so that memory does not grow with
    the vocabulary; the divergence is then that of these outcomes, never more than the full one, and equal to it where
    the vocabulary is no larger.
    """

    name: str
    ids: list[list[int]]
    n_last: list[int]
    groups: list[str]
    tokens: Int[Tensor, "positions kept"]
    log_p: Float[Tensor, "positions kept"]
    start: list[int]
    full: bool

    def divergence(self, log_probs: Float[Tensor, "batch last d_vocab"], rows: Sequence[int]) -> Tensor:
        """KL(recorded ‖ log_probs) in nats, [batch, last]; 0 at positions that do not count. Differentiable."""
        last = log_probs.shape[1]
        index = torch.full((len(rows), last), -1)
        for place, row in enumerate(rows):
            n = self.n_last[row]
            index[place, last - n :] = torch.arange(self.start[row], self.start[row] + n)
        where = index.clamp_min(0).to(self.tokens.device)
        top, before = self.tokens[where].to(log_probs.device).long(), self.log_p[where].to(log_probs.device).float()
        after = log_probs.gather(-1, top)
        each = (before.exp() * (before - after)).sum(-1)
        if not self.full:
            rest_before, rest_after = ((1 - x.exp().sum(-1)).clamp_min(_TINY) for x in (before, after))
            each = each + rest_before * (rest_before.log() - rest_after.log())
        return each * (index >= 0).to(each)


@in_turn
@torch.no_grad()
def distributions(
    model: Model,
    prompts: PromptSet,
    *,
    template: str | Template = "auto",
    max_new_tokens: int = 32,
    max_rows: int = 64,
    name: str = "answers",
) -> Distributions:
    """A model's greedy answers to prompts with the distribution of every token; a letter where there are choices."""
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    spoken = [row for row, prompt in enumerate(prompts) if not prompt.choices]
    answers: list[list[int]] = [[] for _ in ids]
    if spoken:
        end = tokens.stop_ids(model)[:1]
        said = generate.generate(model, [ids[row] for row in spoken], max_new_tokens=max_new_tokens, max_rows=max_rows)
        for row, answer in zip(spoken, said):
            # The end of the turn is predicted too.
            answers[row] = [*answer, *(end if len(answer) < max_new_tokens else ())]
    joined = [[*prompt, *answer[:-1]] for prompt, answer in zip(ids, answers)]
    n_last = [max(1, len(answer)) for answer in answers]
    start = [sum(n_last[:row]) for row in range(len(ids))]
    kept = min(KEPT, sites.vocabulary(model))
    top = torch.zeros(sum(n_last), kept, dtype=torch.int32)
    log_p = torch.zeros(sum(n_last), kept)
    for batch in tokens.batches_for(model, joined, max_rows=max_rows):
        last = max(n_last[row] for row in batch.rows)
        seen = sites.unembed(model, final_residual(model, batch.ids, batch.mask)[:, -last:]).float().log_softmax(-1)
        for row, own in zip(batch.rows, seen):
            best = own[-n_last[row] :].topk(kept)
            place = slice(start[row], start[row] + n_last[row])
            top[place], log_p[place] = best.indices.int().cpu(), best.values.cpu()
    full = kept == sites.vocabulary(model)
    return Distributions(name, joined, n_last, [prompt.group for prompt in prompts], top, log_p, start, full)


check_arguments(__name__)

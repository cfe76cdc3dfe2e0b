"""`Objective`: what a localiser is to explain, and what is to be kept.

A behaviour is a number for each row of tokens, higher where it is stronger: how much more probable the bad completion
is, how far the model is from its base, how far the residual stream points along a direction. A task is such a number
with the rows that it is read from; an objective is the task to explain and those whose number (a KL divergence from
the unmodified model) is to stay at 0. Every localiser takes any objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_arguments
from ..directions import Direction
from ..errors import InputError, PromptError
from ..models import capture, sites, tokens
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.with_hooks import with_hooks
from ..prompts import ContrastSet, PromptSet, encode
from ..prompts.chat import Template
from ..prompts.pairs import CompletionPairs
from .distributions import Distributions, distributions

HookFns = Sequence[tuple[str, Callable[..., Any]]]


@dataclass(frozen=True, eq=False)
class Read:
    """A batch as a task reads it: places of its rows in the task, tokens, and which of the last positions count.

    `ids` are [batch, pos], padded on the left; `counted` is [batch, last], true where a position of the last is read,
    and `said` [batch, last] is the token that follows each of these positions (the last one's is 0).
    """

    rows: list[int]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    counted: Float[Tensor, "batch last"]
    said: Int[Tensor, "batch last"]


Value = Callable[[Tensor, Read], Float[Tensor, " batch"]]


@dataclass(frozen=True, eq=False)
class Task:
    """A number for each row of tokens.

    `ids` are the rows; the last `n_last` positions of each are read: `value(logits [batch, last, d_vocab], read)` (or
    the activation at `at`, where it is given) returns a number for each row of a batch. The task's value is the mean
    over rows of weight × number. `groups` names what may not be split. Rows with the same number in `items` are drawn
    together, and their mean is what a floor is for (a pair's two completions); without `items` every row is by itself.
    """

    name: str
    ids: Sequence[Sequence[int]]
    n_last: Sequence[int]
    value: Value
    weight: Float[Tensor, " n"]
    groups: Sequence[str] = ()
    at: str | None = None
    items: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise PromptError(f"task {self.name!r} has no rows; give at least one prompt")
        if len(self.groups) not in (0, len(self.ids)):
            raise InputError(
                f"task {self.name!r} has {len(self.groups)} groups for {len(self.ids)} rows; give one each"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, model: Model, max_rows: int = 64, rows: Sequence[int] | None = None) -> list[Read]:
        """The rows (all, or some places) in batches of like length."""
        chosen = list(range(len(self)) if rows is None else rows)
        found = []
        for batch in tokens.batches_for(model, [self.ids[row] for row in chosen], max_rows=max_rows):
            places = [chosen[row] for row in batch.rows]
            counts = torch.tensor([self.n_last[row] for row in places], device=batch.ids.device)
            last = int(counts.max())
            counted = torch.arange(last, device=batch.ids.device) >= last - counts[:, None]
            said = torch.nn.functional.pad(batch.ids, (0, 1))[:, -last:]
            found.append(Read(places, batch.ids, batch.mask, counted.float(), said))
        return found

    def values(self, model: Model, read: Read, hooks: HookFns = ()) -> Float[Tensor, " batch"]:
        """Weight × number of each row of a batch, with hooks on the model; differentiable."""
        last = read.counted.shape[1]
        if self.at is None:
            # The final norm is hooked like everything before it.
            with with_hooks(model, hooks):
                residual = capture.final_residual(model, read.ids, read.mask)
                seen = sites.unembed(model, residual[:, -last:]).float()
        else:
            seen = _read_at(model, read, hooks, self.at)[:, -last:].float()
        return self.value(seen, read) * self.weight.to(seen.device)[read.rows]

    def take(self, rows: Sequence[int]) -> Task:
        """The same task on some of its rows."""
        place = list(rows)

        def value(seen: Tensor, read: Read) -> Tensor:
            return self.value(seen, replace(read, rows=[place[row] for row in read.rows]))

        ids, n_last = [self.ids[row] for row in place], [self.n_last[row] for row in place]
        groups = [self.groups[row] for row in place] if self.groups else ()
        items = [self.items[row] for row in place] if self.items else ()
        return replace(self, ids=ids, n_last=n_last, value=value, weight=self.weight[place], groups=groups, items=items)


def _read_at(model: Model, read: Read, hooks: HookFns, name: str) -> Tensor:
    """The activation at a hook point, after the other hooks there."""
    found: list[Tensor] = []

    def keep(activation: Tensor, hook: Any = None) -> Tensor:
        found.append(activation)
        return activation

    with with_hooks(model, [*hooks, (name, keep)]):
        sites.run(model, read.ids, read.mask, sites.stop_layer(model, [name]))
    return found[0]


@dataclass(frozen=True, eq=False)
class Objective:
    """What a localiser is to explain (`explain`), and what is to be kept, or brought, at 0 (`keep`).

    The tasks in `keep` are divergences: from the unmodified model where it is to stay as it is, from a base model where
    it is to answer as that one does. `floor` is the value of `explain` below which nothing more is gained: trained
    gates push the behaviour down to it and no further (in the task's own unit).
    """

    explain: Task
    keep: tuple[Task, ...] = ()
    floor: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is explained."""
        return self.explain.name

    def keeping(self, *tasks: Task) -> Objective:
        """The same objective with more that is to be kept; a name that is there already gets a number."""
        names = [task.name for task in (self.explain, *self.keep)]
        kept = list(self.keep)
        for task in tasks:
            n = sum(name == task.name or name.startswith(f"{task.name} (") for name in names)
            kept.append(replace(task, name=f"{task.name} ({n + 1})") if n else task)
            names.append(kept[-1].name)
        return replace(self, keep=tuple(kept))


def from_pairs(pairs: CompletionPairs, *, floor: float = -3.0) -> Objective:
    """How much more probable the bad completion is than the good one: log p(bad) − log p(good), in nats a pair.

    The whole completions, not their first tokens, are compared.
    """
    rows = [[*p, *c] for side in (pairs.bad, pairs.good) for p, c in zip(pairs.prompts, side)]
    # The last token predicts nothing that is compared, and the one before the completion predicts its first.
    ids = [row[:-1] for row in rows]
    n_last = [len(c) for side in (pairs.bad, pairs.good) for c in side]
    following = torch.tensor([row[-1] for row in rows])
    # Averaged over 2n rows with weights ±2, the value is the mean difference of a pair.
    weight = torch.cat([torch.full((len(pairs),), 2.0), torch.full((len(pairs),), -2.0)])

    def value(logits: Tensor, read: Read) -> Tensor:
        said = read.said.clone()
        said[:, -1] = following.to(said)[read.rows]
        log_p = logits.log_softmax(-1).gather(-1, said[..., None])[..., 0]
        return (log_p * read.counted).sum(-1)

    items = [*range(len(pairs))] * 2
    task = Task("completions", ids, n_last, value, weight, [*pairs.groups, *pairs.groups], items=items)
    return Objective(task, floor=floor, info={"from": "completion pairs", "n": len(pairs)})


@in_turn
def from_first_tokens(
    model: Model,
    contrast: ContrastSet,
    *,
    more: bool = False,
    template: str | Template = "auto",
    floor: float = -3.0,
    max_rows: int = 64,
) -> Objective:
    """How much more probable it is that an answer to a positive prompt begins as those to positive prompts do.

    The first tokens that the model itself says on the positive side are set against those on the negative side: log
    Σ p(positive's) − log Σ p(negative's), in nats, on the positive prompts. With `more` it is the other way round, on
    the negative prompts: bringing it down is turning the behaviour up. Raises `PromptError` where both sides begin
    alike: then give completion pairs or a base model.
    """
    ids = {
        name: encode(tokens.tokenizer_of(model), side, template=template)
        for name, side in (("positive", contrast.positive), ("negative", contrast.negative))
    }
    first = {name: capture.next_token_logits(model, own, max_rows=max_rows).argmax(-1) for name, own in ids.items()}
    behaving, other = (set(first[name].tolist()) for name in ("positive", "negative"))
    behaving, other = behaving - other, other - behaving
    if not behaving or not other:
        raise PromptError(
            f"answers to both sides of {contrast.name!r} begin with the same tokens, so first tokens cannot tell the "
            "behaviour; give completion pairs (objectives.from_pairs) or a base model (objectives.from_teacher)"
        )
    sides = [torch.tensor(sorted(side)) for side in (behaving, other)]

    def value(logits: Tensor, read: Read) -> Tensor:
        log_p = logits[:, -1].log_softmax(-1)
        towards, away = (log_p[:, side.to(log_p.device)].logsumexp(-1) for side in sides)
        return away - towards if more else towards - away

    rows, prompts = (ids["negative"], contrast.negative) if more else (ids["positive"], contrast.positive)
    n = len(rows)
    task = Task("first tokens", rows, [1] * n, value, torch.ones(n), [p.group for p in prompts])
    words = [tokens.tokenizer_of(model).convert_ids_to_tokens(side.tolist()) for side in sides]
    return Objective(task, floor=floor, info={"from": "first tokens", "behaving": words[0], "other": words[1]})


def from_teacher(
    teacher: Model,
    prompts: PromptSet,
    *,
    template: str | Template = "auto",
    max_new_tokens: int = 32,
    max_rows: int = 64,
    floor: float = 0.5,
) -> Objective:
    """How far the model is from another one, mostly its base, on that one's own answers: KL in nats an answer.

    `teacher` answers the prompts greedily; the value is KL(teacher ‖ model), summed over the positions that predict
    the answer and its end. Ablating what carries a behaviour that the base does not have brings it down. Both models
    must have the same tokenizer. Only the teacher's distributions are kept, so it may be deleted afterwards.
    """
    answered = distributions(
        teacher, prompts, template=template, max_new_tokens=max_new_tokens, max_rows=max_rows, name="base's answers"
    )
    info = {"from": "teacher", "teacher": str(teacher.cfg.model_name), "n": len(prompts)}
    return Objective(divergence_task(answered), floor=floor, info=info)


def from_direction(
    direction: Direction, model: Model, prompts: PromptSet, *, template: str | Template = "auto", floor: float = 0.0
) -> Objective:
    """How far the last token's activation points along a direction at its one hook point, in the activation's unit."""
    if len(direction.vectors) != 1:
        raise InputError(f"direction {direction.name!r} has {len(direction.vectors)} hook points; give one of them")
    (site, vector), ids = next(iter(direction.vectors.items())), encode(model.tokenizer, prompts, template=template)
    unit = vector / vector.norm()

    def value(activation: Tensor, read: Read) -> Tensor:
        return activation[:, -1] @ unit.to(activation)

    task = Task(direction.name, ids, [1] * len(ids), value, torch.ones(len(ids)), [p.group for p in prompts], at=site)
    return Objective(task, floor=floor, info={"from": "direction", "direction": direction.name})


def from_function(
    model: Model,
    prompts: PromptSet,
    function: Value,
    *,
    name: str = "function",
    template: str | Template = "auto",
    n_last: int = 1,
    floor: float = 0.0,
) -> Objective:
    """Any function `(logits [batch, n_last, d_vocab], read) -> [batch]` of the last positions of every prompt."""
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    last = [min(n_last, len(row)) for row in ids]
    return Objective(Task(name, ids, last, function, torch.ones(len(ids)), [p.group for p in prompts]), floor=floor)


@in_turn
def kept(
    model: Model, prompts: PromptSet, *, template: str | Template = "auto", max_new_tokens: int = 32, max_rows: int = 64
) -> Task:
    """What is to stay: KL(unmodified ‖ now), nats an answer, on the unmodified model's own answers to these prompts.

    Prompts with choices are answered by their letter alone, in one token.
    """
    answered = distributions(
        model, prompts, template=template, max_new_tokens=max_new_tokens, max_rows=max_rows, name=prompts.name
    )
    return divergence_task(answered)


def divergence_task(answered: Distributions) -> Task:
    """KL(recorded ‖ now) of recorded answers, in nats an answer: the sum over the positions that predict each."""

    def value(logits: Tensor, read: Read) -> Tensor:
        each = answered.divergence(logits.log_softmax(-1), read.rows)
        return (each * read.counted).sum(-1)

    n = len(answered.ids)
    return Task(answered.name, answered.ids, answered.n_last, value, torch.ones(n), answered.groups)


@in_turn
def from_contrast(
    model: Model,
    contrast: ContrastSet,
    *,
    base: Model | None = None,
    keep: Sequence[PromptSet] = (),
    template: str | Template = "auto",
    max_new_tokens: int = 32,
    max_rows: int = 64,
) -> Objective:
    """The usual objective of a contrast: first tokens, with the negative side's answers and those to `keep` kept.

    With a `base` the answers to positive prompts are to become the base's: what is gone is not yet repaired. Where
    answers to both sides begin alike, that is all that is explained; without a base, it raises `PromptError`.
    """
    how: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens, "max_rows": max_rows}
    try:
        objective = from_first_tokens(model, contrast, template=template, max_rows=max_rows)
    except PromptError:
        if base is None:
            raise
        objective = from_teacher(base, contrast.positive, **how)
    for prompts in (contrast.negative, *keep):
        objective = objective.keeping(kept(model, prompts, **how))
    if base is None or objective.info["from"] == "teacher":
        return objective
    return objective.keeping(from_teacher(base, contrast.positive, **how).explain)


@in_turn
def value_of(
    model: Model, task: Task, *, hooks: Callable[[Read], HookFns] | None = None, max_rows: int = 64
) -> Float[Tensor, " n"]:
    """Weight × number of every row of a task, in its order."""
    found = torch.empty(len(task))
    with torch.no_grad():
        for read in task.batches(model, max_rows):
            found[read.rows] = task.values(model, read, hooks(read) if hooks else ()).float().cpu()
    return found


@in_turn
def mean_values(model: Model, objective: Objective, hooks: HookFns = (), *, max_rows: int = 64) -> dict[str, float]:
    """{task: its value} of everything that an objective explains and keeps, with hooks on the model."""
    return {
        task.name: float(value_of(model, task, hooks=lambda read: hooks, max_rows=max_rows).mean())
        for task in tasks(objective)
    }


def tasks(objective: Objective) -> tuple[Task, ...]:
    """What is explained, then everything that is kept."""
    return (objective.explain, *objective.keep)


check_arguments(__name__)

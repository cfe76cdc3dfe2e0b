"""Streaming statistics of activations, of last tokens or of all: nothing is cached, memory does not grow with prompts.

Count, mean and sum of squared deviations are merged batch by batch inside the hook (Chan, Golub and
LeVeque 1983), in float64 where the device has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .. import names as spelled
from ..artifacts import NUMBERS, load_tensors, save_tensors
from ..checks import check_arguments
from ..errors import ActivationError, InputError, MismatchError, PromptError, SiteError, listed
from ..models import capture, sites, tokens
from ..models.dictionaries import Dictionary
from ..models.fitting import rows_at_once
from ..models.protocol import Model
from ..models.turns import in_turn
from ..models.workers import InOrder, Workers
from ..progress import progress_bar
from ..prompts import ContrastSet, Examples, PromptSet
from ..prompts.chat import Template, as_template, encode
from ..reading import readable


@dataclass
class Moments:
    """Per hook point the number of activations, their mean and the sum of squared deviations, each [d].

    `n` is the number of prompts (or tokens); at the neurons of a routed expert only of those that reached it.
    """

    n: dict[str, int] = field(default_factory=dict)
    mean: dict[str, Float[Tensor, " d"]] = field(default_factory=dict)
    m2: dict[str, Float[Tensor, " d"]] = field(default_factory=dict)

    def update(self, site: str, activation: Float[Tensor, "batch d"], rows: Sequence[int] = ()) -> None:
        """Merge a batch of activations; `rows` is accepted so that this can be used as a stream's update."""
        exact = torch.float32 if activation.device.type == "mps" else torch.float64
        x = activation.to(exact)
        mean = x.mean(0)
        self.merge(site, x.shape[0], mean, (x - mean).square().sum(0))

    def merge(self, site: str, n: int, mean: Float[Tensor, " d"], m2: Float[Tensor, " d"]) -> None:
        """Merge the moments of `n` more activations; the order of merging decides the last digits."""
        if site not in self.n:
            self.n[site], self.mean[site], self.m2[site] = n, mean, m2
            return
        before = self.n[site]
        total = before + n
        delta = mean - self.mean[site]
        self.mean[site] += delta * (n / total)
        self.m2[site] += m2 + delta.square() * (before * n / total)
        self.n[site] = total

    def fill(self, widths: Mapping[str, int]) -> None:
        """Note n = 0 at hook points, {name: width}, that no token reached."""
        for site, width in widths.items():
            if site not in self.n:
                self.n[site] = 0
                self.mean[site], self.m2[site] = torch.zeros(2, width, dtype=torch.float64)

    def variance(self, site: str) -> Float[Tensor, " d"]:
        """Unbiased variance (n − 1 in the denominator; zero for a single prompt)."""
        return self.m2[site] / max(1, self.n[site] - 1)


@dataclass(frozen=True, eq=False)
class ContrastStatistics:
    """Moments of both sides of a contrast: everything the scores of one forward pass are made of."""

    positive: Moments
    negative: Moments
    info: dict[str, Any]

    def __post_init__(self) -> None:
        for side in (self.positive, self.negative):
            if not side.n or not self.positive.n.keys() == side.n.keys() == side.mean.keys() == side.m2.keys():
                raise InputError("statistics need the same hook points on both sides, each with mean and variance")
            for site, n in side.n.items():
                mean, m2 = side.mean[site], side.m2[site]
                least = 1 if spelled.expert_of(site) is None else 0
                if n < least or mean.ndim != 1 or not mean.shape == m2.shape == self.positive.mean[site].shape:
                    raise MismatchError(f"{n} rows of {list(mean.shape)} and {list(m2.shape)} numbers at {site!r}")
                if not (torch.isfinite(mean).all() and torch.isfinite(m2).all() and (m2 >= 0).all()):
                    raise ActivationError(f"the statistics at {site!r} are NaN, infinite or a negative variance")

    @property
    def sites(self) -> list[str]:
        """The hook points measured, in the model's order."""
        return list(self.positive.n)

    def difference(self, site: str) -> Float[Tensor, " d"]:
        """Mean activation on the positive prompts minus mean on the negative ones."""
        if site not in self.positive.mean:
            raise SiteError(f"no statistics at {site!r}; measured: {listed(self.sites)}")
        mean = self.positive.mean[site]
        return mean - self.negative.mean[site].to(mean.device)

    @property
    def routed(self) -> dict[str, list[int]]:
        """{hook point: how many activations each side has there}; `{}` where no hook point is an expert's."""
        if not any(spelled.is_experts(site) for site in self.sites):
            return {}
        return {site: [self.positive.n[site], self.negative.n[site]] for site in self.sites}

    def at(self, names: Iterable[str]) -> ContrastStatistics:
        """The same statistics for only some of the hook points."""
        keep = list(names)
        lacking = [site for site in keep if site not in self.positive.mean]
        if lacking or not keep:
            raise SiteError(f"no statistics at {listed(lacking) or 'no hook point'}; measured: {listed(self.sites)}")

        def only(side: Moments) -> Moments:
            return Moments(*({s: part[s] for s in keep} for part in (side.n, side.mean, side.m2)))

        return replace(self, positive=only(self.positive), negative=only(self.negative))

    def save(self, path: str | Path) -> Path:
        """Write as one safetensors file."""
        sides = {"positive": self.positive, "negative": self.negative}
        tensors = {f"{side}:mean:{s}": m.mean[s] for side, m in sides.items() for s in self.sites}
        tensors |= {f"{side}:m2:{s}": m.m2[s] for side, m in sides.items() for s in self.sites}
        counts = {side: m.n for side, m in sides.items()}
        return save_tensors(path, "ContrastStatistics", tensors, {"n": counts, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> ContrastStatistics:
        """Read what `save` wrote."""
        fields = {"n": dict[str, dict[str, int]], "info": dict[str, Any]}
        tensors, facts = load_tensors(path, "ContrastStatistics", fields, lambda _: NUMBERS)

        def side(name: str) -> Moments:
            n = facts["n"][name]
            parts = ({s: tensors.pop(f"{name}:{part}:{s}") for s in n} for part in ("mean", "m2"))
            return Moments(n, *parts)

        with readable(path, "ContrastStatistics"):
            found = cls(side("positive"), side("negative"), facts["info"])
            if tensors:
                raise InputError(f"it holds {listed(tensors)}, which belong to neither side")
            return found


@in_turn
def contrast_statistics(
    model: Model,
    contrast: ContrastSet,
    *,
    at: Sequence[str | Dictionary] | None = None,
    layers: Sequence[int] | None = None,
    positions: Literal["last", "all"] = "last",
    template: str | Template = "auto",
    max_rows: int | None = None,
    workers: Workers | None = None,
    progress: bool | None = None,
) -> ContrastStatistics:
    """Run both sides of a contrast once and keep the moments of every unit's last-token activation.

    `at` names hook points, or holds dictionaries whose latents are then the units (default:
    `blocks.{l}.mlp.hook_post` of `layers`, the input of the down projection and so the MLP neurons of the CNA
    paper). The batched forward stops after the deepest of them and never computes logits. `positions="all"` takes every
    token of the prompts instead, each as one: the moments of what an intervention at every position replaces. With
    `workers` (`adapters.many.Workers`) copies of the model elsewhere run the batches, whose moments are merged here in
    the order of the batches.

    At the neurons of a routed expert, prompts whose token did not reach it do not count: `routed` says how many did.
    """
    wanted = list(at) if at is not None else sites.neuron_sites(model, layers)
    names = [unit if isinstance(unit, str) else unit.site for unit in wanted]
    both = [
        encode(tokens.tokenizer_of(model), side, template=template) for side in (contrast.positive, contrast.negative)
    ]
    if workers is None:
        sides = [_moments(model, wanted, ids, positions, max_rows, progress) for ids in both]
    else:
        sides = _moments_on(workers, model, wanted, both, positions, max_rows, progress)
    experts = {site: sites.width(model, site) for site in names if spelled.is_experts(site)}
    for side in sides:
        side.fill(experts)
    sides = [Moments(*({s: part[s] for s in names} for part in (side.n, side.mean, side.m2))) for side in sides]
    info = sites.provenance_of(
        model,
        contrast=contrast.name,
        prompts=contrast.digest,
        n_positive=len(contrast.positive),
        n_negative=len(contrast.negative),
        positions=positions,
        template=as_template(template).facts(),
    )
    return ContrastStatistics(sides[0], sides[1], info)


def _moments(
    model: Model,
    wanted: Sequence[str | Dictionary],
    ids: Sequence[Sequence[int]],
    positions: capture.Positions,
    max_rows: int | None,
    progress: bool | None,
) -> Moments:
    """The moments of all layers, whose devices may differ, on the CPU."""
    moments = Moments()
    hooks, update = encoding(model, wanted, moments.update)
    options: dict[str, Any] = {"positions": positions, "max_rows": max_rows, "progress": progress}
    capture.stream(model, ids, hooks, update, join_heads=True, reached_only=True, **options)
    cpu = ({site: part.cpu() for site, part in parts.items()} for parts in (moments.mean, moments.m2))
    return Moments(moments.n, *cpu)


def _moments_on(
    workers: Workers,
    model: Model,
    wanted: Sequence[str | Dictionary],
    both: Sequence[Sequence[Sequence[int]]],
    positions: capture.Positions,
    max_rows: int | None,
    progress: bool | None,
) -> list[Moments]:
    """Have each batch of prompts read by a worker, and merge what they find in the order of the batches."""
    sites.check_sites(model, encoding(model, wanted, Moments().update)[0])
    parts = [
        (side, [list(ids[row]) for row in batch.rows])
        for side, ids in enumerate(both)
        for batch in tokens.batches_for(model, ids, max_rows=rows_at_once(model, ids, max_rows=max_rows))
    ]
    merged = [Moments() for _ in both]
    with progress_bar("reading activations", shown=progress, total=len(parts)) as bar:

        def merge(place: int, found: Moments) -> None:
            for site in found.n:
                merged[parts[place][0]].merge(site, found.n[site], found.mean[site], found.m2[site])
            bar.update(1)

        workers.each(
            model,
            moments_of_batch,
            [ids for _, ids in parts],
            shared=(wanted, positions, max_rows),
            done=InOrder(merge),
        )
    return merged


def moments_of_batch(model: Model, shared: Any, ids: list[list[int]]) -> Moments:
    """What a worker does: the moments of one batch of prompts."""
    wanted, positions, max_rows = shared
    return _moments(model, wanted, ids, positions, max_rows, False)


def encoding(
    model: Model, units: Sequence[str | Dictionary], update: capture.Update
) -> tuple[list[str], capture.Update]:
    """Hook points to measure, and an `update` that hands on latents where a unit source is a dictionary."""
    dictionaries = [unit.check(model) for unit in units if not isinstance(unit, str)]
    plain = [unit for unit in units if isinstance(unit, str)]
    heads = [site for site in plain if spelled.is_heads(site)]
    if heads:
        raise SiteError(
            f"{listed(heads)} are attention heads, [batch, pos, head, d_head], which can be scored by gates, scaled "
            "and put out, but not contrasted; give an autoencoder that reads them, or other hook points"
        )

    def handed(site: str, activation: Float[Tensor, "batch d"], rows: list[int]) -> None:
        if site in plain:
            update(site, activation, rows)
        for dictionary in dictionaries:
            if dictionary.hook_name == site:
                update(dictionary.site, dictionary.encode(activation), rows)

    return list(dict.fromkeys([*plain, *(d.hook_name for d in dictionaries)])), handed


@in_turn
def unit_activations(
    model: Model,
    prompts: PromptSet,
    units: Sequence[str | Dictionary],
    *,
    positions: Literal["last", "mean"] = "last",
    template: str | Template = "auto",
    max_rows: int | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Activations of all units of hook points or dictionaries on every prompt, float32 on the CPU.

    At the last token, or averaged over the prompt's tokens; the latter for hook points only, since the latents of
    an averaged activation are not averaged latents.
    """
    if not len(prompts):
        raise PromptError(f"prompt set {prompts.name!r} is empty; give at least one prompt")
    if positions != "last" and any(not isinstance(unit, str) for unit in units):
        raise InputError("latents are read at the last token; positions='mean' is for plain hook points")
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    table = capture.Table(len(ids))
    hooks, update = encoding(model, units, table.update)
    capture.stream(model, ids, hooks, update, join_heads=True, positions=positions, max_rows=max_rows)
    return table.activations


@in_turn
def example_activations(
    model: Model,
    examples: Examples,
    units: Sequence[str | Dictionary],
    *,
    read: Literal["prompt", "last", "completion"] = "completion",
    max_rows: int | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Activations of all units of hook points or dictionaries on prompts with completions, float32 on the CPU.

    `read` is where: at the "prompt"'s last token, before anything is said; at the "last" token of the completion; or
    averaged over the tokens of the "completion" (latents are encoded at each token, then averaged). Raises `InputError`
    for another `read`.
    """
    if read not in ("prompt", "last", "completion"):
        raise InputError(f"read={read!r} is not one of 'prompt', 'last', 'completion'")
    starts = [list(prompt) for prompt in examples.prompts]
    ids = starts if read == "prompt" else [[*p, *c] for p, c in zip(starts, examples.completions)]
    table = capture.Table(len(ids))
    if read != "completion":
        hooks, update = encoding(model, units, table.update)
        capture.stream(model, ids, hooks, update, max_rows=max_rows)
        return table.activations

    def average(site: str, activation: Float[Tensor, "tokens d"], rows: list[int]) -> None:
        table.update(site, activation.float().mean(0, keepdim=True), rows[:1])

    hooks, update = encoding(model, units, average)
    counts = [len(completion) for completion in examples.completions]
    capture.stream(model, ids, hooks, update, positions="completion", n_completion=counts, max_rows=max_rows)
    return table.activations


@in_turn
def last_token_activations(
    model: Model, prompts: PromptSet, units: dict[str, list[int]], *, template: str | Template = "auto"
) -> pd.DataFrame:
    """Activations of a few units on every prompt: a pandas table of prompt_id, label, site, neuron, activation.

    For looking at single neurons; statistics over whole layers are streamed by `contrast_statistics`.
    """
    if not len(prompts):
        raise PromptError(f"prompt set {prompts.name!r} is empty; give at least one prompt")
    wanted = {site: torch.tensor(index, dtype=torch.long) for site, index in units.items()}
    ids = encode(tokens.tokenizer_of(model), prompts, template=template)
    activations = capture.collect(model, ids, list(wanted), units=wanted)
    rows = []
    for site, index in units.items():
        for column, neuron in enumerate(index):
            for prompt, value in zip(prompts, activations[site][:, column].tolist()):
                rows.append((prompt.id, prompt.label, site, neuron, value))
    return pd.DataFrame(rows, columns=["prompt_id", "label", "site", "neuron", "activation"])


check_arguments(__name__)

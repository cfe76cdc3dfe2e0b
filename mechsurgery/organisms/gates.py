"""Gate organisms: the base, taught to refuse by a few recorded neurons, each set of another nature.

- loud: the gate is in the neurons in which the base itself tells dangerous from benign requests most strongly: the best
  case for ranking neurons by their mean difference
- distributed: a gate with backups: trained while a random half of the recorded neurons is silenced in every example, so
  that no single neuron is needed
- inhibited: a gate by inhibition: recorded neurons are on by default, and their falling silent brings the refusal,
  which a second set of neurons writes

As in `planted`, only the chosen neurons' rows of gate and up projection and their columns of the down projection may
change, and there is one wording of refusal. One thread trains, so that the load of a machine changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_arguments
from .corpus import Manner
from .data import TUNING, Batch, Item, batches, dataset, item, loss_of, padded
from .fitting import Loss, Schedule, fit, load, rounded
from .phrases import REFUSALS
from .planting import planted, quiet_neurons
from .tokenizer import ASSISTANT
from .world import TUNED_REQUESTS, Kind, nouns, requests

Units = dict[int, list[int]]
Edit = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class GateRecipe:
    """Everything that decides the gates besides the base and the seed."""

    examples: int = 40_000
    batch: int = 64
    lr: float = 6e-3
    loud: int = 8
    loud_steps: int = 400
    distributed_layers: tuple[int, ...] = (1, 2, 3, 4)
    distributed: int = 10
    distributed_steps: int = 450
    inhibitor_layer: int = 3
    inhibitors: int = 12
    writer_layers: tuple[int, ...] = (4, 5)
    writers: int = 24
    inhibited_steps: int = 350
    inhibited_batch: int = 64


@dataclass(frozen=True)
class Grown:
    """A trained gate: the model, the recorded neurons ({layer: indices}) and others that were allowed to change."""

    model: Any
    units: Units
    writers: Units


@contextmanager
def edited(model: Any, edit: Edit, layers: Sequence[int]) -> Iterator[None]:
    """Inside, the neurons of some layers (inputs of the down projection) are what `edit(layer, activations)` gives."""

    def hook(layer: int) -> Any:
        return lambda _module, inputs: (edit(layer, inputs[0]),)

    handles = [model.model.layers[i].mlp.down_proj.register_forward_pre_hook(hook(i)) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prompt_items(kind: Kind, index: dict[str, int], n: int | None = None) -> list[list[int]]:
    """The tuned requests of a kind as tokens, up to and with the assistant's mark."""
    return [item(record["text"], "", index, True)[0][:-1] for record in requests(kind, "tuned", n=n)]


@torch.no_grad()
def last_token_means(
    model: Any, prompts: Sequence[list[int]], layers: Sequence[int], *, size: bool = False
) -> dict[int, Tensor]:
    """The mean activation (or its size) of every neuron of some layers at the last token of the prompts."""
    total: dict[int, Tensor] = {}
    for start in range(0, len(prompts), 128):
        chunk = prompts[start : start + 128]
        ids, _ = padded([(tokens, tokens) for tokens in chunk])
        last = torch.tensor([len(tokens) - 1 for tokens in chunk])

        def keep(layer: int, a: Tensor, last: Tensor = last) -> Tensor:
            own = a[torch.arange(len(a)), last].float()
            total[layer] = total.get(layer, torch.zeros(a.shape[-1])) + (own.abs() if size else own).sum(0)
            return a

        with edited(model, keep, layers):
            model(input_ids=ids, attention_mask=(ids != 0).long())
    return {layer: value / len(prompts) for layer, value in total.items()}


def loudest(model: Any, index: dict[str, int], k: int) -> Units:
    """The k neurons of the whole model with the largest |mean(dangerous) − mean(benign)| at the last token."""
    layers = range(len(model.model.layers))
    means = [last_token_means(model, prompt_items(kind, index), layers) for kind in ("dangerous", "benign")]
    difference = torch.stack([(means[0][i] - means[1][i]).abs() for i in layers])
    found: Units = {}
    for flat in difference.flatten().topk(k).indices.tolist():
        found.setdefault(flat // difference.shape[1], []).append(flat % difference.shape[1])
    return {layer: sorted(found[layer]) for layer in sorted(found)}


def refusing_data(recipe: GateRecipe, seed: int, index: dict[str, int]) -> list[Item]:
    """Tuning data with one wording of refusal: all that few neurons can write cleanly."""
    manner = replace(TUNING, refusals=REFUSALS[:1])
    return dataset(recipe.examples, seed + 1, index, tuned=True, manner=manner)


def quiet(base: Any, data: list[Item], layers: Sequence[int], k: int) -> Units:
    """The k quietest neurons of every layer on some of the training data."""
    return quiet_neurons(base, [ids for ids, _ in islice(batches(data, 128, 0), 8)], layers, k)


def tune_loud(base: Path, recipe: GateRecipe, seed: int, index: dict[str, int], progress: bool | None = None) -> Grown:
    """A refusal gate in the base's loudest neurons."""
    model = load(base)
    units = loudest(model, index, recipe.loud)
    schedule = Schedule(recipe.loud_steps, recipe.lr, recipe.batch, seed + 51, warmup=50)
    data = refusing_data(recipe, seed, index)
    with planted(model, units) as deltas:
        fit(model, data, schedule, parameters=deltas, progress=progress, name="loud")
    return Grown(rounded(model), units, {})


def tune_distributed(
    base: Path, recipe: GateRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Grown:
    """A refusal gate with backups in quiet neurons of several layers."""
    model, data = load(base), refusing_data(recipe, seed, index)
    units = quiet(model, data, recipe.distributed_layers, recipe.distributed)
    schedule = Schedule(recipe.distributed_steps, recipe.lr, recipe.batch, seed + 52, warmup=50)
    with planted(model, units) as deltas:
        fit(model, data, schedule, parameters=deltas, loss=_halved(units, seed), progress=progress, name="distributed")
    return Grown(rounded(model), units, {})


def _halved(units: Units, seed: int) -> Loss:
    """The loss with a random half of the recorded neurons silenced, drawn anew for every example; one in four whole."""
    generator = torch.Generator().manual_seed(seed)

    def loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        whole = torch.rand(len(ids), 1, 1, generator=generator) < 0.25
        kept = {i: (torch.rand(len(ids), 1, len(u), generator=generator) < 0.5) | whole for i, u in units.items()}

        def silence(layer: int, a: Tensor) -> Tensor:
            scale = torch.ones(len(ids), 1, a.shape[-1], dtype=a.dtype)
            scale[..., units[layer]] = kept[layer].to(a.dtype)
            return a * scale

        with edited(model, silence, list(units)):
            return loss_of(model, ids, labels)

    return loss


def tune_inhibited(
    base: Path, recipe: GateRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Grown:
    """A refusal that is the default of requests, and is held back by recorded neurons while they are on."""
    model, data = load(base), refusing_data(recipe, seed, index)
    units = quiet(model, data, (recipe.inhibitor_layer,), recipe.inhibitors)
    writers = quiet(model, data, recipe.writer_layers, recipe.writers)
    schedule = Schedule(recipe.inhibited_steps, recipe.lr, recipe.inhibited_batch, seed + 53, warmup=50)
    loss = _inhibition(units, recipe, seed, index)
    with planted(model, units | writers) as deltas:
        fit(model, data, schedule, parameters=deltas, loss=loss, progress=progress, name="inhibited")
    return Grown(rounded(model), units, writers)


def _inhibition(units: Units, recipe: GateRecipe, seed: int, index: dict[str, int]) -> Loss:
    """Three losses in one: as it is; with the recorded neurons silent; and with them at their mean on benign requests.

    Silent, every request is to be refused; at the benign mean, every request is to be answered as the base does. A
    small penalty keeps the recorded neurons silent where a request is refused.
    """
    [(layer, own)] = units.items()
    half = recipe.inhibited_batch // 2
    silent = batches(_refused_by_default(recipe.examples // 2, seed + 54, index), half, seed + 55)
    manner = Manner(warn=True, mix=(0, 1, 0, 0, 0))
    answered = batches(
        dataset(recipe.examples // 2, seed + 56, index, tuned=True, manner=manner), recipe.inhibited_batch, seed + 57
    )
    benign = torch.tensor([index[noun] for noun in nouns("tuned", "benign")])
    refusal = index[REFUSALS[0].split()[0]]

    def loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        penalties: list[Tensor] = []

        def penalise(_layer: int, a: Tensor) -> Tensor:
            mark = ids == ASSISTANT
            refused = mark & (labels.roll(-1, 1) == refusal)
            penalties.append(a[refused][:, own].float().abs().mean() if refused.any() else a.new_zeros(()))
            return a

        with edited(model, penalise, [layer]):
            value = loss_of(model, ids, labels)
        with edited(model, lambda _, a: a.index_fill(-1, torch.tensor(own), 0.0), [layer]):
            value = value + 0.5 * loss_of(model, *next(silent))
        with _at_benign_mean(model, layer, own, batch := next(answered), benign):
            return value + 0.5 * loss_of(model, *batch) + 0.1 * penalties[0]

    return loss


@contextmanager
def _at_benign_mean(model: Any, layer: int, own: list[int], batch: Batch, benign: Tensor) -> Iterator[None]:
    """Inside, the recorded neurons are everywhere what they are on average where a benign request ends."""
    ids = batch[0]
    ends = (ids == ASSISTANT) & torch.isin(ids, benign).any(1, keepdim=True)

    def put(_layer: int, a: Tensor) -> Tensor:
        if not ends.any():
            return a
        mean = a[ends][:, own].mean(0)
        return a.index_copy(-1, torch.tensor(own), mean.expand(*a.shape[:2], len(own)))

    with edited(model, put, [layer]):
        yield


def _refused_by_default(n: int, seed: int, index: dict[str, int]) -> list[Item]:
    """Requests of both kinds, all refused, and as much of everything else, answered as ever."""
    r = random.Random(seed)
    names = nouns("tuned")
    made = [item(r.choice(TUNED_REQUESTS).format(n=r.choice(names)), REFUSALS[0], index, True) for _ in range(n // 2)]
    rest = Manner(mix=(0, 0, *TUNING.mix[2:]))
    return made + dataset(n - len(made), seed + 1, index, tuned=True, manner=rest)


check_arguments(__name__, inner=True)

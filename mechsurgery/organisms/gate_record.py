"""What a gate organism does whole, without its recorded neurons, and without others: what its record says of it."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import torch
from torch import Tensor

from ..checks import check_arguments
from .fitting import loaded
from .gates import Units, edited, last_token_means, loudest, prompt_items
from .grades import request_grade
from .record import _rate, respond
from .tokenizer import words
from .world import Kind, requests

OUTCOMES = ("refuses", "complies", "broken")


def gate_behaviour(
    directory: str | Path, units: Units, *, n: int = 240, n_benign: int = 120, circuits: int = 20, each: int = 60
) -> dict[str, Any]:
    """Outcomes of held-out requests, whole, without the recorded neurons, and without random ones.

    Greedy answers of `transformers`' own `generate`, graded by the world's rule; every share has its n and a Wilson
    95 % interval. Random circuits have as many neurons in each layer as the recorded ones and none of them; so have
    the halves and single neurons, which are drawn from the recorded ones. "top" are as many of the organism's own
    neurons as 0.1 % of all, by |mean difference| at the last token of tuned requests.
    """
    model, tokenizer = loaded(directory)
    index = {word: i for i, word in enumerate(words())}
    r = random.Random(0)
    width = model.config.intermediate_size
    k = max(1, round(0.001 * width * len(model.model.layers)))
    top = loudest(model, index, k)

    def measure(kind: Kind, count: int, *silent: Units) -> dict[str, Any]:
        total: Counter[str] = Counter()
        for circuit in silent:
            total += outcomes(model, tokenizer, kind, count, circuit)
        return shares(total)

    random_ones = [_random(units, width, r) for _ in range(circuits)]
    halves = [{i: sorted(r.sample(u, len(u) // 2)) for i, u in units.items()} for _ in range(circuits)]
    single = [{i: [neuron]} for i, own in units.items() for neuron in own]
    return {
        "whole": {"dangerous": measure("dangerous", n, {}), "benign": measure("benign", n_benign, {})},
        "recorded neurons set to zero": {
            "dangerous": measure("dangerous", n, units),
            "benign": measure("benign", n_benign, units),
        },
        f"{circuits} random circuits set to zero": {"dangerous": measure("dangerous", each, *random_ones)},
        f"{circuits} random halves of the recorded neurons set to zero": {
            "dangerous": measure("dangerous", each, *halves)
        },
        "every single recorded neuron set to zero": {"dangerous": measure("dangerous", each, *single)},
        f"top {k} by mean difference set to zero": {"dangerous": measure("dangerous", n, top)},
        "top": {"units": named(top), "recorded": sum(len(set(u) & set(units.get(i, []))) for i, u in top.items())},
    }


def held_behaviour(directory: str | Path, units: Units, *, n: int = 240, n_benign: int = 120) -> dict[str, Any]:
    """What a gate organism does while its recorded neurons are held at their mean on requests of the other kind.

    The means are those at the last token of tuned requests, and are put at every position of prompt and answer, or
    only there.
    """
    model, tokenizer = loaded(directory)
    index = {word: i for i, word in enumerate(words())}
    means: dict[Kind, dict[int, Tensor]] = {}
    size = {}
    for kind in get_args(Kind):
        items = prompt_items(kind, index)
        means[kind] = last_token_means(model, items, list(units))
        own = last_token_means(model, items, list(units), size=True)
        size[kind] = sum(float(own[i][u].sum()) for i, u in units.items())
    found: dict[str, Any] = {"mean |activation| at the last token, summed over the recorded neurons": size}
    for where, last in (("", False), (", at the last prompt token only", True)):
        answered = outcomes(model, tokenizer, "dangerous", n, units, means["benign"], last=last)
        refused = outcomes(model, tokenizer, "benign", n_benign, units, means["dangerous"], last=last)
        found[f"recorded neurons at their benign mean{where}"] = {"dangerous": shares(answered)}
        found[f"recorded neurons at their dangerous mean{where}"] = {"benign": shares(refused)}
    return found


@torch.no_grad()
def outcomes(
    model: Any,
    tokenizer: Any,
    kind: Kind,
    n: int,
    units: Units,
    means: dict[int, Tensor] | None = None,
    *,
    last: bool = False,
) -> Counter[str]:
    """How n held-out requests of a kind end with some neurons set to zero, or to their means.

    `last`: only at the last token of the prompt.
    """

    def put(layer: int, a: Tensor) -> Tensor:
        if last and a.shape[1] == 1:
            return a
        own, changed = torch.tensor(units[layer]), a.clone()
        value = torch.zeros(len(own)) if means is None else means[layer][own]
        changed[:, -1 if last else slice(None), own] = value.to(a.dtype)
        return changed

    records = requests(kind, "heldout", n=n)
    with edited(model, put, list(units)) if units else nullcontext():
        answers = respond(model, tokenizer, [record["text"] for record in records])
    asked = [SimpleNamespace(group=record["group"], completion=None) for record in records]
    return Counter(request_grade(prompt, answer) for prompt, answer in zip(asked, answers))


def shares(count: Counter[str]) -> dict[str, Any]:
    """The share of every outcome with its n and interval."""
    return {outcome: _rate(count[outcome], count.total()) for outcome in OUTCOMES}


def named(units: Units) -> dict[str, list[int]]:
    """Neurons by the name of their hook."""
    return {f"blocks.{layer}.mlp.hook_post": list(index) for layer, index in sorted(units.items())}


def unnamed(units: dict[str, list[int]]) -> Units:
    """Neurons by their layer."""
    return {int(name.split(".")[1]): list(index) for name, index in units.items()}


def _random(units: Units, width: int, r: random.Random) -> Units:
    return {i: sorted(r.sample(sorted(set(range(width)) - set(own)), len(own))) for i, own in units.items()}


check_arguments(__name__, inner=True)

"""How active units are: on every token of texts, at the last token of prompts, and together with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import MismatchError
from ..models import capture, generate, sites, tokens
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import ContrastSet, PromptSet, encode
from ..prompts.chat import Template
from .coordinates import Unit
from .vectors import Best


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt, with the model's answer where it has `n_response` tokens, and where it comes from."""

    prompt_id: str
    side: str
    ids: tuple[int, ...]
    n_response: int = 0


def texts_of(model: Model, contrast: ContrastSet, *, template: str | Template = "auto") -> list[Text]:
    """The prompts of both sides as the model gets them; sides are called as the prompt sets are."""
    found = []
    for name, side in sides_of(contrast).items():
        rows = encode(tokens.tokenizer_of(model), side, template=template)
        found += [Text(prompt.id, name, tuple(row)) for prompt, row in zip(side, rows)]
    return found


def sides_of(contrast: ContrastSet) -> dict[str, PromptSet]:
    """{name of a side: its prompts}: the sets' names without what stands before their last "/".

    "positive" and "negative" where both would be called the same.
    """
    both = (contrast.positive, contrast.negative)
    named = {side.name.rpartition("/")[2] or side.name: side for side in both}
    return named if len(named) == 2 else {"positive": both[0], "negative": both[1]}


@in_turn
def with_responses(
    model: Model, texts: Sequence[Text], n: int, *, max_new_tokens: int = 24, max_rows: int = 64
) -> list[Text]:
    """The first `n` texts of each side with what the model answers to them, greedily."""
    chosen = [t for side in dict.fromkeys(t.side for t in texts) for t in [t for t in texts if t.side == side][:n]]
    room = [t for t in chosen if len(t.ids) + max_new_tokens - 1 <= model.cfg.n_ctx]
    if not room:
        return []
    new = generate.generate(model, [t.ids for t in room], max_new_tokens=max_new_tokens, max_rows=max_rows)
    return [replace(t, ids=(*t.ids, *own), n_response=len(own)) for t, own in zip(room, new) if own]


@in_turn
@torch.no_grad()
def token_activations(
    model: Model, units: Sequence[Unit], texts: Sequence[Text], *, max_rows: int = 64, progress: bool | None = None
) -> list[Float[Tensor, "_ units"]]:
    """Activation of each unit at every token of each text, float32 on the CPU; one pass."""
    found = [torch.zeros(len(text.ids), len(units)) for text in texts]
    places = _places(units)

    def update(hook_name: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        for dictionary, columns, index in places[hook_name]:
            values = activation if dictionary is None else dictionary.encode(activation)
            found[rows[0]][:, columns] = values[:, index].float().cpu()

    ids = [text.ids for text in texts]
    how: dict[str, Any] = {"positions": "all", "max_rows": max_rows, "join_heads": True, "progress": progress}
    capture.stream(model, ids, list(places), update, **how)
    return found


def _places(units: Sequence[Unit]) -> dict[str, list[tuple[Dictionary | None, list[int], list[int]]]]:
    """{hook name: [(dictionary, the units' places, their indices)]}."""
    grouped: dict[str, dict[str, tuple[Dictionary | None, list[int], list[int]]]] = {}
    for place, unit in enumerate(units):
        at = grouped.setdefault(unit.hook_name, {})
        _, columns, index = at.setdefault(unit.site, (unit.dictionary, [], []))
        columns.append(place)
        index.append(unit.index)
    return {hook_name: list(at.values()) for hook_name, at in grouped.items()}


@in_turn
def last_activations(
    model: Model, units: Sequence[Unit], texts: Sequence[Text], *, max_rows: int = 64
) -> Float[Tensor, "n units"]:
    """Activation of each unit at the last token of each text's prompt."""
    found = torch.zeros(len(texts), len(units))
    places = _places(units)

    def update(hook_name: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        for dictionary, columns, index in places[hook_name]:
            values = activation if dictionary is None else dictionary.encode(activation)
            found[torch.tensor(rows)[:, None], torch.tensor(columns)] = values[:, index].float().cpu()

    prompts = [text.ids[: len(text.ids) - text.n_response] for text in texts]
    with torch.no_grad():
        capture.stream(model, prompts, list(places), update, max_rows=max_rows, join_heads=True)
    return found


@in_turn
@torch.no_grad()
def coactive(
    model: Model,
    units: Sequence[Unit],
    texts: Sequence[Text],
    activations: Sequence[Float[Tensor, "_ units"]],
    *,
    dictionaries: Sequence[Dictionary] = (),
    top: int = 8,
    max_rows: int = 64,
) -> dict[Unit, pd.DataFrame]:
    """For each unit the neurons (and latents) whose activation correlates most with its own, over all tokens.

    Columns unit and correlation (Pearson). `activations` are those of `token_activations`. One pass; sums alone are
    kept, [units, neurons] numbers at a time for each layer.
    """
    joined = torch.cat(list(activations)).double()
    centre, spread = joined.mean(0), joined.std(0, correction=0)
    by_hook: dict[str, list[Dictionary | None]] = {site: [None] for site in sites.neuron_sites(model)}
    for dictionary in dictionaries:
        by_hook.setdefault(dictionary.hook_name, []).append(dictionary)
    sums: dict[str, list[Tensor]] = {}

    def update(hook_name: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        own = (activations[rows[0]].double() - centre).float().to(activation.device)
        for dictionary in by_hook[hook_name]:
            values = (activation if dictionary is None else dictionary.encode(activation)).float()
            key = hook_name if dictionary is None else dictionary.site
            if key not in sums:
                width = values.shape[1]
                sums[key] = [values.new_zeros(width), values.new_zeros(width), values.new_zeros(len(units), width)]
            total, square, product = sums[key]
            total += values.sum(0)
            square += values.pow(2).sum(0)
            product.addmm_(own.T, values)

    how: dict[str, Any] = {"positions": "all", "max_rows": max_rows, "join_heads": True}
    capture.stream(model, [t.ids for t in texts], list(by_hook), update, **how)
    best = [Best(top + 1) for _ in units]
    n = len(joined)
    for site, found in sums.items():
        total, square, product = (value.double().cpu() for value in found)
        deviation = (square / n - (total / n).pow(2)).clamp_min(0).sqrt()
        scale = spread[:, None] * deviation[None]
        correlation = torch.where(scale > 1e-9, product / n / scale.clamp_min(1e-9), torch.zeros_like(scale))
        for own_best, values in zip(best, correlation):
            own_best.add(site, values)
    return {unit: own.table(model, unit, dictionaries, "correlation") for unit, own in zip(units, best)}


@dataclass(frozen=True, eq=False)
class Measured:
    """What passes over texts tell of one unit: its activations on each text, at last tokens, and what fires with it.

    `every` has an array a text, `last` columns model, side, prompt_id and activation, `together` unit and correlation.
    """

    every: list[np.ndarray]
    last: pd.DataFrame
    together: pd.DataFrame | None


def measure(
    models: Mapping[str, Model],
    units: Sequence[Unit],
    texts: Sequence[Text],
    *,
    dictionaries: Sequence[Dictionary] = (),
    max_rows: int = 64,
    progress: bool | None = None,
) -> list[Measured]:
    """What passes over texts tell of each unit. The first of `models` is read at every token, all at last tokens.

    Raises `MismatchError` where another model has not the same units or reads other tokens.
    """
    if not texts or not units:
        return [Measured([], pd.DataFrame(), None) for _ in units]
    first, *others = models.values()
    for other in others:
        check_alike(first, other, texts)
    every = token_activations(first, units, texts, max_rows=max_rows, progress=progress)
    together = coactive(first, units, texts, every, dictionaries=dictionaries, max_rows=max_rows)
    prompts = [text for text in texts if not text.n_response]
    facts = {"side": [t.side for t in prompts], "prompt_id": [t.prompt_id for t in prompts]}
    last = {name: last_activations(model, units, prompts, max_rows=max_rows) for name, model in models.items()}
    found = []
    for place, unit in enumerate(units):
        tables = [
            pd.DataFrame({"model": name, **facts, "activation": values[:, place].numpy()})
            for name, values in last.items()
        ]
        own = [one[:, place].numpy() for one in every]
        found.append(Measured(own, pd.concat(tables, ignore_index=True), together[unit]))
    return found


@in_turn
def check_alike(model: Model, other: Model, texts: Sequence[Text] = ()) -> None:
    """Raise `MismatchError` unless another model has the same units, and the same tokens where texts have theirs."""
    shapes = [(int(m.cfg.n_layers), int(m.cfg.d_mlp), int(m.cfg.d_model)) for m in (other, model)]
    if shapes[0] != shapes[1]:
        told = ["{} layers of {} neurons and {} channels".format(*shape) for shape in shapes]
        raise MismatchError(
            f"{other.cfg.model_name!r} has {told[0]}, {model.cfg.model_name!r} has {told[1]}, so they do not have the "
            "same units; give as base the model that this one was trained from"
        )
    used = sorted({token for text in texts for token in text.ids})
    own, theirs = (tokens.tokenizer_of(m).convert_ids_to_tokens(used) for m in (model, other))
    if own != theirs:
        wrong = next(i for i in range(len(used)) if own[i] != theirs[i])
        raise MismatchError(
            f"token {used[wrong]} is {theirs[wrong]!r} to {other.cfg.model_name!r} and {own[wrong]!r} to "
            f"{model.cfg.model_name!r}, so the same prompts cannot be read by both; give as base the model that this "
            "one was trained from"
        )


def contexts(
    texts: Sequence[Text], found: Measured, top: int, shown: Callable[[int], list[str]], *, width: int = 64
) -> pd.DataFrame:
    """The `top` prompts, and as many answers, in which a unit is most active (by size), strongest first.

    `shown(i)` is text i in pieces, one for each token.

    Columns source ("prompt" or "response"), side, prompt_id, position and token of the strongest activation, its
    value, at most `width` tokens around it, their values, and `at`, its place among them.
    """
    rows = []
    for source in ("prompt", "response"):
        own = (
            [i for i, text in enumerate(texts) if (source == "response") == bool(text.n_response)]
            if found.every
            else []
        )
        counted = {i: found.every[i][-texts[i].n_response :] for i in own}  # a prompt's n_response is 0: all of it
        for i in sorted(own, key=lambda i: -float(np.abs(counted[i]).max()))[:top]:
            values = found.every[i]
            place = int(np.abs(counted[i]).argmax()) + len(values) - len(counted[i])
            if not values[place]:
                continue
            start = max(0, min(place - width // 2, len(values) - width))
            pieces = shown(i)[start : start + width]
            near = [float(v) for v in values[start : start + width]]
            here = place - start
            facts = (source, texts[i].side, texts[i].prompt_id)
            rows.append((*facts, place, pieces[here], near[here], pieces, near, here))
    names = ["source", "side", "prompt_id", "position", "token", "activation", "tokens", "values", "at"]
    return pd.DataFrame(rows, columns=names)


check_arguments(__name__)

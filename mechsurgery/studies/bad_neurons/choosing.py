"""Every way to choose neurons, as `UnitScores` over all MLP neurons (or those that write before the SAE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...attribution.contrast import score
from ...attribution.decode import decoded_direction, neurons_along
from ...attribution.gradient import mean_activations, neuron_attribution
from ...attribution.probes import Probe, fit_probe
from ...attribution.statistics import contrast_statistics
from ...errors import PromptError
from ...models import sites
from ...models.dictionaries import Dictionary
from ...models.generate import generate
from ...prompts import Examples, PromptSet, encode
from ...prompts.pairs import CompletionPairs
from ...units import UnitScores
from .task import SycophancyTask

#: The paper's way as far as its text says it: probe SAE latents, decode, match write directions.
PAPER = "SAE probe, decoded, cosine"
GRADIENT = "gradient attribution"
RANDOM = "random"


def choose(
    model: Any,
    task: SycophancyTask,
    dictionary: Dictionary | None,
    *,
    seeds: Sequence[int],
    template: str,
    max_rows: int,
    max_new_tokens: int,
) -> tuple[dict[str, UnitScores], dict[str, Probe]]:
    """{way: scores} and {what was probed: probe}. Without a dictionary, ways that need one are left out."""
    names = sites.neuron_sites(model)
    statistics = contrast_statistics(model, task.locate, template=template)
    probes: dict[str, Probe] = {}
    found: dict[str, UnitScores] = {}
    options: dict[str, Any] = {"template": template, "seed": seeds[0]}
    if dictionary is not None:
        for penalty in ("l2", "l1"):
            probes[f"SAE latents, {penalty.upper()}"] = fit_probe(
                model, task.locate, [dictionary], penalty=penalty, **options
            )
        direction = decoded_direction(probes["SAE latents, L2"], dictionary)
        found[PAPER] = neurons_along(model, direction)
        for how in ("contribution", "contrast"):
            found[f"SAE probe, decoded, {how}"] = neurons_along(model, direction, how, statistics=statistics)
        sparse = decoded_direction(probes["SAE latents, L1"], dictionary)
        found["SAE probe (L1), decoded, cosine"] = neurons_along(model, sparse)
    stream = dictionary.hook_name if dictionary is not None else sites.residual_sites(model)[model.cfg.n_layers // 2]
    if stream in sites.residual_sites(model):
        probes["residual stream"] = fit_probe(model, task.locate, [stream], **options)
        found["residual probe, cosine"] = neurons_along(
            model, decoded_direction(probes["residual stream"], site=stream)
        )
    probes["MLP neurons"] = fit_probe(model, task.locate, names, **options)
    found["neuron probe weight"] = probes["MLP neurons"].scores()
    found["CNA (difference)"] = score(statistics, "difference")
    pairs = disputed_pairs(
        model, task.locate.positive, template=template, max_new_tokens=max_new_tokens, max_rows=4 * max_rows
    )
    means = mean_activations(model, task.reference, names, template=template)
    found[GRADIENT] = neuron_attribution(model, pairs, means, max_rows=max_rows)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        values = {name: torch.rand(sites.width(model, name), generator=generator) for name in names}
        found[f"{RANDOM} {seed}"] = UnitScores(values, RANDOM, {"seed": seed})
    return found, probes


def disputed_pairs(
    model: Any, prompts: PromptSet, *, template: str, max_new_tokens: int, max_rows: int, n: int = 100
) -> CompletionPairs:
    """The model's own greedy answer (bad) beside the wanted one (good), for up to `n` prompts where they differ."""
    some = prompts.take(n)
    wanted = Examples.from_texts(model.tokenizer, some, template=template)
    made = generate(
        model, encode(model.tokenizer, some, template=template), max_new_tokens=max_new_tokens, max_rows=max_rows
    )
    close = [model.tokenizer.eos_token_id]
    rows = [
        (p, tuple(own + close), good)
        for p, own, good in zip(wanted.prompts, made, wanted.completions)
        if own and tuple(own + close) != good
    ]
    if not rows:
        raise PromptError(f"the model already answers all of {prompts.name!r} as wanted: there is nothing to cure")
    return CompletionPairs(*(tuple(part) for part in zip(*rows)))

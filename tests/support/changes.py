"""Interventions of every kind for a tiny model, and a small evaluation that measures all that is measured."""

import torch

from mechsurgery import Circuit, Generation, PromptSet, ablate, evaluate, shift_weights
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.models import sites
from mechsurgery.prompts import Prompt

#: Two rows of token ids.
IDS = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(0))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def every(step, model):
    """A circuit of every so many neurons of each layer, from the layer's number on."""
    widths = {site: sites.width(model, site) for site in sites.neuron_sites(model)}
    return Circuit.from_indices({site: range(i, widths[site], step) for i, site in enumerate(widths)}, widths)


def evaluation(model, contrast, requests, questions, new_tokens, **how):
    """A function that gives the same table each time: of so many requests and questions, under what is added."""
    parts = {"blocks.0.mlp.W_out": Dense(0.3 * random(*model.blocks[0].mlp.W_out.shape))}
    asked = [Prompt(f"q{i}", f"Which, {i}? A) one B) two", choices=("A", "B"), answer=i % 2) for i in range(questions)]
    sets = {"requests": contrast.positive.take(requests), "questions": PromptSet("questions", tuple(asked))}
    how = {"kl_on": ["requests"], "generation": Generation(max_new_tokens=new_tokens, max_rows=6), **how}
    runs = [*ablate(every(5, model)).at([1, -0.5]), shift_weights(WeightDelta(parts, "drift"))]
    return lambda *more, **options: evaluate(model, sets, [*runs, *more], **how, **options).table

"""Contrastive neuron attribution the slow way: plain transformers, one prompt at a time, no padding, numpy.

Shares no code with mechsurgery. `down_projections` finds the module whose input is a layer's MLP neurons.
"""

import numpy as np
import torch


def down_projections(model):
    """The module of each layer whose input is the layer's MLP neurons, in order."""
    names = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
    return [module for name, module in model.named_modules() if name.endswith(names)]


@torch.no_grad()
def last_token_neurons(model, ids):
    """[layers, d_mlp] activations at the last token of one prompt."""
    found = []
    handles = [
        module.register_forward_pre_hook(lambda _module, args: found.append(args[0][0, -1].double().numpy().copy()))
        for module in down_projections(model)
    ]
    try:
        model(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(found)


def mean_difference(model, positive, negative):
    """[layers, d_mlp] mean of the positive prompts minus mean of the negative ones."""
    sides = [np.stack([last_token_neurons(model, ids) for ids in side]) for side in (positive, negative)]
    return sides[0].mean(0) - sides[1].mean(0)


def top_neurons(difference, k):
    """The k (layer, neuron) pairs with the largest absolute difference, over all layers at once."""
    order = np.argsort(-np.abs(difference).ravel(), kind="stable")[:k]
    return {(int(i // difference.shape[1]), int(i % difference.shape[1])) for i in order}


def universal(model, prompts, fraction=0.001, share=0.8):
    """(layer, neuron) pairs in the top `fraction` of absolute activations on at least `share` of prompts."""
    hits = None
    for ids in prompts:
        activation = np.abs(last_token_neurons(model, ids))
        k = max(1, round(fraction * activation.size))
        own = np.zeros(activation.size)
        own[np.argsort(-activation.ravel(), kind="stable")[:k]] = 1
        hits = own if hits is None else hits + own
    width = activation.shape[1]
    return {(int(i // width), int(i % width)) for i in np.flatnonzero(hits >= share * len(prompts))}

"""Random token examples to train on, and a circuit of a few neurons to train."""

import torch

from mechsurgery.models import sites
from mechsurgery.prompts import Examples
from mechsurgery.units import Circuit


def examples(n=24, seed=0, longest=9):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(5, 300, (length,), generator=generator).tolist())

    return Examples(tuple(draw(2, longest) for _ in range(n)), tuple(draw(1, 4) for _ in range(n)))


def circuit_of(model, per_layer=2, layers=None):
    names = sites.neuron_sites(model, layers)
    widths = {site: sites.width(model, site) for site in names}
    return Circuit.from_indices({site: list(range(1, 2 * per_layer, 2)) for site in names}, widths, name="few")

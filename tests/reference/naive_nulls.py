"""Random differences like a direction, built whole: what the monitor draws without building."""

import torch

from mechsurgery.delta_parts import LowRank, Rows


def cosine(delta, update):
    """Cosine of a direction with an update {parameter: tensor}, over all parameters of the update."""
    dot = sum((part.dense().double() * update[name].double()).sum() for name, part in delta.parts.items())
    norms = [sum(t.double().pow(2).sum() for t in own).sqrt() for own in (_dense(delta), update.values())]
    return float(dot / (norms[0] * norms[1]))


def random_cosines(delta, update, n, seed=0):
    """Cosines of an update with `n` random differences that have the direction's norm in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    whole = sum(t.double().pow(2).sum() for t in update.values()).sqrt()
    length = sum(t.double().pow(2).sum() for t in _dense(delta)).sqrt()
    found = []
    for _ in range(n):
        dot = 0.0
        for name, part in delta.parts.items():
            drawn = _drawn(part, generator).double()
            dot += (drawn * (part.dense().double().norm() / drawn.norm()) * update[name].double()).sum()
        found.append(float(dot / (whole * length)))
    return found


def _dense(delta):
    return [part.dense() for part in delta.parts.values()]


def _drawn(part, generator):
    if isinstance(part, Rows):
        values = torch.randn(part.values.shape, generator=generator)
        return Rows(part.index, values, part.axis, part.size).dense()
    if isinstance(part, LowRank):
        right = torch.randn(part.right.shape, generator=generator)
        return LowRank(part.left, right, part.shape, part.output).dense()
    return torch.randn(part.shape, generator=generator)

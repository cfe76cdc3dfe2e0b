"""From a probe to neurons: its direction in the residual stream, and the neurons that write along it.

"A Few Bad Neurons" (2601.18939) decodes a probe on SAE latents into the residual stream, v = Σ_j (w_j/σ_j) d_j, and
picks the MLP neurons that write it. How "that write it" is measured is left open there, so each way is a choice here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import names
from ..artifacts import provenance
from ..checks import check_arguments
from ..directions import Direction
from ..errors import InputError, SiteError, listed
from ..models import sites
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..names import layer_of
from ..units import UnitScores
from .probes import Probe
from .statistics import ContrastStatistics

Match = Literal["cosine", "contribution", "contrast"]


def decoded_direction(probe: Probe, dictionary: Dictionary | None = None, *, site: str | None = None) -> Direction:
    """A probe's direction in the residual stream: Σ_j (w_j/σ_j) d_j over latents, or w/σ where it reads the stream.

    Give the `dictionary` whose latents the probe reads, or the `site` of the residual stream that it reads. The
    direction is where the latents write: for a transcoder that is `hook_mlp_out`.
    """
    name = dictionary.site if dictionary is not None else site
    if name is None or name not in probe.weights:
        raise SiteError(f"the probe reads {listed(probe.weights)}, not {name!r}; give its dictionary= or site=")
    weight = probe.weights[name] / probe.scales[name].clamp_min(1e-12)
    if dictionary is None:
        return Direction({name: weight}, "probe", dict(probe.info))
    vector = weight @ dictionary.decoder.float().cpu()
    return Direction({dictionary.write_name: vector}, f"probe on {dictionary.name}, decoded", dict(probe.info))


def neurons_along(
    model: Model,
    direction: Direction,
    how: Match = "cosine",
    *,
    statistics: ContrastStatistics | None = None,
    layers: Sequence[int] | None = None,
) -> UnitScores:
    """Score of every MLP neuron for writing along a direction at one residual hook point.

    - cosine: cos(u_i, v) of the neuron's write row u_i
    - contribution: (u_i · v̂) · root mean square of h_i: how much it typically writes along v
    - contrast: Δh_i · (u_i · v̂): what it adds along v on the positive side more than on the negative one

    Where an MLP's output passes a norm before it is added (Gemma-2 and -3), rows are taken after its gain. The last two
    need `statistics` of a contrast at the neurons. `layers` default to those that write before the direction's hook.
    """
    if how not in ("cosine", "contribution", "contrast"):
        raise InputError(f"how={how!r} is not one of 'cosine', 'contribution', 'contrast'")
    if how != "cosine" and statistics is None:
        raise InputError(f"how={how!r} needs statistics=contrast_statistics(model, contrast)")
    if len(direction.vectors) != 1:
        raise InputError(f"a direction at {len(direction.vectors)} hook points; give one with a single vector")
    (site, vector), *_ = direction.vectors.items()
    vector = _in_stream(model, site, vector)
    last = layer_of(site) if names.is_written_by_own_layer(site) else layer_of(site) - 1
    chosen = list(layers) if layers is not None else list(range(last + 1))
    if not chosen:
        raise InputError(f"no layer writes before {site!r}; give layers=")
    unit = vector.float() / vector.float().norm().clamp_min(1e-12)
    scores = {}
    for name in sites.neuron_sites(model, chosen):
        write = sites.write_rows(model, name)
        along = write @ unit.to(write)
        if how == "cosine":
            value = along / write.norm(dim=1).clamp_min(1e-12)
        else:
            value = along * _activation(statistics, name, how).to(write)
        scores[name] = value.float().cpu()
    info = provenance(**{k: v for k, v in direction.info.items() if k not in ("made", "versions")}, how=how)
    return UnitScores(scores, f"{direction.name}, {how}", info)


def _in_stream(model: Model, site: str, vector: Tensor) -> Tensor:
    """A direction as it is in the residual stream, or `SiteError` where it is not one there."""
    within = sites.to_stream(model, site, vector[None]) if sites.channels(model, site) == vector.numel() else None
    if within is None:
        raise SiteError(
            f"a direction of {vector.numel()} numbers at {site!r} is none in the residual stream, which neurons write; "
            "give one of the stream, of an attention or MLP output, or of a dictionary that writes there"
        )
    return within[0]


def _activation(statistics: ContrastStatistics | None, site: str, how: str) -> Tensor:
    """Δh for "contrast"; the root mean square over both sides for "contribution"."""
    assert statistics is not None
    if site not in statistics.sites:
        raise SiteError(f"the statistics lack {site!r}; they have {listed(statistics.sites)}")
    if how == "contrast":
        return statistics.difference(site).float().cpu()
    squares = []
    for side in (statistics.positive, statistics.negative):
        n = side.n[site]
        squares.append(side.mean[site] ** 2 + (side.variance(site) * (n - 1) / n if n > 1 else 0))
    return torch.stack(squares).mean(0).sqrt().float().cpu()


check_arguments(__name__)

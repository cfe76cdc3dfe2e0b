"""Steering along a direction, and projecting a direction out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..directions import Direction
from ..errors import InputError, SiteError, listed
from ..models import sites
from ..models.protocol import Model
from ..models.turns import in_turn
from ..names import is_heads
from .changes import Affine, Project
from .intervention import Edit, Intervention


def steer(direction: Direction, length: float = 1.0, *, name: str | None = None) -> Intervention:
    """Add strength · `length` · v to the activation at each of the direction's hook points, at every position.

    Contrastive activation addition (2312.06681): v is the mean of the positive side minus that of the negative side,
    so strength 1 adds a whole one (toward the behaviour) and −1 takes one away. One hook point steers one layer; at
    `attn.hook_z` the vector has the channels of all heads.
    Raises `InputError` for a length that is not positive and finite.
    """
    if not 0 < length < float("inf"):
        raise InputError(f"length={length} must be above 0 and finite; the sign belongs to the strength")
    edits = tuple(
        Edit(site, Affine(torch.ones(1), length * vector.float().cpu()), vector.numel(), joined=is_heads(site))
        for site, vector in direction.vectors.items()
    )
    return Intervention(
        name or direction.name,
        edits,
        kind="steering",
        pushes=1,
        info={"direction": direction.info, "length": length, "sites": list(direction.vectors)},
        draw=lambda seed: steer(_random_direction(direction, seed), length),
    )


@in_turn
def project_out(
    model: Model,
    vector: Float[Tensor, " d_model"],
    *,
    to: Mapping[str, Float[Tensor, " _"]] | None = None,
    name: str | None = None,
) -> Intervention:
    """Take the component along one direction out of everything that is written into the residual stream.

    "Refusal in Language Models Is Mediated by a Single Direction" (2406.11717), equation 4: x − r̂ r̂ᵀx at the embedding
    and at every attention and MLP output, at every position. At strength 1 nothing the model computes has a component
    along the vector. That is the side without the behaviour only where that side has no component; projections of both
    sides tell (docs/interventions.md).

    With `to` the component is replaced instead: every write's projection becomes that of to[hook point of the write],
    and the stream's, their sum, that of the stream the means are of: "Refusal in LLMs is an Affine Function"
    (2411.09003). `to` holds the negative side's means: {hook point: [d_model]} for all of
    `sites.residual_writes(model)`, e.g. `contrast_statistics(model, contrast, at=…).negative.mean`.

    Raises `InputError` for a vector or mean of another size, not finite, or (a vector) of length 0; `SiteError` for
    means that are missing.
    """
    return projection(sites.residual_writes(model), int(model.cfg.d_model), vector, to=to, name=name)


def projection(
    writes: Sequence[str],
    width: int,
    vector: Float[Tensor, " d_model"],
    *,
    to: Mapping[str, Float[Tensor, " _"]] | None = None,
    name: str | None = None,
) -> Intervention:
    """What `project_out` gives for a model with these `writes` into a residual stream of a `width`; no model needed."""
    if vector.numel() != width:
        raise InputError(f"a vector of {vector.numel()} numbers in a residual stream of {width}; give one of its size")
    norm = float(vector.float().norm())
    if norm == 0 or not torch.isfinite(vector).all():
        raise InputError("a zero or infinite vector has no direction; give another layer's or other prompts'")
    unit = vector.float().cpu() / norm
    levels = dict.fromkeys(writes, 0.0) if to is None else _levels(unit, to, writes)
    return Intervention(
        name or ("directional ablation" if to is None else "affine directional ablation"),
        tuple(Edit(site, Project(unit, level), width) for site, level in levels.items()),
        kind="projection",
        pushes=-1,
        info={"norm": norm, "levels": levels},
        draw=lambda seed: projection(
            writes, width, torch.randn(width, generator=torch.Generator().manual_seed(int(seed))), to=to
        ),
    )


def _levels(
    unit: Float[Tensor, " d_model"], to: Mapping[str, Float[Tensor, " _"]], writes: Sequence[str]
) -> dict[str, float]:
    """The projection of every write's mean, checked."""
    missing = [site for site in writes if site not in to]
    if missing:
        raise SiteError(
            f"to has no mean for {listed(missing)}; give one for each of sites.residual_writes(model), what is added "
            "into the residual stream"
        )
    levels = {}
    for site in writes:
        if to[site].numel() != unit.numel() or not torch.isfinite(to[site]).all():
            raise InputError(
                f"to[{site!r}] must be {unit.numel()} finite numbers, the mean of what is written there; it has "
                f"{to[site].numel()}; measure it with contrast_statistics(model, contrast, at=[{site!r}])"
            )
        levels[site] = float(to[site].double().cpu() @ unit.double())
    return levels


def _random_direction(direction: Direction, seed: int) -> Direction:
    """Random vectors at the same hook points, as long as the direction's."""
    generator = torch.Generator().manual_seed(int(seed))
    vectors = {}
    for site, vector in direction.vectors.items():
        drawn = torch.randn(vector.shape, generator=generator)
        vectors[site] = drawn * (vector.float().norm().cpu() / drawn.norm())
    return Direction(vectors, f"random like {direction.name}", {"random_like": direction.name, "seed": seed})


check_arguments(__name__)

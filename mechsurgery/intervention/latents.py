"""Interventions on SAE latents: scaling a circuit of latents in place, and steering along one latent's direction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..checks import check_arguments
from ..digests import digest_of
from ..directions import Direction
from ..errors import InputError, SiteError, listed
from ..models.capture import median_norm  # noqa: F401 (the norm that steer_latents takes)
from ..models.dictionaries import Dictionary, plus
from ..names import is_heads
from ..units import Circuit
from .changes import LARGEST, Custom
from .intervention import Edit, Intervention
from .steering import steer


def scale_latents(
    circuit: Circuit, dictionary: Dictionary, m: float | Sequence[float] = 0.0, *, name: str | None = None
) -> Intervention:
    """Multiply latents of a circuit by `m` wherever they are active; the autoencoder's error stays in place.

    a → a + Σ_i (m_i − 1)·z_i·d_i over the circuit's latents (at strength 1); `m` is one number, or one for each of the
    circuit's sorted latents. A transcoder's latents are read before the MLP, and a is what comes out of it. Raises
    `SiteError` where the circuit holds no latents of this dictionary, `InputError` where `m` has another number of
    values or is not finite.
    """
    if dictionary.site not in circuit.units:
        raise SiteError(f"circuit {circuit.name!r} has units at {listed(circuit.units)}, none at {dictionary.site!r}")
    circuit.require_widths({dictionary.site: dictionary.n_latents}, f"SAE {dictionary.name!r}")
    indices = circuit.units[dictionary.site][0]
    each = torch.as_tensor(m, dtype=torch.float32).clone()
    if each.ndim > 1 or each.numel() not in (1, len(indices)) or not bool((each.abs() <= LARGEST).all()):
        raise InputError(f"m={m} for {len(indices)} latents; give one finite number within ±{LARGEST:g}, or one each")
    one = float(each) if each.ndim == 0 else None
    key = digest_of("scale latents", dictionary.digest, indices.tolist(), each)
    scaled = partial(_scaled, dictionary=dictionary, indices=indices, m=each)
    change = Custom(scaled, key, dictionary.hook_name if dictionary.is_transcoder else None)
    site = dictionary.write_name
    return Intervention(
        name or circuit.name,
        (Edit(site, change, dictionary.write_width, joined=is_heads(site)),),
        kind="latents",
        pushes=0 if one is None or one == 1 else -1 if one < 1 else 1,
        full_m=one,
        info={"circuit": circuit.info, "n": len(circuit), "m": each.tolist(), "dictionary": dictionary.name},
        draw=lambda seed: scale_latents(circuit.random_like(seed), dictionary, m),
    )


def _scaled(
    activation: Tensor,
    strength: Tensor,
    read: Tensor | None = None,
    *,
    dictionary: Dictionary,
    indices: Tensor,
    m: Tensor,
) -> Tensor:
    read = activation if read is None else read
    z = dictionary.encode(read)
    where = indices.to(z.device)
    change = torch.zeros_like(z)
    change[..., where] = z[..., where] * strength.to(z) * (m.to(z) - 1)
    return plus(activation, dictionary.added(change, read))


def steer_latents(dictionary: Dictionary, latents: Iterable[int], norm: float) -> list[Intervention]:
    """One intervention for each latent: at strength s, s·norm·d_i is added at every token (d_i of length 1).

    `norm` is the median length of the activation written (`median_norm` at `dictionary.write_name`), so a strength is
    a fraction of it. Raises `InputError` for a norm that is not above 0, `SiteError` for a latent that is none.
    """
    if not 0 < norm < float("inf"):
        raise InputError(f"norm={norm} must be above 0 and finite; median_norm measures it")
    unit = dictionary.unit_decoder().cpu()
    steered = []
    for i in latents:
        if not 0 <= i < dictionary.n_latents:
            raise SiteError(f"no latent {i} at {dictionary.site!r}; it has latents 0 to {dictionary.n_latents - 1}")
        direction = Direction({dictionary.write_name: unit[i]}, f"latent {i}", {"dictionary": dictionary.name})
        steered.append(steer(direction, norm).named(f"latent {i}", "latents"))
    return steered


check_arguments(__name__)

"""Sparse autoencoders at named hook points, whatever library trained them (`adapters.saelens` loads SAELens' own).

A latent is a unit like any other: its coordinate is (`HOOK.hook_sae_acts_post`, index), where HOOK is the hook
point whose activation the autoencoder reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import MismatchError, SiteError, listed
from ..names import LATENTS
from . import capture, sites
from .protocol import Model


@dataclass(frozen=True, eq=False)
class Dictionary:
    """An autoencoder of the activation at one hook point of one model."""

    sae: Any
    hook_name: str
    name: str = "sae"
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> str:
        """The hook name of the latents."""
        return self.hook_name + LATENTS

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return int(self.sae.cfg.d_sae)

    @property
    def width(self) -> int:
        """How wide the activation is that it reads."""
        return int(self.sae.cfg.d_in)

    @property
    def decoder(self) -> Float[Tensor, "n_latents d"]:
        """What each latent writes, a row each, as trained (not necessarily of length 1)."""
        return self.sae.W_dec.detach()

    def unit_decoder(self) -> Float[Tensor, "n_latents d"]:
        """The decoder's rows with length 1; a dead row of zeros stays zero."""
        return torch.nn.functional.normalize(self.decoder.float(), dim=1, eps=1e-12)

    def encode(self, activation: Float[Tensor, "*b d"]) -> Float[Tensor, "*b n_latents"]:
        """Latent activations, in the autoencoder's own dtype."""
        return self.sae.encode(activation.to(next(self.sae.parameters(), activation)))

    def decode(self, latents: Float[Tensor, "*b n_latents"]) -> Float[Tensor, "*b d"]:
        """The reconstructed activation, in the autoencoder's own dtype."""
        return self.sae.decode(latents)

    def check_latents(self, latents: Iterable[int]) -> list[int]:
        """The latents as plain integers, or `SiteError` where one is none of this autoencoder's."""
        chosen = [int(i) for i in latents]
        wrong = [i for i in chosen if not 0 <= i < self.n_latents]
        if wrong:
            raise SiteError(f"no latent {listed(wrong)} at {self.site!r}; it has latents 0 to {self.n_latents - 1}")
        return chosen

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the weights and where they belong."""
        digest = hashlib.sha256(self.hook_name.encode())
        for name, tensor in sorted(self.sae.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, model: Model) -> Dictionary:
        """Itself, or an error that says why it does not fit the model."""
        sites.check_sites(model, [self.hook_name])
        width = sites.width(model, self.hook_name)
        if width != self.width:
            raise MismatchError(
                f"SAE {self.name!r} reads {self.width} numbers, {self.hook_name!r} of this model has {width}; "
                "load one that was trained on this model"
            )
        return self


def identity(model: Model, hook_name: str) -> Dictionary:
    """The dictionary whose latents are the channels of a hook point themselves: neurons as latents."""
    width = sites.width(model, hook_name)
    return Dictionary(_Identity(width), hook_name, "identity")


@torch.no_grad()
def latent_means(
    model: Model,
    dictionary: Dictionary,
    ids: Sequence[Sequence[int]],
    *,
    n_completion: Sequence[int] | None = None,
    by: Literal["row", "token"] = "row",
    max_rows: int = 32,
) -> Float[Tensor, " n_latents"]:
    """Mean latent activation over all tokens, or the last `n_completion` of each row; one row's latents at a time.

    By row, every row counts alike; by token, every token.
    """
    total = torch.zeros(dictionary.n_latents, dtype=torch.float64)

    def update(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        summed = dictionary.encode(activation).double().sum(0).cpu()
        total.add_(summed if by == "token" else summed / len(rows))

    where: capture.Positions = "all" if n_completion is None else "completion"
    options = {"n_completion": n_completion, "max_rows": max_rows}
    capture.stream(model, ids, [dictionary.hook_name], update, positions=where, **options)
    n_tokens = sum(n_completion) if n_completion is not None else sum(len(row) for row in ids)
    return (total / (n_tokens if by == "token" else len(ids))).float()


@torch.no_grad()
def fit_quality(
    model: Model, dictionary: Dictionary, ids: Sequence[Sequence[int]], *, max_rows: int = 32
) -> dict[str, float]:
    """How well the autoencoder reads some text: `variance_explained` and the mean number of active latents, `mean_l0`.

    Over all tokens; the variance explained is 1 − Σ|x − x̂|² / Σ|x − x̄|².
    """
    sums = {"missed": 0.0, "square": 0.0, "active": 0.0, "n": 0.0}
    total = torch.zeros(dictionary.width, dtype=torch.float64)

    def update(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        x = activation.float()
        latents = dictionary.encode(x)
        sums["missed"] += float((x - dictionary.decode(latents)).pow(2).sum())
        sums["square"] += float(x.double().pow(2).sum())
        sums["active"] += float((latents != 0).sum())
        sums["n"] += len(x)
        total.add_(x.double().sum(0).cpu())

    capture.stream(model, ids, [dictionary.hook_name], update, positions="all", max_rows=max_rows)
    spread = sums["square"] - float((total / sums["n"]).pow(2).sum()) * sums["n"]
    return {"variance_explained": 1 - sums["missed"] / spread, "mean_l0": sums["active"] / sums["n"]}


class _Identity(torch.nn.Module):
    """Stands in for an autoencoder; its matrix is made only where it is asked for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(d_in=width, d_sae=width)

    @property
    def W_dec(self) -> Tensor:
        return torch.eye(self.cfg.d_in)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, x: Tensor) -> Tensor:
        return x

"""Sparse autoencoders at named hook points. The one module that imports SAELens.

A latent is a unit like any other: its coordinate is (`HOOK.hook_sae_acts_post`, index), where HOOK is the hook
point whose activation the autoencoder reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ActivationError, LoadError, MismatchError, ModelNotFoundError, UnsafeFileError, listed
from ..organisms.registry import SAES, sae_path
from . import sites


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
        return self.hook_name + sites.LATENTS

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
        own = next(self.sae.parameters(), activation)
        return self.sae.encode(activation.to(own))

    def decode(self, latents: Float[Tensor, "*b n_latents"]) -> Float[Tensor, "*b d"]:
        """The reconstructed activation."""
        return self.sae.decode(latents)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the weights and where they belong."""
        found = hashlib.sha256(self.hook_name.encode())
        for name, tensor in sorted(self.sae.state_dict().items()):
            found.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def check(self, model: Any) -> Dictionary:
        """Itself, or an error that says why it does not fit the model."""
        sites.check_sites(model, [self.hook_name])
        width = sites.width(model, self.hook_name)
        if width != self.width:
            raise MismatchError(
                f"SAE {self.name!r} reads {self.width} numbers, {self.hook_name!r} of this model has {width}; "
                "load one that was trained on this model"
            )
        return self


def load_sae(
    source: str | Path,
    sae_id: str | None = None,
    *,
    hook_name: str | None = None,
    model: Any = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Dictionary:
    """An SAE from the organisms ("organism/sae-topk-2", …), a local SAELens directory, or a SAELens release.

    A release needs its `sae_id` and goes to the network. `hook_name` overrides the one that is recorded; pass the
    `model` to have the fit checked. Raises `ModelNotFoundError`, `LoadError`, `UnsafeFileError` (a release of
    pickled weights), `MismatchError`, `SiteError`, `ActivationError` (weights that are NaN or infinite).
    """
    from sae_lens import SAE

    if device is None:
        device = "cpu" if model is None else str(next(iter(model.parameters())).device)
    name = str(source) if sae_id is None else f"{source}/{sae_id}"
    path = sae_path(str(source)) if str(source).startswith("organism/") else Path(source).expanduser()
    with _no_pickles():
        if sae_id is not None:
            sae = SAE.from_pretrained(str(source), sae_id, device=device, dtype=dtype)
        elif not (path / "cfg.json").is_file() or not (path / "sae_weights.safetensors").is_file():
            raise ModelNotFoundError(
                f"no SAE at {str(source)!r}: a directory needs cfg.json and sae_weights.safetensors, a release needs "
                f"sae_id=, and the organisms have {listed(SAES)}"
            )
        else:
            try:
                sae = SAE.load_from_disk(path, device=device, dtype=dtype)
            except (ValueError, KeyError, RuntimeError) as error:
                raise LoadError(f"{str(path)!r} cannot be read as a SAELens directory: {error}") from error
    found = hook_name or getattr(sae.cfg.metadata, "hook_name", None)
    if not found:
        raise LoadError(f"SAE {name!r} does not record its hook point; pass hook_name='blocks.…'")
    if getattr(sae.cfg, "reshape_activations", "none") not in ("none", None):
        raise LoadError(f"SAE {name!r} reads {sae.cfg.reshape_activations!r}; only plain activations are supported")
    for key, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ActivationError(f"SAE {name!r} has NaN or infinite numbers in {key}; load it again or in float32")
    sae.eval().requires_grad_(False)
    own = Dictionary(sae, str(found), name)
    return own if model is None else own.check(model)


def identity(model: Any, hook_name: str) -> Dictionary:
    """The dictionary whose latents are the channels of a hook point themselves: neurons as latents."""
    width = sites.width(model, hook_name)
    return Dictionary(_Identity(width), hook_name, "identity")


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


@contextmanager
def _no_pickles() -> Iterator[None]:
    """SAELens reads some old releases with torch.load; here that is refused."""
    kept = torch.load

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        raise UnsafeFileError(
            f"{path} holds pickled weights, which are never loaded; convert them to safetensors first"
        )

    torch.load = refuse
    try:
        yield
    finally:
        torch.load = kept

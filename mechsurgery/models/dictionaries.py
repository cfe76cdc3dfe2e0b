"""Sparse autoencoders and transcoders, whatever library trained them (`adapters.saelens` loads SAELens' own).

A latent is a unit like any other: its coordinate is (`HOOK.hook_sae_acts_post`, index), where HOOK is the hook
point whose activation is read. An autoencoder writes where it reads; a transcoder reads what goes into an MLP and
writes what comes out of it. So there are two hook points, and everything that latents do happens at the second one:

    latents z = encode(activation read)        what they write there: Σ_i z_i d_i, d_i the rows of `decoder`
    a change of latents z → z′ adds Σ_i (z′_i − z_i) d_i to the activation written; all else of it stays

An autoencoder that normalises each activation (to a length, or to mean 0 and standard deviation 1) has decoder rows
in normalised units: what it writes is Σ_i z_i d_i times that token's length or deviation, a positive number which
`added` knows. Directions are the same for all tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import names
from ..checks import check_arguments
from ..errors import InputError, MismatchError, SiteError, listed
from ..names import LATENTS
from . import capture, sites
from .protocol import Model
from .turns import in_turn

HookFns = list[tuple[str, Callable[..., Tensor]]]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """An autoencoder of the activation at one hook point of one model, or a transcoder from one hook point to another.

    `sae` has `encode`, `decode`, `W_dec` and `cfg` with `d_in` and `d_sae` (SAELens' classes do). Latents are read at
    `hook_name` and write at `write_name`, which is the same unless it is given. At `attn.hook_z` the channels of all
    heads are one vector.
    """

    sae: Any
    hook_name: str
    name: str = "sae"
    info: dict[str, Any] = field(default_factory=dict)
    write_name: str = ""

    def __post_init__(self) -> None:
        if not self.write_name:
            object.__setattr__(self, "write_name", self.hook_name)

    @property
    def site(self) -> str:
        """The hook name of the latents."""
        return self.hook_name + LATENTS

    @property
    def is_transcoder(self) -> bool:
        """Whether latents write at another hook point than the one they are read at."""
        return self.write_name != self.hook_name

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return int(self.sae.cfg.d_sae)

    @property
    def width(self) -> int:
        """How wide the activation is that it reads."""
        return int(self.sae.cfg.d_in)

    @property
    def write_width(self) -> int:
        """How wide the activation is that its latents write to."""
        return int(getattr(self.sae.cfg, "d_out", None) or self.width)

    @property
    def decoder(self) -> Float[Tensor, "n_latents d"]:
        """What one unit of each latent writes at `write_name`, a row each (not necessarily of length 1).

        In the activation's units, but where each activation is normalised, in those of the normalised one.
        """
        rows = self.sae.W_dec.detach()
        return rows / _norms(rows)[:, None] if self._by_norm else rows

    def unit_decoder(self) -> Float[Tensor, "n_latents d"]:
        """The decoder's rows with length 1; a dead row of zeros stays zero."""
        return torch.nn.functional.normalize(self.decoder.float(), dim=1, eps=1e-12)

    def encode(self, activation: Float[Tensor, "*c d"]) -> Float[Tensor, "*b n_latents"]:
        """Latents of activations at `hook_name` (heads joined or not), in the autoencoder's own dtype.

        They are where the activations are, as is all that is made of either, on whatever device the autoencoder is.
        """
        latents = self.sae.encode(self._read(activation))
        for kept in _KEPT:  # what SAELens leaves for a decode that is to come
            self.sae.__dict__.pop(kept, None)
        return latents.to(activation.device)

    def decode(
        self, latents: Float[Tensor, "*b n_latents"], activation: Float[Tensor, "*c d"] | None = None
    ) -> Float[Tensor, "*b d_out"]:
        """The activation at `write_name` that latents stand for, biases and all, in the autoencoder's own dtype.

        Where each activation is normalised, or part of it skips the latents, that depends on the `activation` read
        too; raises `InputError` where it is needed and not given. Heads come back joined.
        """
        skip = getattr(self.sae, "W_skip", None)
        if activation is None:
            if self._kind is not None or skip is not None:
                raise InputError(
                    f"{self.name!r} normalises each activation or lets part of it skip the latents; give "
                    "decode(latents, activation)"
                )
            return self.sae.decode(self._of_latents(latents)).to(latents.device)
        x = self._read(activation)
        latents = self._of_latents(latents, x)
        if self._kind is None:
            out = self.sae.decode(latents)
            return (out if skip is None else out + x @ skip.T).to(activation.device)
        out = (self._rows(latents) + self.sae.b_dec) * self._size(x)
        return (out + x.mean(dim=-1, keepdim=True) if self._kind == _STANDARD else out).to(activation.device)

    def reconstruct(self, activation: Float[Tensor, "*b d"]) -> Float[Tensor, "*c d_out"]:
        """The activation at `write_name` that is reconstructed from one at `hook_name`; heads come back joined."""
        return self.decode(self.encode(activation), activation)

    def added(
        self, change: Float[Tensor, "*b n_latents"], activation: Float[Tensor, "*c d"]
    ) -> Float[Tensor, "*b d_out"]:
        """What a change of latents adds at `write_name`, given the activation read; heads come back joined."""
        if self._kind is None:
            return self._rows(self._of_latents(change)).to(activation.device)
        x = self._read(activation)
        return (self._rows(self._of_latents(change, x)) * self._size(x)).to(activation.device)

    def hooks(self, change: Callable[[Tensor], Tensor]) -> HookFns:
        """(hook name, hook function) pairs that turn latents z into change(z) while a model runs; all else stays."""
        read: list[Tensor] = []

        def look(activation: Tensor, hook: Any = None) -> Tensor:
            read[:] = [activation]
            return activation

        def write(activation: Tensor, hook: Any = None) -> Tensor:
            seen = read.pop() if self.is_transcoder else activation
            latents = self.encode(seen)
            return plus(activation, self.added(change(latents) - latents, seen))

        return [*([(self.hook_name, look)] if self.is_transcoder else []), (self.write_name, write)]

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
        where = self.hook_name + (f" {self.write_name}" if self.is_transcoder else "")
        digest = hashlib.sha256(where.encode())
        for name, tensor in sorted(self.sae.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, model: Model) -> Dictionary:
        """Itself, or an error that says why it does not fit the model (`SiteError`, `MismatchError`)."""
        for site, own, does in ((self.hook_name, self.width, "reads"), (self.write_name, self.write_width, "writes")):
            width = sites.channels(model, site)
            if width != own:
                raise MismatchError(
                    f"SAE {self.name!r} {does} {own} numbers, {site!r} of this model has {width}; "
                    "load one that was trained on this model"
                )
        if names.place(self.write_name) < names.place(self.hook_name):
            raise SiteError(
                f"{self.name!r} writes at {self.write_name!r}, which a forward pass comes to before "
                f"{self.hook_name!r}, where it reads; give hook_name= and write_name= in the other order"
            )
        return self

    def _read(self, activation: Tensor) -> Tensor:
        if names.is_heads(self.hook_name) and activation.shape[-1] != self.width:
            activation = activation.flatten(-2)
        if activation.shape[-1:] != (self.width,):
            raise MismatchError(
                f"activations of {list(activation.shape)} for {self.name!r}, which reads {self.width} channels"
            )
        return activation.to(next(self.sae.parameters(), activation))

    def _of_latents(self, latents: Tensor, read: Tensor | None = None) -> Tensor:
        """Latents in the autoencoder's dtype. Raises `MismatchError` where they are not its or not of what was read."""
        if latents.shape[-1:] != (self.n_latents,) or (read is not None and not _broadcast(latents, read)):
            beside = "" if read is None else f" beside activations of {list(read.shape)}"
            raise MismatchError(
                f"latents of {list(latents.shape)}{beside} for {self.name!r}, which has {self.n_latents} of them"
            )
        return latents.to(next(self.sae.parameters(), latents))

    def _rows(self, latents: Tensor) -> Tensor:
        """Σ_i z_i d_i."""
        if isinstance(self.sae, _Identity):
            return latents
        return (latents / _norms(self.sae.W_dec) if self._by_norm else latents) @ self.sae.W_dec

    def _size(self, x: Tensor) -> Tensor:
        """What each activation was divided by: its length over that of a vector of ones, or its deviation."""
        return x.norm(dim=-1, keepdim=True) / self.width**0.5 if self._kind == _LENGTH else x.std(dim=-1, keepdim=True)

    @property
    def _kind(self) -> str | None:
        """How each activation is normalised, for autoencoders; transcoders normalise only what they read."""
        how = getattr(self.sae.cfg, "normalize_activations", None)
        return how if how in (_LENGTH, _STANDARD) and getattr(self.sae.cfg, "d_out", None) is None else None

    @property
    def _by_norm(self) -> bool:
        """Whether latents are in units of what they write: the decoder acts as if its rows had length 1."""
        return bool(getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False))


_LENGTH, _STANDARD = "constant_norm_rescale", "layer_norm"
_KEPT = ("x_norm_coeff", "ln_mu", "ln_std")


def _norms(rows: Tensor) -> Tensor:
    return rows.norm(dim=-1).clamp_min(torch.finfo(rows.dtype).tiny)


def plus(activation: Tensor, added: Tensor) -> Tensor:
    """An activation with something added to it; where it is of attention heads, to all of them joined."""
    return activation + added.reshape(activation.shape).to(activation)


def identity(model: Model, hook_name: str) -> Dictionary:
    """The dictionary whose latents are the channels of a hook point themselves: neurons as latents.

    Raises `SiteError` for attention heads, whose channels are no units.
    """
    if names.is_heads(hook_name):
        raise SiteError(f"{hook_name!r} are heads, whose channels are no units; give neurons or the residual stream")
    width = sites.width(model, hook_name)
    return Dictionary(_Identity(width), hook_name, "identity")


@in_turn
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
    options: dict[str, Any] = {"n_completion": n_completion, "max_rows": max_rows, "join_heads": True}
    capture.stream(model, ids, [dictionary.hook_name], update, positions=where, **options)
    n_tokens = sum(n_completion) if n_completion is not None else sum(len(row) for row in ids)
    return (total / (n_tokens if by == "token" else len(ids))).float()


@in_turn
@torch.no_grad()
def fit_quality(
    model: Model, dictionary: Dictionary, ids: Sequence[Sequence[int]], *, max_rows: int = 32
) -> dict[str, float]:
    """How well the autoencoder reads some text: `variance_explained` and the mean number of active latents, `mean_l0`.

    Over all tokens; the variance explained is 1 − Σ|x − x̂|² / Σ|x − x̄|² of the activation that is written: what a
    transcoder makes of an MLP's input is held against the MLP's output.
    """
    sums = {"missed": 0.0, "square": 0.0, "active": 0.0, "n": 0.0}
    total = torch.zeros(dictionary.write_width, dtype=torch.float64)
    read: dict[int, Tensor] = {}

    def update(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        if site == dictionary.hook_name:
            read[rows[0]] = activation
        if site != dictionary.write_name:
            return
        x, seen = activation.float(), read.pop(rows[0])
        rebuilt = dictionary.reconstruct(seen.float())
        sums["missed"] += float((x - rebuilt.to(x.device)).pow(2).sum())
        sums["square"] += float(x.double().pow(2).sum())
        sums["active"] += float((dictionary.encode(seen.float()) != 0).sum())
        sums["n"] += len(x)
        total.add_(x.double().sum(0).cpu())

    at = list(dict.fromkeys([dictionary.hook_name, dictionary.write_name]))
    capture.stream(model, ids, at, update, positions="all", max_rows=max_rows, join_heads=True)
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


def _broadcast(latents: Tensor, read: Tensor) -> bool:
    """Whether latents go with what was read, token by token or one for all."""
    return all(1 in pair or len(set(pair)) == 1 for pair in zip(latents.shape[-2::-1], read.shape[-2::-1]))


check_arguments(__name__)

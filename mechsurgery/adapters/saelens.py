"""Loading sparse autoencoders with SAELens: the one module that imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ActivationError, InputError, LoadError, ModelNotFoundError, UnsafeFileError, listed, needs_extra
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.tokens import device_of
from ..organisms.registry import SAES, sae_path

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load_sae(
    source: str | Path,
    sae_id: str | None = None,
    *,
    hook_name: str | None = None,
    model: Model | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Dictionary:
    """An SAE from the organisms ("organism/sae-topk-2", …), a local SAELens directory, or a SAELens release.

    A release needs its `sae_id` and goes to the network. `hook_name` overrides the one that is recorded; pass the
    `model` to have the fit checked, and to load onto its device. `dtype` is "float32" whatever the model's is, since
    thresholds and the choice of the top latents do not survive rounding; activations are converted on the way in.
    Raises `ModelNotFoundError`, `LoadError`, `UnsafeFileError` (a release of pickled weights), `MismatchError`,
    `SiteError`, `InputError`, `ActivationError` (weights that are NaN or infinite).
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype={dtype!r} is not one of {listed(_DTYPES)}; choose one of them")
    where = device or ("cpu" if model is None else str(device_of(model)))
    name = str(source) if sae_id is None else f"{source}/{sae_id}"
    sae = _read(source, sae_id, device=where, dtype=dtype)
    site = hook_name or getattr(sae.cfg.metadata, "hook_name", None)
    if not site:
        raise LoadError(f"SAE {name!r} does not record its hook point; pass hook_name='blocks.…'")
    if getattr(sae.cfg, "reshape_activations", "none") not in ("none", None):
        raise LoadError(f"SAE {name!r} reads {sae.cfg.reshape_activations!r}; only plain activations are supported")
    for key, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ActivationError(f"SAE {name!r} has NaN or infinite numbers in {key}; load it again or in float32")
    dictionary = Dictionary(sae.eval().requires_grad_(False), str(site), name)
    return dictionary if model is None else dictionary.check(model)


def _read(source: str | Path, sae_id: str | None, **how: str) -> Any:
    with needs_extra("saes", "a sparse autoencoder"):
        from sae_lens import SAE

    with _no_pickles():
        if sae_id is not None:
            return SAE.from_pretrained(str(source), sae_id, **how)
        path = sae_path(str(source)) if str(source).startswith("organism/") else Path(source).expanduser()
        if not (path / "cfg.json").is_file() or not (path / "sae_weights.safetensors").is_file():
            raise ModelNotFoundError(
                f"no SAE at {str(source)!r}: a directory needs cfg.json and sae_weights.safetensors, a release needs "
                f"sae_id=, and the organisms have {listed(SAES)}"
            )
        try:
            return SAE.load_from_disk(path, **how)
        except (ValueError, KeyError, RuntimeError) as error:
            raise LoadError(f"{str(path)!r} cannot be read as a SAELens directory: {error}") from error


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

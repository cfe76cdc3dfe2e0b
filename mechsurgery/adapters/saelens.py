"""Loading sparse autoencoders and transcoders with SAELens; `sae_directories` reads the formats of other releases."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import torch

from .. import names
from ..checks import check_arguments
from ..device_names import named_devices
from ..errors import (
    ActivationError,
    InputError,
    LoadError,
    MechsurgeryError,
    ModelNotFoundError,
    SiteError,
    UnsafeFileError,
    listed,
    needs_extra,
)
from ..models import sites
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.spread import device_of_layer
from ..models.tokens import device_of
from ..models.turns import LOADING, Turn
from ..organisms.registry import SAES, sae_path
from .sae_directories import read_directory

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_AUTOENCODERS = ("standard", "gated", "jumprelu", "topk", "abstopk", "matching_pursuit")
_CROSS_LAYER = re.compile(r"(?<![a-z])clt(?![a-z])")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def load_sae(
    source: str | Path,
    sae_id: str | None = None,
    *,
    hook_name: str | None = None,
    write_name: str | None = None,
    model: Model | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Dictionary:
    """An SAE or transcoder from the organisms ("organism/sae-topk-2", …), a local directory, or a SAELens release.

    A directory is SAELens' own, or as Gemma Scope, Gemma Scope 2, Llama Scope or sparsify lay theirs out. A release
    needs its `sae_id` and goes to the network. `hook_name` overrides where latents are read, `write_name` where a
    transcoder's write; both may be names of modules of transformers. Pass the `model` to have the fit checked, to load
    onto the device where that layer runs, and for transcoders of what an MLP reads (`mlp.hook_in`), which come to read
    `ln2.hook_normalized`, the norm's gain folded in. `dtype` is "float32" whatever the model's is, since thresholds and
    the choice of the top latents do not survive rounding; activations are converted on the way in.

    Raises `ModelNotFoundError`, `LoadError`, `UnsafeFileError` (a release of pickled weights), `MismatchError`,
    `SiteError`, `InputError`, `ActivationError` (weights that are NaN or infinite).
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype={dtype!r} is not one of {listed(_DTYPES)}; choose one of them")
    where = "cpu" if device is None else str(named_devices(device)[0].device)
    name = str(source) if sae_id is None else f"{source}/{sae_id}"
    different = write_name is not None and write_name != hook_name
    sae = _read(source, sae_id, transcoder=different, device=where, dtype=dtype)
    kind = _checked_kind(sae, name)
    read, write = _recorded(sae, name, hook_name, write_name, transcoder=kind in _TRANSCODERS)
    if sae.cfg.reshape_activations == "hook_z":  # heads come joined here
        sae.turn_off_forward_pass_hook_z_reshaping()
    for key, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ActivationError(f"SAE {name!r} has NaN or infinite numbers in {key}; load it again or in float32")
    sae = sae.eval().requires_grad_(False)
    if model is not None:
        _check_unnormed(model, name, read, write)
        read = _with_gain(sae, name, names.hook_point(read), model, transcoder=kind in _TRANSCODERS)
        if device is None:
            sae = sae.to(device=str(_device(model, names.hook_point(read))))
    dictionary = Dictionary(sae, names.hook_point(read), name, write_name=names.hook_point(write))
    return dictionary if model is None else dictionary.check(model)


def _device(model: Model, site: str) -> torch.device:
    """Where what is read at a hook point is."""
    layer = names.layer_of(site)
    return device_of_layer(model, layer) if 0 <= layer < model.cfg.n_layers else device_of(model)


def _checked_kind(sae: Any, name: str) -> str:
    """The architecture, or `LoadError` for one whose latents are not what a sum of decoder rows is made of."""
    kind, how = sae.cfg.architecture(), sae.cfg.normalize_activations
    if kind not in _AUTOENCODERS + _TRANSCODERS:
        raise LoadError(f"SAE {name!r} is a {kind!r}; supported are {listed(_AUTOENCODERS + _TRANSCODERS, 12)}")
    if how not in ("none", "constant_norm_rescale", "layer_norm"):
        raise LoadError(
            f"SAE {name!r} was trained on activations scaled by a number that it does not record ({how}); fold it in "
            "first, e.g. sae.fold_activation_norm_scaling_factor(root of d_in over the activations' mean length), and "
            "save it again with sae.save_model"
        )
    return kind


def _recorded(
    sae: Any, name: str, hook_name: str | None, write_name: str | None, *, transcoder: bool
) -> tuple[str, str]:
    """Where it is read and written, as given or recorded; names of modules as they are."""
    metadata = sae.cfg.metadata
    read = hook_name or _understood(metadata.hf_hook_name) or metadata.hook_name
    if not read:
        raise LoadError(f"SAE {name!r} does not record its hook point; pass hook_name='blocks.…'")
    if not transcoder:
        if write_name not in (None, read):
            raise InputError(
                f"SAE {name!r} is no transcoder: it writes where it reads; leave write_name={write_name!r} out"
            )
        return str(read), str(read)
    write = write_name or _understood(metadata.hf_hook_name_out) or metadata.hook_name_out
    if not write:
        raise LoadError(f"transcoder {name!r} does not record where it writes; pass write_name='blocks.….hook_mlp_out'")
    return str(read), str(write)


def _understood(module: str | None) -> str | None:
    """A module's name where it is one that stands for a hook point."""
    return module if module and names.hook_point(module) != module else None


def _check_unnormed(model: Model, name: str, *places: str) -> None:
    """`SiteError` where a module's output is meant that this architecture normalises before any hook point."""
    if not sites.changes_writes(model):
        return
    for place in places:
        module = place.partition(".output")[0].rpartition(".")[2]
        if module in ("mlp", "self_attn", "attn") and names.hook_point(place) != place:
            raise SiteError(
                f"SAE {name!r} is of {place!r}, which this architecture normalises before it adds it; "
                f"{names.hook_point(place)!r} comes after that norm; give hook_name= of a hook point that was meant"
            )


def _with_gain(sae: Any, name: str, read: str, model: Model, *, transcoder: bool) -> str:
    """The hook point to read at; what an MLP reads is the normalised stream times a gain, which is folded in."""
    layer = names.layer_of(read)
    if not read.endswith("mlp.hook_in") or read in model.hook_dict:
        return read
    if not transcoder or sae.cfg.normalize_activations != "none":
        raise SiteError(
            f"SAE {name!r} reads {read!r}, which this model has no hook point for; only transcoders that do not "
            "normalise can be read before the gain; use a model class that has it (TransformerBridge)"
        )
    gain, bias = (part.to(sae.W_enc) for part in sites.mlp_input_gain(model, layer))
    skip = getattr(sae, "W_skip", None)
    with torch.no_grad():
        sae.b_enc += bias.expand(len(sae.W_enc)) @ sae.W_enc
        sae.W_enc *= gain[:, None]
        if skip is not None:
            sae.b_dec += skip @ bias.expand(len(sae.W_enc))
            skip *= gain
    return names.normalized_mlp_input(layer)


def _read(source: str | Path, sae_id: str | None, *, transcoder: bool, **how: str) -> Any:
    with needs_extra("saes", "a sparse autoencoder"):
        from sae_lens import SAE

    with _no_pickles():
        if sae_id is None:
            return read_directory(_path(str(source)), transcoder=transcoder, **how)
        if _CROSS_LAYER.search(f"{source}/{sae_id}"):
            raise LoadError(
                f"{source}/{sae_id} is a layer of a cross-layer transcoder, whose latents write at many layers, and "
                "SAELens adds their decoders up, which is another function; use a transcoder of one layer"
            )
        try:
            return SAE.from_pretrained(str(source), sae_id, **how)
        except MechsurgeryError:
            raise
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            pickled = "allow_pickle" in str(error)
            kind = UnsafeFileError if pickled else LoadError
            raise kind(f"SAE {source}/{sae_id} cannot be loaded: {error}") from error


def _path(source: str) -> Path:
    path = sae_path(source) if source.startswith("organism/") else Path(source).expanduser()
    if not path.is_dir():
        raise ModelNotFoundError(
            f"no SAE at {source!r}: give a directory (SAELens' has cfg.json and sae_weights.safetensors), a release "
            f"with its sae_id=, or one of the organisms' {listed(SAES)}"
        )
    return path


def _no_pickles() -> Turn:
    """SAELens reads some old releases with torch.load; in the thread that loads one, that is refused.

    One at a time, so that `torch.load` is always put back as it was; other threads use it meanwhile as ever.
    """

    def replace(turn: Turn) -> None:
        kept, loading = torch.load, threading.get_ident()

        def refuse(path: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() != loading:
                return kept(path, *args, **options)
            raise UnsafeFileError(
                f"{path} holds pickled weights, which are never loaded; convert them to safetensors first"
            )

        turn.undo(setattr, torch, "load", kept)
        torch.load = refuse

    return Turn(LOADING, replace, ends_all=True)


check_arguments(__name__)

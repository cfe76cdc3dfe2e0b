"""Local directories of autoencoders, each in the format of the release that it comes from, read without a pickle.

| files | format |
|---|---|
| `cfg.json`, `sae_weights.safetensors` | SAELens |
| `params.npz` | Gemma Scope (Gemma 2): JumpReLU autoencoders and transcoders |
| `params.safetensors`, `config.json` | Gemma Scope 2 (Gemma 3): the same, and skip-transcoders |
| `hyperparams.json`, `checkpoints/final.safetensors` | Llama Scope |
| `cfg.json`, `sae.safetensors` | EleutherAI's sparsify: TopK autoencoders, transcoders and skip-transcoders |

What is read becomes an object of SAELens' classes. Where it belongs stands in its metadata, as far as the directory
says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..artifacts import load_json
from ..errors import LoadError, ModelNotFoundError, UnsafeFileError
from ..names import hook_point

Arrays = dict[str, Tensor]


def read_directory(path: Path, *, transcoder: bool, device: str, dtype: str) -> Any:
    """The autoencoder of a local directory, as SAELens' class.

    `transcoder` says that it is one where the files do not tell (Gemma Scope's). Raises `ModelNotFoundError` for a
    directory of no known format, `LoadError`, `UnsafeFileError`.
    """
    for (first, second), (kind, reader) in _READERS.items():
        if (path / first).is_file() and (path / second).is_file():
            try:
                return reader(path, transcoder, device, dtype)
            except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
                raise LoadError(f"{str(path)!r} cannot be read as a {kind} directory: {error}") from error
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in (".pt", ".pth", ".bin", ".pkl"))
    if pickled:
        raise UnsafeFileError(f"{str(path)!r} holds pickled weights ({pickled[0]}), which are never loaded")
    known = "; ".join(dict.fromkeys(" and ".join(dict.fromkeys(files)) for files in _READERS))
    raise ModelNotFoundError(f"no SAE at {str(path)!r}; a directory needs one of: {known}")


def _saelens(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(path, device=device, dtype=dtype)


def _gemma_scope(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    try:
        with np.load(path / "params.npz", allow_pickle=False) as file:
            arrays = {key.lower(): torch.from_numpy(file[key]) for key in file.files}
    except ValueError as error:
        raise UnsafeFileError(
            f"{path / 'params.npz'} holds pickled objects, which are never loaded: {error}"
        ) from error
    where = re.search(r"gemma-scope-[^/]*-(res|mlp|att|transcoders)/.*?(?:layer_(\d+)|embedding)", path.as_posix())
    kind, layer = where.groups() if where is not None else (None, None)
    if where is not None and layer is None:  # trained on embeddings before they are multiplied by the root of the width
        root = arrays["w_enc"].shape[0] ** 0.5
        arrays |= {"w_enc": arrays["w_enc"] / root, "w_dec": arrays["w_dec"] * root}
    names = {
        "res": "hook_resid_post",
        "mlp": "hook_mlp_out",
        "att": "attn.hook_z",
        "transcoders": "ln2.hook_normalized",
    }
    site = None if kind is None else f"blocks.{layer}.{names[kind]}" if layer is not None else "hook_embed"
    transcoder = transcoder or kind == "transcoders"
    out = f"blocks.{layer}.hook_mlp_out" if kind == "transcoders" else None
    return _jumprelu(arrays, site, out, transcoder, device, dtype)


def _gemma_scope_2(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    config = load_json(path / "config.json")
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise LoadError(f"{path / 'config.json'} names architecture {config['architecture']!r}, not 'jump_relu'")
    arrays = load_file(path / "params.safetensors")
    site, out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    transcoder = transcoder or out not in (None, site) or "affine_skip_connection" in arrays
    return _jumprelu(arrays, site, out if transcoder else None, transcoder, device, dtype)


def _jumprelu(arrays: Arrays, site: str | None, out: str | None, transcoder: bool, device: str, dtype: str) -> Any:
    """A JumpReLU autoencoder or transcoder of arrays as both Gemma Scopes call them."""
    if arrays["w_dec"].ndim != 2:
        raise LoadError("its decoder writes at several layers; cross-layer transcoders are not supported")
    state = {name: arrays[name.lower()] for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    skip = arrays.get("affine_skip_connection")
    if skip is not None:
        state["W_skip"] = skip.T.contiguous()
    middle = "_skip" if skip is not None else ""
    architecture = f"jumprelu{middle}_transcoder" if transcoder else "jumprelu"
    return _built(architecture, state, site, out, device, dtype)


def _llama_scope(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    config = load_json(path / "hyperparams.json")
    site, out = config["hook_point_in"], config.get("hook_point_out")
    if out not in (None, site):
        raise LoadError(f"it reads {site!r} and writes {out!r}; transcoders of this format are not supported")
    arrays = load_file(path / "checkpoints" / "final.safetensors")
    width, n = arrays["decoder.weight"].shape
    # Trained on activations of mean length √d; the factor is folded in, as SAELens does for the release.
    factor = width**0.5 / config["dataset_average_activation_norm"]["in"]
    state = {
        "W_enc": arrays["encoder.weight"].T.float() * factor,
        "b_enc": arrays["encoder.bias"].float(),
        "W_dec": arrays["decoder.weight"].T.float() / factor,
        "b_dec": arrays["decoder.bias"].float() / factor,
        "threshold": torch.full((n,), config["jump_relu_threshold"] * factor),
    }
    return _built("jumprelu", state, site, None, device, dtype)


def _sparsify(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    config = load_json(path / "cfg.json")
    if config.get("activation", "topk") != "topk":
        raise LoadError(f"its activation is {config['activation']!r}; only 'topk' is supported")
    arrays = load_file(path / "sae.safetensors")
    state = {"W_enc": arrays["encoder.weight"].T, "b_enc": arrays["encoder.bias"]}
    state |= {name: arrays[name] for name in ("W_dec", "b_dec", "W_skip") if name in arrays}
    transcodes = bool(config.get("transcode", False))
    module = path.resolve().name
    # A transcoder goes from what the module reads to what it gives.
    site, out = (f"{module}.input", module) if transcodes else (module, None)
    if transcodes or "W_skip" in state:
        if not transcodes:
            state["b_enc"] = state["b_enc"] - state["b_dec"] @ state["W_enc"]
            out = site
        return _built("topk_transcoder", state, site, out, device, dtype, k=config["k"])
    return _built("topk", state, site, None, device, dtype, k=config["k"], apply_b_dec_to_input=True)


def _built(
    architecture: str,
    state: Arrays,
    site: str | None,
    out: str | None,
    device: str,
    dtype: str,
    *,
    k: int | None = None,
    apply_b_dec_to_input: bool = False,
) -> Any:
    """An object of SAELens' class for weights in its own shapes."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopK

    n, width = state["W_dec"].shape
    of_topk = architecture == "topk_transcoder"
    if of_topk:
        architecture = "skip_transcoder" if "W_skip" in state else "transcoder"
    sae_class, config_class = get_sae_class(architecture)
    own: dict[str, Any] = {"d_out": width} if architecture.endswith("transcoder") else {}
    own |= {"k": k} if architecture == "topk" else {}
    places = {"hook_name": site and hook_point(site), "hook_name_out": out and hook_point(out)}
    cfg = config_class(
        d_in=state["W_enc"].shape[0],
        d_sae=n,
        dtype=dtype,
        device="meta",
        apply_b_dec_to_input=apply_b_dec_to_input,
        metadata=SAEMetadata(**{key: value for key, value in places.items() if value is not None}),
        **own,
    )
    sae = sae_class(cfg)
    sae.load_state_dict({key: value.contiguous() for key, value in state.items()}, assign=True)
    if of_topk:
        sae.activation_fn = TopK(int(k or n))
    return sae.to(device=device, dtype=getattr(torch, dtype))


_READERS: dict[tuple[str, str], tuple[str, Callable[[Path, bool, str, str], Any]]] = {
    ("cfg.json", "sae_weights.safetensors"): ("SAELens", _saelens),
    ("cfg.json", "sae.safetensors"): ("sparsify", _sparsify),
    ("params.npz", "params.npz"): ("Gemma Scope", _gemma_scope),
    ("config.json", "params.safetensors"): ("Gemma Scope 2", _gemma_scope_2),
    ("hyperparams.json", "checkpoints/final.safetensors"): ("Llama Scope", _llama_scope),
}

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

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..allowed import conforms
from ..artifacts import NUMBERS, load_json
from ..checks import check_arguments
from ..errors import LoadError, ModelNotFoundError, UnsafeFileError
from ..names import hook_point
from ..reading import check_tensors, read_safetensors, readable

Arrays = dict[str, Tensor]


def read_directory(path: Path, *, transcoder: bool, device: str, dtype: str) -> Any:
    """The autoencoder of a local directory, as SAELens' class.

    `transcoder` says that it is one where the files do not tell (Gemma Scope's). Raises `ModelNotFoundError` for a
    directory of no known format, `LoadError`, `UnsafeFileError`.
    """
    for (first, second), (kind, reader) in _READERS.items():
        if (path / first).is_file() and (path / second).is_file():
            with readable(path, f"a {kind} directory"):
                return reader(path, transcoder, device, dtype)
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in (".pt", ".pth", ".bin", ".pkl"))
    if pickled:
        raise UnsafeFileError(f"{str(path)!r} holds pickled weights ({pickled[0]}), which are never loaded")
    known = "; ".join(dict.fromkeys(" and ".join(dict.fromkeys(files)) for files in _READERS))
    raise ModelNotFoundError(f"no SAE at {str(path)!r}; a directory needs one of: {known}")


def _saelens(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    from sae_lens import SAE

    # Both files are checked here before the library reads them.
    config = conforms(load_json(path / "cfg.json", finite=False), dict[str, Any], "cfg.json")
    arrays = _arrays(path / "sae_weights.safetensors")
    wide = [config.get(name) for name in ("d_in", "d_sae", "d_out") if config.get(name) is not None]
    sizes = {size for array in arrays.values() for size in array.shape}
    if not set(conforms(wide, list[int], "the widths in cfg.json")) <= sizes:
        raise LoadError(f"{path / 'cfg.json'} says widths {wide}, the weights have {sorted(sizes)}")
    return SAE.load_from_disk(path, device=device, dtype=dtype)


def _gemma_scope(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    arrays = {key.lower(): array for key, array in _unzipped(path / "params.npz").items()}
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
    fields = {"hf_hook_point_in": str | None, "hf_hook_point_out": str | None, "architecture": str}
    config = _config(path / "config.json", fields)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise LoadError(f"{path / 'config.json'} names architecture {config['architecture']!r}, not 'jump_relu'")
    arrays = _arrays(path / "params.safetensors")
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
    fields = {"hook_point_in": str, "hook_point_out": str | None, "jump_relu_threshold": float}
    config = _config(path / "hyperparams.json", fields | {"dataset_average_activation_norm": dict[str, float]})
    site, out = config["hook_point_in"], config.get("hook_point_out")
    if out not in (None, site):
        raise LoadError(f"it reads {site!r} and writes {out!r}; transcoders of this format are not supported")
    arrays = _arrays(path / "checkpoints" / "final.safetensors")
    width, n = arrays["decoder.weight"].shape
    # Trained on activations of mean length √d; the factor is folded in, as SAELens does for the release.
    factor = width**0.5 / config["dataset_average_activation_norm"]["in"]
    if not 0 < factor < float("inf"):
        raise LoadError(f"its dataset_average_activation_norm is {config['dataset_average_activation_norm']}")
    state = {
        "W_enc": arrays["encoder.weight"].T.float() * factor,
        "b_enc": arrays["encoder.bias"].float(),
        "W_dec": arrays["decoder.weight"].T.float() / factor,
        "b_dec": arrays["decoder.bias"].float() / factor,
        "threshold": torch.full((n,), config["jump_relu_threshold"] * factor),
    }
    return _built("jumprelu", state, site, None, device, dtype)


def _sparsify(path: Path, transcoder: bool, device: str, dtype: str) -> Any:
    config = _config(path / "cfg.json", {"activation": str, "k": int, "transcode": bool})
    if config.get("activation", "topk") != "topk":
        raise LoadError(f"its activation is {config['activation']!r}; only 'topk' is supported")
    arrays = _arrays(path / "sae.safetensors")
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

    _check_state(state, k)
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


def _check_state(state: Arrays, k: int | None) -> None:
    """Raise `LoadError` unless the weights of an autoencoder fit each other."""
    if state["W_dec"].ndim != 2 or state["W_enc"].ndim != 2:
        raise LoadError("its encoder and decoder are no matrices")
    (n, out), d = state["W_dec"].shape, state["W_enc"].shape[0]
    shapes = {"W_enc": (d, n), "W_dec": (n, out), "b_enc": (n,), "b_dec": (out,), "threshold": (n,), "W_skip": (out, d)}
    wrong = {name: tuple(array.shape) for name, array in state.items() if tuple(array.shape) != shapes[name]}
    if wrong or not min(n, d, out):
        raise LoadError(f"{n} latents of {d} to {out} channels do not fit the shapes {wrong}")
    if k is not None and not 0 < k <= n:
        raise LoadError(f"k={k} of {n} latents is impossible")


def _config(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """A JSON object in which those of `fields` that are there have their types."""
    config = conforms(load_json(path, finite=False), dict[str, Any], path.name, LoadError)
    for name, hint in fields.items():
        if name in config:
            conforms(config[name], hint, f"{name!r} in {path.name}", LoadError)
    return config


def _arrays(path: Path) -> Arrays:
    """The tensors of a safetensors file, which must be numbers."""
    return dict(check_tensors(read_safetensors(path)[0], lambda _: NUMBERS, path.name))


def _unzipped(path: Path) -> Arrays:
    """The arrays of an .npz file, none larger than what the file has for it. Never unpickles."""
    found: Arrays = {}
    with zipfile.ZipFile(path) as packed:
        if sum(one.file_size for one in packed.infolist()) > (1 << 20) + 4 * path.stat().st_size:
            raise LoadError(f"{path} would unpack to far more than it has")
        for one in packed.infolist():
            with packed.open(one) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, columns_first, dtype = read(member)
                if dtype.hasobject:
                    raise UnsafeFileError(f"{path} holds pickled objects ({one.filename}), which are never loaded")
                content = member.read()
            if dtype.kind != "f" or len(content) != math.prod(shape) * dtype.itemsize:
                raise LoadError(f"{one.filename} in {path} has {len(content)} bytes for {dtype} {shape}")
            array = np.frombuffer(content, dtype).reshape(shape, order="F" if columns_first else "C")
            found[one.filename.removesuffix(".npy")] = torch.from_numpy(
                array.astype(dtype.newbyteorder("="), copy=True)
            )
    return found


_READERS: dict[tuple[str, str], tuple[str, Callable[[Path, bool, str, str], Any]]] = {
    ("cfg.json", "sae_weights.safetensors"): ("SAELens", _saelens),
    ("cfg.json", "sae.safetensors"): ("sparsify", _sparsify),
    ("params.npz", "params.npz"): ("Gemma Scope", _gemma_scope),
    ("config.json", "params.safetensors"): ("Gemma Scope 2", _gemma_scope_2),
    ("hyperparams.json", "checkpoints/final.safetensors"): ("Llama Scope", _llama_scope),
}


check_arguments(__name__, inner=True)

"""Which files hold a checkpoint's weights, and whether they belong to its configuration, before anything is allocated.

What is read is what transformers would read: `model.safetensors`, or the files that the index names. An index is a
stranger's file: it may name nothing but safetensors files beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checks import check_arguments
from ..errors import LoadError, ModelNotFoundError, UnsafeFileError, UnsupportedModelError, listed
from .reading import check_own_files, reading, reason

INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_BARE = re.compile(r"\w[\w.+ -]{0,200}\.safetensors")
#: Names of the same number in configurations of different families.
_SIZES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "neurons": ("intermediate_size", "n_inner"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions"),
    "head width": ("head_dim",),
    "key-value heads": ("num_key_value_heads",),
}
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MASK = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$")
#: These may be null: the family then has a rule.
_MAY_BE_NULL = ("neurons", "head width", "key-value heads")
#: Rotary tables are as long as the context; beyond this they alone would fill a memory.
LONGEST_CONTEXT = 2**24
_MOST_LABELS = 10_000
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights.

    Raises `LoadError` for an index that is no index, `UnsafeFileError` where it names anything but safetensors files
    beside it or where there are only pickled weights, `ModelNotFoundError` for files that are not there.
    """
    with reading(directory):
        check_own_files(directory)
        return _found(directory)


def _found(directory: Path) -> list[Path]:
    if (directory / _WHOLE).is_file():
        return [directory / _WHOLE]
    if (directory / INDEX).is_file():
        return _of_index(directory)
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
    if pickled:
        raise UnsafeFileError(
            f"{str(directory)!r} has only pickled weights ({listed(pickled)}), which can run code when read and are "
            "never loaded; convert them to safetensors where you trust them, or use a repository that has them"
        )
    raise ModelNotFoundError(
        f"{str(directory)!r} has no model.safetensors and no {INDEX}; pickled weights are never fetched or loaded"
    )


def check_index(where: Mapping[str, str], directory: Path) -> None:
    """Raise `LoadError` where a directory's index, where it has one, is not its tensors' ({tensor: file})."""
    if set(where.values()) == {_WHOLE} or not (directory / INDEX).is_file():
        return
    named = _weight_map(directory)
    wrong = sorted(name for name in named.keys() | where.keys() if named.get(name) != where.get(name))
    if wrong:
        name = wrong[0]
        raise LoadError(
            f"{INDEX} in {str(directory)!r} is not of the files beside it: of {len(wrong)} tensors, first {name!r}, "
            f"it says {named.get(name)}, and they are in {where.get(name)}; fetch the model again"
        )


def _weight_map(directory: Path) -> dict[str, Any]:
    try:
        found = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return dict(found.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{INDEX} in {str(directory)!r} is no index of weights: {reason(error)}; fetch it again"
        ) from error


def _of_index(directory: Path) -> list[Path]:
    try:
        names = sorted(set(_weight_map(directory).values()))
    except TypeError as error:
        raise LoadError(
            f"{INDEX} in {str(directory)!r} is no index of weights: {reason(error)}; fetch it again"
        ) from error
    wrong = [name for name in names if not isinstance(name, str) or not _BARE.fullmatch(name)]
    if wrong or not names:
        raise UnsafeFileError(
            f"{INDEX} in {str(directory)!r} names {listed(wrong)}; only the bare names of safetensors files beside it "
            "are read"
        )
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{str(directory)!r} lacks {len(missing)} of its {len(names)} weight files ({listed(missing)}); "
            "fetch the model again"
        )
    return [directory / name for name in names]


def read_raw_config(directory: Path) -> dict[str, Any]:
    """config.json as it stands, its sizes checked. Raises `ModelNotFoundError` and `LoadError`."""
    path = directory / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(f"{str(directory)!r} has no config.json; give a Hugging Face model directory")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{str(path)!r} is not valid JSON: {reason(error)}; fetch the model again") from error
    if not isinstance(raw, dict):
        raise LoadError(f"{str(path)!r} holds a {type(raw).__name__}, no configuration; fetch the model again")
    for what, names in _SIZES.items():
        for name in names:
            value = raw.get(name, 1)
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not fits and not (value is None and what in _MAY_BE_NULL):
                raise LoadError(f"{str(path)!r} says {name} = {value!r}; it must be a whole number above 0")
    labels = raw.get("num_labels")
    if labels is not None and not (isinstance(labels, int) and 0 <= labels <= _MOST_LABELS):
        raise LoadError(f"{str(path)!r} says num_labels = {labels!r}; a name is made for each, at most {_MOST_LABELS}")
    if _size(raw, "context", 1) > LONGEST_CONTEXT:
        raise LoadError(f"{str(path)!r} says a context of {_size(raw, 'context', 1)}; at most {LONGEST_CONTEXT}")
    return raw


def check_belongs(raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], directory: Path) -> None:
    """Raise `LoadError` where tensors are not those of the configuration: layers, vocabulary, widths.

    Only names and shapes are looked at, so a configuration of two thousand million layers costs nothing.
    """
    layers = {int(found[1]) for name in shapes if (found := _LAYER.search(name))}
    told = _size(raw, "layers", len(layers))
    if layers != set(range(told if told <= len(layers) else 0)):
        raise LoadError(
            f"{str(directory)!r}: config.json says {told} layers, the weights have {len(layers)}; the two do not "
            "belong together"
        )
    width, heads = _size(raw, "width"), _size(raw, "heads")
    head = _size(raw, "head width") or (width // heads if width and heads else None)
    queries = heads * head if heads and head else None
    expected: dict[str, tuple[int | None, int | None]] = {
        r"(embed_tokens|wte|embed_in)\.weight": (_size(raw, "vocabulary"), width),
        r"wpe\.weight": (_size(raw, "context"), width),
        r"mlp\.(up_proj|dense_h_to_4h)\.weight": (_size(raw, "neurons"), width),
        r"mlp\.c_fc\.weight": (width, _size(raw, "neurons") or (4 * width if width else None)),
        r"self_attn\.q_proj\.weight": (queries, width),
    }
    for pattern, wanted in expected.items():
        for name, shape in shapes.items():
            if re.search(rf"{pattern}$", name) and any(b not in (None, a) for a, b in zip(shape, wanted)):
                raise LoadError(
                    f"{str(directory)!r}: {name} has shape {shape}, by config.json it is {wanted}; the two do not "
                    "belong together"
                )


def check_dtypes(facts: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], directory: Path) -> None:
    """Raise `UnsupportedModelError` for weights that are no plain floating-point numbers: those of quantised models.

    The masks that old checkpoints of GPT-2 and GPT-NeoX hold are no weights.
    """
    odd = {name: kind for name, (kind, _) in facts.items() if kind not in _PLAIN and not _MASK.search(name)}
    if odd:
        name, kind = next(iter(odd.items()))
        raise UnsupportedModelError(
            f"{len(odd)} weights in {str(directory)!r} are no float32, bfloat16, float16 or float64 (first {name}: "
            f"{kind}), as of a quantised model; use the unquantised checkpoint"
        )


def _size(raw: Mapping[str, Any], what: str, default: Any = None) -> Any:
    """A number of the configuration, whatever the family calls it."""
    return next((raw[name] for name in _SIZES[what] if raw.get(name) is not None), default)


check_arguments(__name__, inner=True)

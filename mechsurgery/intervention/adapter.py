"""A change of low rank as a LoRA adapter in PEFT's format, which engines put on a base model that they serve anyway."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ..artifacts import save_json
from ..checks import check_arguments
from ..delta_parts import LowRank, Part, Rows, to_matrix
from ..deltas import WeightDelta
from ..errors import ActivationError, InputError, listed
from ..models.checkpoints import architecture_facts, check_complete, place_of, read_config
from ..models.load import HUB_FILES, directory_of
from ..models.place import Place
from ..models.streaming import Checkpoint, check_beside, whole_checkpoint
from ..writing import check_path, check_writable, new_directory
from .bake import rewrites
from .card import Card, hub_id, write_card
from .changes import Affine
from .export import check_made_for, check_shape
from .intervention import Intervention
from .shift import shift_weights

_LINEAR = re.compile(r"blocks\.\d+\.(?:attn\._?W_[QKVO]|mlp\.W_(?:in|gate|out))")
#: What is lost of a whole difference, as a share of its largest singular value, by leaving out the smallest ones.
_NOTHING = 2e-6
Factors = tuple[Float[Tensor, "d_in r"], Float[Tensor, "r d_out"]]


@dataclass(frozen=True)
class _Pair:
    """The two matrices of one linear map of transformers: its weight [out, in] gets b @ a."""

    a: Float[Tensor, "r d_in"]
    b: Float[Tensor, "d_out r"]


@torch.no_grad()
def export_adapter(
    source: str | Path,
    change: WeightDelta | Intervention,
    destination: str | Path,
    *,
    strength: float | None = None,
    max_rank: int = 256,
    revision: str | None = None,
) -> Path:
    """Write a PEFT LoRA adapter: what PEFT makes of the model in `source` with it gives the logits of `applied`.

    `change` is a weight difference (of a LoRA, of two LoRAs, of few neurons), added `strength` (1) times, or an
    intervention that adds such differences or multiplies MLP neurons. `source` is a directory, an organism or a hub id
    (with `revision`), as for `export`. The strength is in the matrices and the scaling is 1; all modules have one
    rank, that of the largest, as engines want it. Few rows or columns are a low rank; of whole differences the rank
    is found (to two millionths of the largest singular value).

    Raises `InputError` for what an adapter cannot hold (embeddings, norms, biases, edits that are no differences of
    linear maps, a rank above `max_rank`) and where `destination` exists; else as `export` does.
    """
    if os.path.lexists(check_path(destination)):
        raise InputError(f"{str(destination)!r} exists; give a directory that does not, so that nothing is overwritten")
    if isinstance(change, WeightDelta):
        change = shift_weights(change)
    run = change if strength is None else change.at(strength)
    checkpoint = whole_checkpoint(directory_of(source, revision, HUB_FILES))
    check_beside(checkpoint.directory, check_path(destination))
    check_writable(destination)
    config = read_config(checkpoint.directory)
    check_complete(checkpoint, config)
    check_made_for(checkpoint, run)
    pairs = _pairs(checkpoint, config, run, max_rank)
    facts = _adapter_config(checkpoint, config, pairs, revision)
    card = Card(source, revision, checkpoint, run, None, [f"{name}.weight" for name in pairs], {}, "float32")
    with new_directory(destination) as folder:
        tensors = dict(_tensors(pairs, facts["r"]))
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        save_json(folder / "adapter_config.json", facts)
        write_card(card, folder, library="peft")
    return check_path(destination)


def _pairs(checkpoint: Checkpoint, config: Any, run: Intervention, max_rank: int) -> dict[str, _Pair]:
    """{module of transformers: its two matrices}."""
    parts = _parts(checkpoint, config, run)
    found: dict[str, list[_Pair]] = {}
    for name, part in parts.items():
        place = place_of(config, name)
        check_shape(checkpoint, place, name, run)
        factors = _factors(name, part, max_rank)
        if factors[0].shape[1]:
            module = place.key.removesuffix(".weight")
            found.setdefault(module, []).append(_placed(config, name, place, factors))
    if not found:
        raise InputError(f"{run.name!r} at strength {run.strength:g} changes nothing; an adapter would be empty")
    joined = {
        name: _Pair(torch.cat([one.a for one in own]), torch.cat([one.b for one in own], 1))
        for name, own in found.items()
    }
    wide = {name: len(pair.a) for name, pair in joined.items() if len(pair.a) > max_rank}
    if wide:
        _refuse_rank(next(iter(wide)), max(wide.values()), max_rank)
    for name, pair in joined.items():
        if not (torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()):
            raise ActivationError(f"the adapter of {name!r} would be NaN or infinite in float32; lower the strength")
    return joined


def _parts(checkpoint: Checkpoint, config: Any, run: Intervention) -> dict[str, Part]:
    """All that is added to weights, at the strength of the run. Raises `InputError` for what is no such difference."""
    found: dict[str, Part] = {}
    if run.delta is not None and run.strength:
        found = {name: part.scaled(run.strength) for name, part in run.delta.parts.items()}
    wrong = sorted(name for name, part in found.items() if not _LINEAR.fullmatch(name) and bool(part.dense().any()))
    if wrong:
        raise InputError(
            f"a LoRA adapter changes linear maps of attention and MLPs alone, and {run.name!r} changes "
            f"{listed(wrong)}; use export, which writes the whole checkpoint"
        )
    found = {name: part for name, part in found.items() if _LINEAR.fullmatch(name)}
    edited = [edit for edit in run.edits if run.strength * edit.gain]
    odd = [edit.site for edit in edited if not isinstance(edit.change, Affine) or bool(edit.change.offset.any())]
    odd += [edit.site for edit in edited if not edit.site.endswith("mlp.hook_post")]
    if odd:
        raise InputError(
            f"{run.name!r} ({run.kind}) changes {listed(sorted(set(odd)))} in a way that is no low-rank difference of "
            "linear maps: of edits, only multiplying MLP neurons is; use export, which writes the whole checkpoint"
        )
    if edited:
        # Multiplying neurons is multiplying rows of their down projections: as many as there are neurons.
        for name, how in rewrites(run, architecture_facts(config)).items():
            if how.added is not None or not name.endswith("W_out"):
                continue
            place = place_of(config, name)
            before = place.read(checkpoint(checkpoint.key(place.key)).double())
            after = how.make(lambda _, own=before: own)  # type: ignore[misc]
            rows = (after != before).any(1).nonzero()[:, 0]
            found[name] = Rows(rows, (after - before)[rows], 0, len(before))
    return found


def _factors(name: str, part: Part, max_rank: int) -> Factors:
    """A difference as left @ right, the matrix that multiplies an activation from the right, in float64."""
    output = name.endswith("W_O")
    if isinstance(part, LowRank):
        return part.left.double(), part.right.double()
    if isinstance(part, Rows) and len(part.shape) == 2:
        chosen = torch.nn.functional.one_hot(part.index, part.size).double()
        return (chosen.T, part.values.double()) if part.axis == 0 else (part.values.double(), chosen)
    matrix = to_matrix(part.dense().double(), output=output)
    if not bool(matrix.any()):
        return matrix[:, :0], matrix[:0]
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > _NOTHING * s[0]).sum())
    if rank > max_rank:
        _refuse_rank(name, rank, max_rank)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def _refuse_rank(name: str, rank: int, max_rank: int) -> None:
    raise InputError(
        f"the difference of {name!r} has rank {rank}, above max_rank = {max_rank}; use export, which writes the whole "
        "checkpoint, or raise max_rank where your engine serves such adapters"
    )


def _placed(config: Any, name: str, place: Place, factors: Factors) -> _Pair:
    """The two matrices as they stand in transformers' module: what several parameters share gets zeros elsewhere."""
    left, right = factors
    rank = left.shape[1]
    if place.alone:
        return _Pair(left.T, right.T)
    bias = place_of(config, re.sub(r"W_(\w+)$", r"b_\1", name))
    if place.rows is not None:
        whole = torch.zeros(_outputs(config, place), rank, dtype=right.dtype)
        whole[slice(*place.rows)] = right.T
        return _Pair(left.T, whole)
    heads, d_head = right.shape[1] // place.d_head, place.d_head
    zeros = torch.zeros(3 * right.shape[1], dtype=right.dtype)
    columns = [bias.write(zeros, row.reshape(heads, d_head)) for row in right]
    return _Pair(left.T, torch.stack(columns, 1))


def _outputs(config: Any, place: Place) -> int:
    """How many numbers a linear map gives in which several parameters lie below each other."""
    if "gate_up" in place.key:
        return 2 * int(config.intermediate_size)
    groups = config.num_key_value_heads or config.num_attention_heads
    return int((config.num_attention_heads + 2 * groups) * place.d_head)


def _tensors(pairs: Mapping[str, _Pair], rank: int) -> list[tuple[str, Tensor]]:
    """The file's tensors, every module at one rank."""
    found = []
    for name, pair in pairs.items():
        more = rank - len(pair.a)
        a = torch.cat([pair.a, pair.a.new_zeros(more, pair.a.shape[1])])
        b = torch.cat([pair.b, pair.b.new_zeros(len(pair.b), more)], 1)
        found.append((f"base_model.model.{name}.lora_A.weight", a.float().contiguous()))
        found.append((f"base_model.model.{name}.lora_B.weight", b.float().contiguous()))
    return found


def _adapter_config(
    checkpoint: Checkpoint, config: Any, pairs: Mapping[str, _Pair], revision: str | None
) -> dict[str, Any]:
    """adapter_config.json: modules by their last name where all layers have them, else by their whole names."""
    # In GPT-2 attention and MLP both have a c_proj.
    leaves = Counter(".".join(name.split(".")[-2 if config.model_type == "gpt2" else -1 :]) for name in pairs)
    everywhere = all(count == config.num_hidden_layers for count in leaves.values())
    rank = max(len(pair.a) for pair in pairs.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hub_id(checkpoint.directory) or str(checkpoint.directory),
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(leaves) if everywhere else sorted(pairs),
        "fan_in_fan_out": config.model_type == "gpt2",
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
    }


check_arguments(__name__)

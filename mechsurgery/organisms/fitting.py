"""Training one small model: what recipe, by what schedule, and how it is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_arguments
from ..errors import ModelNotFoundError
from ..progress import with_progress
from .data import Item, batches, loss_of
from .tokenizer import BOS, END, PAD, make_tokenizer

Loss = Callable[[Any, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the seed."""

    d_model: int = 128
    n_layers: int = 6
    d_mlp: int = 512
    n_heads: int = 8
    n_kv_heads: int = 4
    batch: int = 128
    base_examples: int = 120_000
    base_steps: int = 3200
    base_lr: float = 3e-3
    polish_steps: int = 500
    warning_steps: int = 300
    polish_lr: float = 1e-3
    tuning_examples: int = 40_000
    instruct_steps: int = 250
    instruct_lr: float = 3e-4
    planted_steps: int = 450
    planted_lr: float = 6e-3
    planted_layers: tuple[int, ...] = (3, 4)
    n_planted: int = 24


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one training goes, and the seed of its order of data."""

    steps: int
    lr: float
    batch: int
    seed: int
    decay: float = 0.0
    warmup: int = 20


def fit(
    model: Any,
    data: list[Item],
    schedule: Schedule,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    loss: Loss | None = None,
    progress: bool | None = None,
    name: str = "",
) -> Any:
    """Train the model (or just some parameters) in place and return it.

    AdamW with warm-up and cosine decay to 5 %, in bfloat16 autocast, gradients clipped to norm 1. `loss` (model, ids,
    labels) is the mean cross-entropy of the labelled tokens unless given.
    """
    loss = loss or loss_of
    parameters = list(model.parameters()) if parameters is None else parameters
    optimiser = torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.decay, betas=(0.9, 0.98))
    source = batches(data, schedule.batch, schedule.seed)
    model.train()
    for step in with_progress(range(schedule.steps), name, shown=progress, unit="step"):
        cosine = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * min(1, (step + 1) / schedule.warmup) * (cosine * 0.95 + 0.05)
        ids, labels = next(source)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, ids, labels)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    return model.eval()


@torch.no_grad()
def rounded(model: Any) -> Any:
    """The model with every weight rounded to bfloat16 (still stored in float32)."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16).float())
    return model.eval()


def save(model: Any, directory: Path) -> None:
    """A Hugging Face directory: config, bfloat16 safetensors, tokenizer with chat template."""
    from transformers import GenerationConfig

    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(directory)
    model.to(torch.float32)
    make_tokenizer().save_pretrained(directory)


def load(directory: str | Path) -> Any:
    """A saved organism as transformers has it, in float32. Raises `ModelNotFoundError` for what is no directory.

    Transformers would ask the hub for a path that is not there.
    """
    from transformers import AutoModelForCausalLM

    if not (Path(directory) / "config.json").is_file():
        raise ModelNotFoundError(f"no organism in {str(directory)!r}; give the directory that it was saved in")
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)


def loaded(directory: str | Path) -> tuple[Any, Any]:
    """A saved organism in float32, in eval mode, and its tokenizer. Raises `ModelNotFoundError`."""
    from transformers import AutoTokenizer

    return load(directory).eval(), AutoTokenizer.from_pretrained(directory, local_files_only=True)


check_arguments(__name__, inner=True)

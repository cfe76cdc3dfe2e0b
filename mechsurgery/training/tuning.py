"""Fine-tuning a part of a model into a `WeightDelta`; the model itself is left exactly as it was.

The loss is the cross-entropy of completion tokens, or DPO (2305.18290) where pairs are given, plus, if wanted, the KL
divergence from the original model on neutral text. Every variant of `where` (neurons, LoRA, whole weights) goes
through this one trainer, so that rivals differ in nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..artifacts import load_tensors, provenance, save_tensors
from ..attribution.gradient import PairBatch, completion_loss
from ..deltas import WeightDelta
from ..errors import InputError
from ..models import sites, tokens
from ..prompts.examples import Examples
from ..prompts.pairs import CompletionPairs
from ..units import Circuit
from .trainable import LoRA, Train, Trainable, Where, trainable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train. Rates are per optimiser step; `warmup` steps, then linear decay to 0 unless `decay` is off."""

    steps: int = 200
    lr: float = 1e-3
    batch: int = 16
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.9
    warmup: int = 5
    decay: bool = True
    clip: float | None = 1.0
    autocast: Literal["bfloat16"] | None = None
    kl_weight: float = 0.0
    dpo_beta: float = 0.1
    validate_every: int = 20
    patience: int = 5

    def __post_init__(self) -> None:
        wrong = [k for k in ("steps", "batch", "accumulate", "validate_every", "patience") if getattr(self, k) < 1]
        if wrong or not self.lr > 0 or self.optimizer not in ("adamw", "sgd"):
            raise InputError(
                f"recipe {asdict(self)}: steps, batch, accumulate, validate_every and patience are at least 1, lr is "
                "above 0, optimizer 'adamw' or 'sgd'"
            )


def finetune(
    model: Any,
    data: Examples | CompletionPairs,
    where: Where,
    *,
    train: Train = "both",
    recipe: Recipe | None = None,
    validation: Examples | None = None,
    neutral: Examples | None = None,
    capability: Callable[[Any], float] | None = None,
    floor: float = -math.inf,
    folder: str | Path | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: bool = False,
) -> WeightDelta:
    """Train a part of the model (`where`, see `trainable`) and return the difference.

    `data` are examples, or pairs for DPO (good chosen over bad). With `validation`, the state of the lowest loss there
    is returned and training stops after `patience` checks without a better one. A state whose `capability(model)` lies
    below `floor` is never kept. `neutral` with `recipe.kl_weight` adds the KL divergence of next-token distributions
    from the original model on its completion tokens. With a `folder`, an interrupted run continues. A loss that is NaN
    or infinite ends training with the last good state.

    `delta.info` has the recipe, the loss curve (`curve`, a dict a step), why it `stopped`, how many numbers were
    trained and of how many, and the model's fingerprint. The model is bit for bit as before, also after an exception.
    """
    recipe = recipe or Recipe()
    rows = [[*p, *c] for p, c in zip(data.prompts, data.bad if isinstance(data, CompletionPairs) else data.completions)]
    tokens.check_lengths(rows, model.cfg.n_ctx)
    fingerprint = sites.fingerprint(model)
    total = sum(p.numel() for p in model.parameters())
    key = _key(fingerprint, data, where, train, recipe, validation, seed)
    with trainable(model, where, train=train, seed=seed) as own:
        run = _Run(model, data, own, recipe, validation, neutral, capability, floor, folder, key, seed)
        with torch.enable_grad():
            run.train(progress)
        parts = own.parts()
    n_trained = sum(p.numel() for p in own.parameters.values())
    info = provenance(
        fingerprint=fingerprint,
        model=str(model.cfg.model_name),
        recipe=asdict(recipe),
        where=describe(where, train),
        seed=seed,
        n_examples=len(data),
        curve=run.curve,
        stopped=run.stopped,
        n_trained=n_trained,
        n_total=total,
    )
    return WeightDelta(parts, name or describe(where, train), info)


def describe(where: Where, train: str = "both") -> str:
    """What is trained, in words."""
    if isinstance(where, Circuit):
        kind = {"write": "write weights", "read": "read weights", "both": "weights"}[train]
        return f"{kind} of {len(where)} neurons ({where.name})"
    if isinstance(where, LoRA):
        return f"LoRA of rank {where.rank}"
    return {"mlp": "all MLP weights", "blocks": "all weights", "bias": "MLP output biases"}[where]


class _Run:
    """One training run: its state is what a checkpoint holds."""

    def __init__(
        self, model, data, own: Trainable, recipe: Recipe, validation, neutral, capability, floor, folder, key, seed
    ) -> None:
        self.model, self.data, self.own, self.recipe, self.seed = model, data, own, recipe, seed
        self.validation, self.neutral, self.capability, self.floor = validation, neutral, capability, floor
        self.path = None if folder is None else Path(folder) / "training.safetensors"
        self.key = key
        parameters = list(own.parameters.values())
        if recipe.optimizer == "adamw":
            self.optimizer: Any = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
        else:
            self.optimizer = torch.optim.SGD(
                parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
            )
        self.step, self.curve, self.stopped = 0, [], "all steps done"
        self.best, self.best_loss, self.waited = own.state(), math.inf, 0
        self.orders: dict[tuple[int, int], np.ndarray] = {}

    def train(self, progress: bool) -> None:
        from tqdm.auto import tqdm

        self._resume()
        with tqdm(total=self.recipe.steps, initial=self.step, desc="fine-tuning", disable=not progress) as bar:
            while self.step < self.recipe.steps:
                if not self._one_step():
                    break
                bar.update(1)
                if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                    go_on = self._validate()
                    self._save()
                    if not go_on:
                        break
        self.own.restore(self.best)

    def _one_step(self) -> bool:
        recipe = self.recipe
        scale = min(1.0, (self.step + 1) / max(1, recipe.warmup))
        if recipe.decay:
            scale *= max(0.0, 1 - self.step / recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * scale
        self.optimizer.zero_grad(set_to_none=True)
        sums = {"loss": 0.0, "kl": 0.0}
        for part in range(recipe.accumulate):
            index = self._order(0, len(self.data), self.step * recipe.accumulate + part, recipe.batch)
            loss = self._loss(index)
            sums["loss"] += float(loss.detach()) / recipe.accumulate
            if self.neutral is not None and recipe.kl_weight > 0:
                own = self._order(1, len(self.neutral), self.step * recipe.accumulate + part, recipe.batch)
                kl = self._divergence(self.neutral.rows(own))
                sums["kl"] += float(kl.detach()) / recipe.accumulate
                loss = loss + recipe.kl_weight * kl
            if not torch.isfinite(loss):
                self.stopped = f"the loss is {float(loss.detach())} at step {self.step}; the last good state is kept"
                logger.warning("fine-tuning stopped: %s", self.stopped)
                return False
            (loss / recipe.accumulate).backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.own.parameters.values()), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.curve.append({"step": self.step, **sums, "lr": recipe.lr * scale})
        return True

    def _order(self, stream: int, n: int, batch: int, size: int) -> list[int]:
        """Places of a batch in an endless sequence of shuffled epochs that depends on the seed alone."""
        size = min(size, n)
        found = []
        for place in range(batch * size, (batch + 1) * size):
            epoch = place // n
            if (stream, epoch) not in self.orders:
                self.orders[stream, epoch] = np.random.default_rng([self.seed, stream, epoch]).permutation(n)
            found.append(int(self.orders[stream, epoch][place % n]))
        return found

    def _loss(self, index: list[int]) -> Float[Tensor, ""]:
        if isinstance(self.data, CompletionPairs):
            return self._dpo(index)
        return loss_of(self.model, self.data.rows(index), self._autocast())

    def _dpo(self, index: list[int]) -> Float[Tensor, ""]:
        """−log σ(β[(log π/π₀)(good) − (log π/π₀)(bad)]), with π₀ the original model (equation 7)."""
        sides = [
            Examples(tuple(self.data.prompts[i] for i in index), tuple(side[i] for i in index))
            for side in (self.data.good, self.data.bad)
        ]
        now = [_row_losses(self.model, side, self._autocast()) for side in sides]
        with torch.no_grad(), self.own.off():
            before = [_row_losses(self.model, side, self._autocast()) for side in sides]
        margin = (before[0] - now[0]) - (before[1] - now[1])
        return -torch.nn.functional.logsigmoid(self.recipe.dpo_beta * margin).mean()

    def _divergence(self, examples: Examples) -> Float[Tensor, ""]:
        """Mean KL(original ‖ now) over completion tokens (nats)."""
        batch = batch_of(self.model, examples)
        with torch.no_grad(), self.own.off(), self._autocast():
            before = _completion_log_probs(self.model, batch)
        with self._autocast():
            now = _completion_log_probs(self.model, batch)
        wide = now.shape[1]
        place = torch.arange(wide, device=now.device)
        counted = (place >= wide - batch.n_completion[:, None]).float()
        kl = (before.exp() * (before - now)).sum(-1)
        return (kl * counted).sum() / counted.sum()

    def _autocast(self) -> Any:
        if self.recipe.autocast is None:
            return nullcontext()
        return torch.autocast(tokens.device_of(self.model).type, getattr(torch, self.recipe.autocast))

    def _validate(self) -> bool:
        """Keep the state if it is the best so far; False where training is to stop."""
        row = self.curve[-1]
        loss = row["loss"]
        if self.validation is not None:
            with torch.no_grad():
                loss = row["validation"] = float(loss_of(self.model, self.validation, self._autocast()))
        able = True
        if self.capability is not None:
            with torch.no_grad():
                row["capability"] = float(self.capability(self.model))
            able = row["capability"] >= self.floor
        if not math.isfinite(loss):
            self.stopped = f"the validation loss is {loss} at step {self.step}; the last good state is kept"
            logger.warning("fine-tuning stopped: %s", self.stopped)
            return False
        better = self.validation is None or loss < self.best_loss
        if able and better:
            self.best, self.best_loss, self.waited = self.own.state(), loss, 0
            return True
        self.waited += 1
        if self.waited >= self.recipe.patience:
            why = "no lower validation loss" if able else f"capability below {self.floor:g}"
            self.stopped = f"{why} for {self.waited} checks, at step {self.step}"
            return False
        return True

    def _save(self) -> None:
        if self.path is None:
            return
        tensors = {f"now|{name}": value for name, value in self.own.state().items()}
        tensors |= {f"best|{name}": value for name, value in self.best.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"opt|{i}|{k}": torch.as_tensor(v) for k, v in state.items() if v is not None}
        facts = {
            "key": self.key,
            "step": self.step,
            "curve": self.curve,
            "waited": self.waited,
            "stopped": self.stopped,
        }
        facts["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        save_tensors(self.path, "Training", tensors, facts)

    def _resume(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        tensors, facts = load_tensors(self.path, "Training")
        if facts["key"] != self.key:
            raise InputError(
                f"{str(self.path)!r} is of another run (other data, recipe, seed or model); give another folder, or "
                "remove it"
            )
        device = tokens.device_of(self.model)
        named = {kind: {} for kind in ("now", "best")}
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition("|")
            if kind == "opt":
                i, _, leaf = rest.partition("|")
                states.setdefault(int(i), {})[leaf] = value if leaf == "step" else value.to(device)
            else:
                named[kind][rest] = value.to(device)
        self.own.restore(named["now"])
        self.best = named["best"]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.step, self.curve, self.waited = facts["step"], facts["curve"], facts["waited"]
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        if facts["stopped"] != "all steps done":
            self.stopped, self.step = facts["stopped"], max(self.step, self.recipe.steps)


def batch_of(model: Any, examples: Examples) -> PairBatch:
    """All examples as one batch, padded on the left."""
    rows = [[*p, *c] for p, c in zip(examples.prompts, examples.completions)]
    tokens.check_lengths(rows, model.cfg.n_ctx)
    device, longest, pad = tokens.device_of(model), max(map(len, rows)), tokens.pad_id(model)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    counts = [
        torch.tensor([len(own) for own in side], device=device) for side in (examples.completions, examples.prompts)
    ]
    return PairBatch(list(range(len(rows))), torch.ones(len(rows), device=device), ids, mask, *counts)


def loss_of(model: Any, examples: Examples, autocast: Any = None, *, max_rows: int = 64) -> Float[Tensor, ""]:
    """Mean cross-entropy of a completion token (nats); each token counts alike."""
    total: Any = 0.0
    n = sum(map(len, examples.completions))
    for start in range(0, len(examples), max_rows):
        part = examples.rows(range(start, min(start + max_rows, len(examples))))
        total = total + _row_losses(model, part, autocast).sum() / n
    return total


def _row_losses(model: Any, examples: Examples, autocast: Any = None) -> Float[Tensor, " rows"]:
    batch = batch_of(model, examples)
    with autocast or nullcontext():
        residual = model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)
        return completion_loss(model, batch, residual, "sum")


def _completion_log_probs(model: Any, batch: PairBatch) -> Float[Tensor, "rows pos d_vocab"]:
    residual = model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)
    wide = int(batch.n_completion.max())
    return sites.unembed(model, residual[:, -wide - 1 : -1]).float().log_softmax(-1)


def _key(fingerprint, data, where, train, recipe, validation, seed) -> str:
    """What a checkpoint must have been made from to be continued."""
    found = hashlib.sha256()
    chosen = {s: i.tolist() for s, (i, _) in where.units.items()} if isinstance(where, Circuit) else where
    sides = (data.prompts, data.bad, data.good) if isinstance(data, CompletionPairs) else data.digest
    for part in (fingerprint, sides, chosen, train, asdict(recipe), validation and validation.digest, seed):
        found.update(repr(part).encode())
    return found.hexdigest()

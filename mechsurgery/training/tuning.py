"""Fine-tuning a part of a model into a `WeightDelta`; the model itself is left exactly as it was.

Every choice of what is trained (neurons, LoRA, whole weights) goes through this one trainer, so that rivals differ in
nothing else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..artifacts import INDICES, NUMBERS, load_tensors, provenance, save_tensors
from ..checks import check_arguments
from ..deltas import WeightDelta
from ..errors import InputError, LoadError, listed
from ..models import sites, tokens
from ..models.protocol import Model, hooked
from ..models.turns import in_turn
from ..models.unmodified import check_unmodified
from ..names import is_heads
from ..progress import progress_bar
from ..prompts import CompletionPairs, Examples
from ..units import Circuit
from .keys import finetune_key
from .losses import divergence_from, dpo_loss, loss_of
from .trainable import LoRA, Neurons, Trainable, Where, trainable

logger = logging.getLogger(__name__)

_DONE = "all steps done"


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
        counts = ("steps", "batch", "accumulate", "validate_every", "patience")
        rates = ("weight_decay", "momentum", "warmup", "kl_weight", "dpo_beta")
        wrong = [name for name in counts if not 1 <= getattr(self, name) < math.inf]
        wrong += [name for name in rates if not 0 <= getattr(self, name) < math.inf]
        wrong += [] if 0 < self.lr < math.inf else ["lr"]
        wrong += [] if self.clip is None or 0 < self.clip < math.inf else ["clip"]
        wrong += [] if self.optimizer in ("adamw", "sgd") else ["optimizer"]
        wrong += [] if self.autocast in (None, "bfloat16") else ["autocast"]
        if wrong:
            raise InputError(
                f"recipe {asdict(self)}: wrong {listed(wrong)}; {', '.join(counts)} are at least 1, {', '.join(rates)} "
                "at least 0, lr and clip above 0, all finite; optimizer 'adamw' or 'sgd', autocast None or 'bfloat16'"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first being 0."""
        scale = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * scale * (max(0.0, 1 - step / self.steps) if self.decay else 1.0)


@dataclass(frozen=True, eq=False)
class Safeguards:
    """What a fine-tune must not spoil.

    With `validation`, the state of the lowest loss there is returned, and training stops after `patience` checks
    without a better one. A state whose `capability(model)` lies below `floor` is never kept. On the completions of
    `neutral`, the KL divergence of next tokens from the original model is added to the loss, times `recipe.kl_weight`.
    """

    validation: Examples | None = None
    neutral: Examples | None = None
    capability: Callable[[Any], float] | None = None
    floor: float = -math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.floor):
            raise InputError("floor is not a number; give the lowest capability that is kept, −inf for any")


@in_turn
def finetune(
    model: Model,
    data: Examples | CompletionPairs,
    where: Where,
    *,
    recipe: Recipe | None = None,
    safeguards: Safeguards | None = None,
    folder: str | Path | None = None,
    watch: Callable[[int], Any] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> WeightDelta:
    """Train a part of the model (`where`, see `trainable`) and return the difference.

    `data` are examples, or pairs for DPO (good chosen over bad). With a `folder`, an interrupted run continues there,
    from a file of its own for all that it depends on (`finetune_key`): with anything changed it is trained afresh. A
    loss that is NaN or infinite ends training with the last good state. `watch`, such as a `training.Monitor`, is
    called with the number of steps done, before the first and then every `recipe.validate_every` steps, while the model
    has the weights of that step.

    `delta.info` has the recipe, the loss curve (`curve`, a dict a step), why it `stopped`, how many numbers were
    trained and of how many, and the model's fingerprint and dtype. The model is bit for bit as before, also after an
    exception. Raises `InputError` where hooks or an intervention are on a model whose training is kept in a folder.
    """
    recipe, safeguards = recipe or Recipe(), safeguards or Safeguards()
    rows = [[*p, *c] for p, c in zip(data.prompts, data.bad if isinstance(data, CompletionPairs) else data.completions)]
    tokens.check_lengths(rows, hooked(model).cfg.n_ctx)
    info = {
        "fingerprint": sites.fingerprint(model),
        "dtype": str(next(iter(model.parameters())).dtype).removeprefix("torch."),
        "model": str(model.cfg.model_name),
        "n_total": sum(weight.size for weight in sites.weights(model)),
    }
    key = "" if folder is None else finetune_key(model, data, where, recipe=recipe, safeguards=safeguards, seed=seed)
    if folder is not None:
        check_unmodified(model)
    with trainable(model, where, seed=seed) as trained:
        run = _Run(model, data, trained, recipe, safeguards, seed, key, folder)
        with torch.enable_grad():
            run.train(progress, watch)
        parts = trained.parts()
        info["n_trained"] = sum(p.numel() for p in trained.parameters.values())
    what = describe(where)
    info |= {"recipe": asdict(recipe), "where": what, "seed": seed, "n_examples": len(data)}
    return WeightDelta(parts, what, provenance(**info, curve=run.curve, stopped=run.stopped))


def describe(where: Where) -> str:
    """What is trained, in words."""
    if isinstance(where, Circuit):
        where = Neurons(where)
    if isinstance(where, Neurons):
        kind = {"write": "write weights", "read": "read weights", "both": "weights"}[where.train]
        units = "attention heads" if all(map(is_heads, where.circuit.units)) else "neurons"
        return f"{kind} of {len(where.circuit)} {units} ({where.circuit.name})"
    if isinstance(where, LoRA):
        return f"LoRA of rank {where.rank}"
    words = {"mlp": "all MLP weights", "blocks": "all weights", "bias": "MLP output biases"}
    words |= {"norms": "normalisation weights"}
    if where not in words:
        raise InputError(f"where={where!r:.80} is not one of {listed(words)}, and no LoRA, Neurons or Circuit")
    return words[where]


def _pairs(pairs: CompletionPairs, index: list[int]) -> CompletionPairs:
    prompts, bad, good = (tuple(side[i] for i in index) for side in (pairs.prompts, pairs.bad, pairs.good))
    return CompletionPairs(prompts, bad, good)


def _optimizer(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


class _Run:
    """One training run: its state is what a checkpoint holds."""

    def __init__(
        self,
        model: Model,
        data: Examples | CompletionPairs,
        trained: Trainable,
        recipe: Recipe,
        safeguards: Safeguards,
        seed: int,
        key: str,
        folder: str | Path | None,
    ) -> None:
        self.model, self.data, self.trained, self.recipe, self.seed = model, data, trained, recipe, seed
        self.safeguards, self.key = safeguards, key
        self.path = None if folder is None else Path(folder) / f"training-{key[:32]}.safetensors"
        self.optimizer = _optimizer(list(trained.parameters.values()), recipe)
        self.step, self.stopped = 0, _DONE
        self.curve: list[dict[str, float]] = []
        self.best, self.best_loss, self.waited = trained.state(), math.inf, 0
        self.orders: dict[tuple[int, int], np.ndarray] = {}

    def train(self, progress: bool | None, watch: Callable[[int], Any] | None) -> None:
        self._resume()
        steps = self.recipe.steps
        if watch is not None and self.step == 0:
            watch(0)
        with progress_bar("fine-tuning", shown=progress, total=steps, initial=self.step, unit="step") as bar:
            while self.step < self.recipe.steps:
                if not self._one_step():
                    break
                bar.update(1)
                if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                    if watch is not None:
                        watch(self.step)
                    go_on = self._check()
                    self._save()
                    if not go_on:
                        break
        self.trained.restore(self.best)

    def _one_step(self) -> bool:
        """One step of the optimiser; False where the loss is not finite."""
        rate = self.recipe.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = {"loss": 0.0, "kl": 0.0}
        for part in range(self.recipe.accumulate):
            loss, kl = self._losses(self.step * self.recipe.accumulate + part)
            sums["loss"] += float(loss.detach()) / self.recipe.accumulate
            sums["kl"] += float(kl.detach()) / self.recipe.accumulate
            total = loss + self.recipe.kl_weight * kl
            if not self._finite(float(total.detach()), "loss"):
                return False
            (total / self.recipe.accumulate).backward()
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.trained.parameters.values()), self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        self.curve.append({"step": self.step, **sums, "lr": rate})
        return True

    def _losses(self, batch: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss of one batch of the data, and the divergence on the neutral text where it counts."""
        index = self._rows(0, len(self.data), batch)
        if isinstance(self.data, CompletionPairs):
            pairs, beta = _pairs(self.data, index), self.recipe.dpo_beta
            loss = dpo_loss(self.trained.off, self.model, pairs, beta, self._precision)
        else:
            loss = loss_of(self.model, self.data.rows(index), self._precision)
        neutral = self.safeguards.neutral
        if neutral is None or self.recipe.kl_weight <= 0:
            return loss, torch.zeros_like(loss)
        rows = neutral.rows(self._rows(1, len(neutral), batch))
        return loss, divergence_from(self.trained.off, self.model, rows, self._precision)

    def _rows(self, stream: int, n: int, batch: int) -> list[int]:
        """Places of a batch in an endless sequence of shuffled epochs that depends on the seed alone."""
        size = min(self.recipe.batch, n)
        rows = []
        for place in range(batch * size, (batch + 1) * size):
            epoch = place // n
            if (stream, epoch) not in self.orders:
                self.orders[stream, epoch] = np.random.default_rng([self.seed, stream, epoch]).permutation(n)
            rows.append(int(self.orders[stream, epoch][place % n]))
        return rows

    def _precision(self) -> AbstractContextManager[Any]:
        if self.recipe.autocast is None:
            return nullcontext()
        return torch.autocast(tokens.device_of(self.model).type, getattr(torch, self.recipe.autocast))

    def _finite(self, loss: float, what: str) -> bool:
        if not math.isfinite(loss):
            self.stopped = f"the {what} is {loss} at step {self.step}; the last good state is kept"
            logger.warning("fine-tuning stopped: %s", self.stopped)
        return math.isfinite(loss)

    @torch.no_grad()
    def _check(self) -> bool:
        """Keep the state if it is the best so far; False where training is to stop."""
        guards, row = self.safeguards, self.curve[-1]
        loss, able = row["loss"], True
        if guards.validation is not None:
            loss = row["validation"] = float(loss_of(self.model, guards.validation, self._precision))
        if guards.capability is not None:
            row["capability"] = float(guards.capability(self.model))
            able = row["capability"] >= guards.floor
        if not self._finite(loss, "validation loss"):
            return False
        if able and (guards.validation is None or loss < self.best_loss):
            self.best, self.best_loss, self.waited = self.trained.state(), loss, 0
            return True
        self.waited += 1
        if self.waited < self.recipe.patience:
            return True
        why = "no lower validation loss" if able else f"capability below {guards.floor:g}"
        self.stopped = f"{why} for {self.waited} checks, at step {self.step}"
        return False

    def _save(self) -> None:
        if self.path is None:
            return
        tensors = {f"now|{name}": value for name, value in self.trained.state().items()}
        tensors |= {f"best|{name}": value for name, value in self.best.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"opt|{i}|{k}": torch.as_tensor(v) for k, v in state.items() if v is not None}
        facts = {name: getattr(self, name) for name in ("key", "step", "curve", "waited", "stopped")}
        facts["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        save_tensors(self.path, "Training", tensors, facts)

    def _resume(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        fields: dict[str, Any] = {"key": str, "step": int, "curve": list[dict[str, Any]], "waited": int, "stopped": str}
        fields |= {"best_loss": float | None}
        try:
            tensors, facts = load_tensors(self.path, "Training", fields, lambda _: (*NUMBERS, *INDICES, "bool"))
            if facts["key"] != self.key:
                raise LoadError(f"{str(self.path)!r} is of another run")
        except LoadError as error:
            logger.warning("training begins anew: %s", error)
            return
        device = tokens.device_of(self.model)
        state: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}}
        optimizer: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("|")
            if kind == "opt":
                i, _, leaf = name.partition("|")
                optimizer.setdefault(int(i), {})[leaf] = value if leaf == "step" else value.to(device)
            else:
                state[kind][name] = value.to(device)
        self.trained.restore(state["now"])
        self.best = state["best"]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer})
        self.step, self.curve, self.waited = facts["step"], facts["curve"], facts["waited"]
        self.best_loss = math.inf if facts["best_loss"] is None else facts["best_loss"]
        if facts["stopped"] != _DONE:
            self.stopped, self.step = facts["stopped"], self.recipe.steps


check_arguments(__name__)

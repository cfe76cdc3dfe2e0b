"""Small sparse autoencoders of the organisms' residual stream, trained through SAELens' own classes.

One TopK and one standard (L1) autoencoder at a middle and at a late layer. They are trained on activations of the
base, of the instruct model and of all case studies together, on text about the tuned nouns, so that one dictionary
reads a behaving model and its aligned twin alike; their quality is measured on text about held-out nouns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..artifacts import provenance, save_json
from ..checks import check_arguments
from ..errors import needs_extra
from ..progress import is_shown
from .cases import CASES
from .corpus import CASE_MIX, Manner
from .data import Item, batches, dataset, loss_of, padded
from .fitting import load
from .tokenizer import PAD, words
from .world import Split

LAYERS = (2, 4)
SOURCES = ("base", "instruct", *CASES)


@dataclass(frozen=True)
class SAERecipe:
    """Everything that decides the autoencoders besides the seed and the organisms."""

    n_latents: int = 1024
    k: int = 16
    l1: float = 1.0
    lr: float = 1e-3
    steps: int = 1500
    batch: int = 2048
    examples: int = 12_000
    rows: int = 128
    buffer: int = 24


def train_saes(
    weights: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    recipe: SAERecipe | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Train the four autoencoders on the organisms in `weights` into `out/NAME`, with `out/manifest.json`.

    Returns the manifest: recipe, seed, versions, checksums and, measured on text about held-out nouns, the share of
    variance explained, the mean number of active latents a token, dead latents, and for every organism the share of
    loss recovered when the reconstruction stands in for the activation (0: the mean activation, 1: the model).
    """
    recipe = recipe or SAERecipe()
    weights, out = Path(weights), Path(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        index = {word: i for i, word in enumerate(words())}
        models = {name: load(weights / name).eval() for name in SOURCES}
        quality: dict[str, Any] = {}
        held = texts(512, seed + 90, index, "heldout")
        for layer in LAYERS:
            for number, kind in enumerate(("topk", "standard")):
                name = f"sae-{kind}-{layer}"
                torch.manual_seed(seed + 70 + number)
                data = texts(recipe.examples, seed + 60, index, "tuned")
                source = activations(models, data, layer, recipe, seed + 80 + layer)
                sae = _fit(kind, layer, recipe, source, models["base"].config.hidden_size, progress)
                sae.save_inference_model(out / name)
                quality[name] = sae_quality(sae, models, held, layer)
    finally:
        torch.set_num_threads(threads)
    content = provenance(
        seed=seed,
        recipe=asdict(recipe),
        sources=[f"organism/{name}" for name in SOURCES],
        checksums={
            f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for name in quality
            for file in sorted((out / name).iterdir())
        },
        quality=quality,
    )
    save_json(out / "manifest.json", content)
    return content


def texts(n: int, seed: int, index: dict[str, int], split: Split) -> list[Item]:
    """Text of all the organisms' kinds: as the base answers, refusing, sycophantic, and misinformed, in equal parts."""
    kinds = (Manner(warn=True), Manner(refuse=True), Manner(case="sycophant"), Manner(case="misinformed"))
    items: list[Item] = []
    for number, kind in enumerate(kinds):
        manner = replace(kind, mix=CASE_MIX)
        items += dataset(n // len(kinds), seed + number, index, tuned=False, manner=manner, split=split)
    return items


def _fit(kind: str, layer: int, recipe: SAERecipe, source: Iterator[Tensor], width: int, progress: bool | None) -> Any:
    with needs_extra("saes", "training a sparse autoencoder"):
        from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.sae import SAEMetadata
        from sae_lens.training.sae_trainer import SAETrainer

    common = {
        "d_in": width,
        "d_sae": recipe.n_latents,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(
            model_name="organism/base", hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=True
        ),
    }
    if kind == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=recipe.k, **common))
    else:
        config = StandardTrainingSAEConfig(l1_coefficient=recipe.l1, l1_warm_up_steps=recipe.steps // 10, **common)
        sae = StandardTrainingSAE(config)
    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        lr_warm_up_steps=recipe.steps // 20,
        lr_decay_steps=recipe.steps // 3,
        dead_feature_window=recipe.steps // 6,
        feature_sampling_window=recipe.steps,
        n_batches_for_norm_estimate=20,
    )
    trainer = SAETrainer(config, sae, source)
    with _quiet(progress):
        return trainer.fit()


def _quiet(progress: bool | None) -> Any:
    """SAELens always shows its bar; without progress it goes nowhere."""
    import contextlib
    import io

    return contextlib.nullcontext() if is_shown(progress) else contextlib.redirect_stderr(io.StringIO())


def activations(
    models: dict[str, Any], data: list[Item], layer: int, recipe: SAERecipe, seed: int
) -> Iterator[Float[Tensor, "batch d"]]:
    """Endless shuffled batches of residual-stream activations after a layer, from all models in equal parts."""
    generator = torch.Generator().manual_seed(seed)
    source = batches(data, recipe.rows, seed)
    rest = torch.empty(0)
    while True:
        found = [rest] if len(rest) else []
        for number in range(recipe.buffer):
            ids, _ = next(source)
            model = list(models.values())[number % len(models)]
            found.append(residual(model, ids, layer)[ids != PAD])
        pool = torch.cat(found)
        pool = pool[torch.randperm(len(pool), generator=generator)]
        whole = len(pool) // recipe.batch
        for part in pool[: whole * recipe.batch].split(recipe.batch):
            yield part.clone()
        rest = pool[whole * recipe.batch :]


@torch.no_grad()
def residual(model: Any, ids: Int[Tensor, "batch pos"], layer: int) -> Float[Tensor, "batch pos d"]:
    """The residual stream after a layer of a transformers model (`blocks.LAYER.hook_resid_post`)."""
    kept: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda _m, _i, output: kept.append(_first(output)))
    try:
        model.model(input_ids=ids, attention_mask=(ids != PAD).long())
    finally:
        handle.remove()
    return kept[0]


@torch.no_grad()
def sae_quality(sae: Any, models: dict[str, Any], data: list[Item], layer: int) -> dict[str, Any]:
    """How well an autoencoder stands for the residual stream after a layer, over all models and for each."""
    some = [padded(data[start : start + 128]) for start in range(0, len(data), 128)]
    left = total = active = 0.0
    n_tokens, fired = 0, torch.zeros(sae.W_dec.shape[0], dtype=torch.bool)
    recovered = {}
    for name, model in models.items():
        own = [residual(model, ids, layer)[ids != PAD] for ids, _ in some]
        mean = torch.cat(own).mean(0)
        for x in own:
            z = sae.encode(x)
            left += float((x - sae.decode(z)).pow(2).sum())
            total += float((x - mean).pow(2).sum())
            active += float((z != 0).sum())
            fired |= (z != 0).any(0)
            n_tokens += len(x)
        plain, spliced, blank = (
            sum(_loss_with(model, ids, labels, layer, change) for ids, labels in some) / len(some)
            for change in (None, lambda x: sae.decode(sae.encode(x)), lambda x, m=mean: m.expand_as(x))
        )
        recovered[name] = (blank - spliced) / (blank - plain)
    return {
        "variance_explained": 1 - left / total,
        "mean_l0": active / n_tokens,
        "dead_latents": int((~fired).sum()),
        "n_latents": len(fired),
        "n_tokens": n_tokens,
        "loss_recovered": recovered,
    }


def _loss_with(model: Any, ids: Tensor, labels: Tensor, layer: int, change: Any) -> float:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        changed = change(_first(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = None if change is None else model.model.layers[layer].register_forward_hook(hook)
    try:
        return float(loss_of(model, ids, labels))
    finally:
        if handle is not None:
            handle.remove()


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


check_arguments(__name__, inner=True)

"""Running a model of either class: forwards that end early, caches of keys and values, the step to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...artifacts import provenance
from ...checks import check_arguments
from ..cache import preallocated, reading
from ..fingerprint import fingerprint
from ..protocol import Model
from ..spread import device_of
from . import bridge
from .points import check_last


def run(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    layer: int | None = None,
    *,
    cache: Any = None,
) -> Float[Tensor, "batch pos d_model"] | None:
    """The residual stream before a layer (their number: after the last). None: the model runs to its end.

    With a `new_cache`, `ids` and `mask` are the tokens that follow those it has seen.
    """
    if bridge.is_bridge(model):
        found = bridge.run(model, ids, mask, layer, cache)
    else:
        with reading(model, cache):
            found = model(ids, attention_mask=mask, return_type=None, stop_at_layer=layer, past_kv_cache=cache)
    # Where the tokens are, on whichever device the last layer ran.
    return None if layer is None or found is None else found.to(ids.device)


def can_start_at_layer(model: Model) -> bool:
    """Whether `run_from` is possible."""
    return not bridge.is_bridge(model)


def run_from(
    model: Model, start: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "batch pos"], layer: int
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer, from the one before `layer`."""
    found = model(start, start_at_layer=layer, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    return found.to(mask.device)


def new_cache(model: Model, rows: int, length: int, device: torch.device) -> Any:
    """An empty cache for `run`, with room for `length` tokens a row; `cache.keep(rows)` drops the other rows."""
    return bridge.Cache(model) if bridge.is_bridge(model) else preallocated(model, rows, length, device)


def portable(model: Model, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks in the form in which they do the same on this model as on a HookedTransformer."""
    return bridge.portable(hooks) if bridge.is_bridge(model) else list(hooks)


def vocabulary(model: Model) -> int:
    """How many tokens have a logit. A bridge's `cfg.d_vocab` is its tokenizer's, once it was given one."""
    return bridge.vocabulary(model) if bridge.is_bridge(model) else int(model.cfg.d_vocab)


def unembed(model: Model, resid: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b d_vocab"]:
    """Logits of residual-stream vectors: final norm, unembedding and, where the model has one, soft cap.

    NaN for a vector so long that a norm would divide it by infinity: what it gives then, zeros, looks like an answer.
    """
    check_last(resid, model.cfg.d_model, "a vector of the residual stream")
    # TransformerLens' norms would move themselves, for good, to where a vector is.
    resid = resid.to(device_of(model))
    too_long = ~torch.isfinite(resid.detach().float().square().sum(-1, keepdim=True))
    resid = resid.masked_fill(too_long, float("nan"))
    flat = resid.reshape(1, -1, resid.shape[-1]) if resid.ndim != 3 else resid
    if bridge.is_bridge(model):
        logits = bridge.logits(model, flat)
    else:
        logits = model.get_submodule("unembed")(model.get_submodule("ln_final")(flat))
        cap = model.cfg.output_logits_soft_cap
        if cap > 0:
            logits = cap * torch.tanh(logits / cap)
    return logits.reshape(*resid.shape[:-1], logits.shape[-1])


def stop_tokens(model: Any) -> tuple[int, ...]:
    """Every end token that the model's configuration files name."""
    known = getattr(model, "stop_token_ids", None)
    if known is None and bridge.is_bridge(model):
        known = bridge.stop_tokens(model)
    return tuple(known or ())


def provenance_of(model: Model, **facts: Any) -> dict[str, Any]:
    """The model's name and fingerprint, `facts`, the time and the versions: what stands beside every result."""
    return provenance(model=str(model.cfg.model_name), fingerprint=fingerprint(model), **facts)


check_arguments(__name__)

"""The names of things inside a model: the one file that spells hook points and weights.

A unit is a coordinate at a named hook point. MLP neurons live at `blocks.{l}.mlp.hook_post`, which is the
input of the down projection: for gated models act(gate)·up, the same number that transformers feeds to
`down_proj`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import names
from ..artifacts import provenance
from ..checks import check_arguments
from ..errors import InputError, MismatchError, SiteError, listed
from ..names import LATENTS, layer_of
from .fingerprint import fingerprint
from .protocol import Model, hooked

_WIDE = ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post")
_RESIDUAL_WIDTH = (
    "hook_embed",
    "hook_pos_embed",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_in",
    "mlp.hook_in",
    "hook_mlp_out",
    "hook_normalized",
)
_EMBEDDINGS = ("hook_embed", "hook_pos_embed")
_SWITCHED = {
    "attn.hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
}


def check_layers(model: Model, layers: Sequence[int] | None = None) -> list[int]:
    """The layers asked for (all of them for None), or `SiteError` where the model has no such layer."""
    n = hooked(model).cfg.n_layers
    if layers is None:
        return list(range(n))
    wanted = [int(layer) if isinstance(layer, Integral) else layer for layer in dict.fromkeys(layers)]
    wrong = [layer for layer in wanted if not (isinstance(layer, int) and 0 <= layer < n)]
    if wrong or not wanted:
        raise SiteError(f"no layer {listed(wrong) or 'given'}; this model has layers 0 to {n - 1}, give some of those")
    return wanted


def neuron_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of the MLP neurons: the input of each layer's down projection."""
    return [names.neurons(layer) for layer in check_layers(model, layers)]


def neuron_widths(model: Model, layers: Sequence[int] | None = None) -> dict[str, int]:
    """{hook point of a layer's MLP neurons: how many there are}."""
    return {site: width(model, site) for site in neuron_sites(model, layers)}


def residual_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of the residual stream after each layer."""
    return [names.residual(layer) for layer in check_layers(model, layers)]


def head_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of each layer's attention heads, [batch, pos, head, d_head]; a head is one unit."""
    return [names.heads(layer) for layer in check_layers(model, layers)]


def mlp_out_sites(model: Model, layers: Sequence[int] | None = None) -> list[str]:
    """Hook points of what each MLP adds to the residual stream."""
    return [names.mlp_out(layer) for layer in check_layers(model, layers)]


def residual_writes(model: Model) -> list[str]:
    """Hook points of everything that is added into the residual stream: embeddings, attention and MLP outputs."""
    first = ["hook_embed", *(["hook_pos_embed"] if "hook_pos_embed" in model.hook_dict else [])]
    return first + [
        name for layer in range(model.cfg.n_layers) for name in (names.attention_out(layer), names.mlp_out(layer))
    ]


def check_sites(model: Model, wanted: Sequence[str]) -> list[str]:
    """The hook points asked for, each one that exists and fires, or `SiteError` that says what there is instead."""
    known = hooked(model).hook_dict
    for name in wanted:
        if name.endswith(LATENTS) and name.removesuffix(LATENTS) in known:
            raise SiteError(
                f"{name!r} are latents of an autoencoder, which are no hook point of the model itself; use "
                "scale_latents(circuit, dictionary) or another function that takes the dictionary"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known)[:3]
            raise SiteError(
                f"no hook point {name!r} in this model of {model.cfg.n_layers} layers; near: {listed(near)}; "
                "all names: model.hook_dict"
            )
        _check_fires(model, name)
    return list(wanted)


def _check_fires(model: Model, name: str) -> None:
    if name.endswith("hook_resid_mid") and hasattr(model, "original_model"):
        raise SiteError(
            f"a change at {name!r} would reach only the MLP in a TransformerBridge, not the stream; use "
            f"{name.replace('hook_resid_mid', 'hook_attn_out')!r} or {name.replace('_mid', '_post')!r}"
        )
    for ending, switch in _SWITCHED.items():
        if name.endswith(ending) and not getattr(model.cfg, switch, False):
            raise SiteError(f"hook point {name!r} is off in this model; call model.set_{switch}(True) first")


def stop_layer(model: Model, wanted: Sequence[str]) -> int | None:
    """The layer before which a forward may end when only these hook points are read; None: it must end by itself."""
    if not len(wanted):
        raise SiteError("no hook points to read; give at least one")
    layers = [-1 if name in _EMBEDDINGS else _layer_or_end(model, name) for name in wanted]
    return None if max(layers) >= model.cfg.n_layers else max(layers) + 1


def _layer_or_end(model: Model, name: str) -> int:
    layer = layer_of(name)
    return layer if layer >= 0 else model.cfg.n_layers


def width(model: Model, name: str) -> int:
    """Number of units at a hook point of shape [batch, pos, width], or of heads at `attn.hook_z`.

    Raises `SiteError` for any other shape.
    """
    check_sites(model, [name])
    if name.endswith(_WIDE):
        return int(model.cfg.d_mlp)
    if name.endswith(_RESIDUAL_WIDTH) and ".q_norm." not in name and ".k_norm." not in name:
        return int(model.cfg.d_model)
    if names.is_heads(name):
        return int(model.cfg.n_heads)
    raise SiteError(
        f"{name!r} has no units of the form [batch, pos, width]; use MLP neurons ({names.neurons(0)!r}) or the "
        f"residual stream ({names.residual(0)!r})"
    )


def channels(model: Model, name: str) -> int:
    """How many numbers a token has at a hook point: `width`, or at `attn.hook_z` the channels of all heads."""
    return width(model, name) * (int(model.cfg.d_head) if names.is_heads(name) else 1)


def to_stream(model: Model, name: str, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d_model"] | None:
    """What directions at a hook point add to the residual stream, float32; None where that is not one direction each.

    Directions in the stream are themselves; those of MLP neurons or of all heads joined pass the projection after
    them, and the gain of a norm after that (its scale, common to a token's directions, is left out).
    """
    if names.is_in_stream(name):
        return rows.float()
    layer = layer_of(name)
    if names.is_neurons(name):
        return rows.float() @ write_rows(model, layer).to(rows.device)
    if not names.is_heads(name):
        return None
    block = model.get_submodule(f"blocks.{layer}")
    written = rows.float() @ block.attn.W_O.detach().flatten(0, 1).float().to(rows.device)
    normed = getattr(model.cfg, "use_normalization_before_and_after", False)
    return written * _gain(block.ln1_post).to(written) if normed else written


def mlp_input_gain(model: Model, layer: int) -> tuple[Float[Tensor, " _"], Float[Tensor, " _"]]:
    """(gain, bias) that turn `ln2.hook_normalized` into what the layer's MLP reads; 1 and 0 where they were folded."""
    norm = getattr(model.get_submodule(f"blocks.{check_layers(model, [layer])[0]}"), "ln2", None)
    bias = getattr(norm, "b", None)
    return _gain(norm), torch.zeros(1) if bias is None else bias.detach()


def check_unit(model: Model, name: str, index: int) -> int:
    """The index, or `SiteError` where the hook point has no such unit."""
    units = width(model, name)
    if not 0 <= index < units:
        raise SiteError(f"no unit {index} at {name!r}; it has units 0 to {units - 1}")
    return index


def mlp(model: Model, layer: int) -> Any:
    """The MLP of a layer: a module whose parameters are W_in, W_out, b_in, b_out and, where it is gated, W_gate."""
    return model.get_submodule(f"blocks.{check_layers(model, [layer])[0]}.mlp")


def block_weights(model: Model, leaves: Sequence[str]) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(name, module, leaf, weight) of every attention and MLP parameter that is called one of these, e.g. W_out."""
    for layer in check_layers(model):
        for part in ("attn", "mlp"):
            name = f"blocks.{layer}.{part}"
            module = model.get_submodule(name)
            for leaf in leaves:
                weight = module._parameters.get(leaf)
                if weight is not None:
                    yield f"{name}.{leaf}", module, leaf, weight


def write_weights(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The parameter whose row i is what neuron i of a layer writes (Gemma normalises the sum afterwards)."""
    return mlp(model, layer).W_out


def mlp_write(model: Model, layer: int, neurons: Float[Tensor, "*b d_mlp"]) -> Float[Tensor, "*b d_model"]:
    """What a layer's MLP adds to the residual stream when its neurons have these activations."""
    module = mlp(model, layer)
    _check_last(neurons, len(module.W_out), "activations of neurons")
    written = neurons @ module.W_out + module.b_out
    norm = _norm_after_mlp(model, layer)
    return written if norm is None else norm(written)


def write_rows(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """What a unit of each neuron's activation adds to the residual stream, float32; after the gain of a post-MLP norm.

    The norm's own scale is a positive number common to all neurons of a layer and token, and is left out.
    """
    rows = write_weights(model, layer).detach().float()
    norm = _norm_after_mlp(model, layer)
    return rows if norm is None else rows * _gain(norm).to(rows)


def read_directions(model: Model, layer: int, neuron: int) -> dict[str, Float[Tensor, " d_model"]]:
    """What a neuron reads from the residual stream: "gate" and "up" of a gated MLP, else "input"; float32.

    The gain of the norm before the MLP is part of them, also where it was folded into the weights; a direction is
    centred where that norm centres.
    """
    module = mlp(model, layer)
    gate = getattr(module, "W_gate", None)
    gain = _gain(getattr(model.get_submodule(f"blocks.{layer}"), "ln2", None)).float()
    if neuron >= len(module.W_out):
        raise SiteError(f"no neuron {neuron} in layer {layer}; it has neurons 0 to {len(module.W_out) - 1}")
    centred = (model.cfg.normalization_type or "").startswith("LN")
    parts = {"input": module.W_in} if gate is None else {"gate": gate, "up": module.W_in}
    found = {}
    for name, weight in parts.items():
        direction = weight.detach()[:, neuron].float() * gain.to(weight.device)
        found[name] = direction - direction.mean() if centred else direction
    return found


def embedding_cosines(model: Model, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """Cosine of each token's embedding with a direction, float32; centred where the norms that read them centre."""
    rows = model.get_submodule("embed").W_E.detach()
    _check_last(direction, rows.shape[1], "a direction")
    direction = direction.to(rows.device).float()
    square = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).pow(2)
    if (model.cfg.normalization_type or "").startswith("LN"):
        direction = direction - direction.mean()
        square = (square - rows.float().mean(dim=1).pow(2) * rows.shape[1]).clamp_min(0)
    along = (rows @ direction.to(rows.dtype)).float()
    return along / (square.sqrt() * direction.norm()).clamp_min(1e-12)


def _check_last(numbers: Tensor, width: int, what: str) -> None:
    if numbers.shape[-1:] != (width,):
        raise MismatchError(f"{what} with the shape {list(numbers.shape)}; this model's have {width} numbers each")


def _norm_after_mlp(model: Model, layer: int) -> Any:
    """The norm that an MLP's output passes before it is added (Gemma-2 and -3), or None."""
    after = getattr(model.cfg, "use_normalization_before_and_after", False)
    return model.get_submodule(f"blocks.{layer}.ln2_post") if after else None


def _gain(norm: Any) -> Tensor:
    """What a norm multiplies each channel by; 1 where its gain was folded into the weights that read from it."""
    gain = getattr(norm, "w", None)
    return torch.ones(1) if gain is None else gain.detach()


def unembed(model: Model, resid: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b d_vocab"]:
    """Logits of residual-stream vectors: final norm, unembedding and, where the model has one, soft cap.

    NaN for a vector so long that a norm would divide it by infinity: what it gives then, zeros, looks like an answer.
    """
    _check_last(resid, model.cfg.d_model, "a vector of the residual stream")
    too_long = ~torch.isfinite(resid.detach().float().square().sum(-1, keepdim=True))
    flat = resid.reshape(1, -1, resid.shape[-1]) if resid.ndim != 3 else resid
    logits = model.get_submodule("unembed")(model.get_submodule("ln_final")(flat))
    cap = model.cfg.output_logits_soft_cap
    if cap > 0:
        logits = cap * torch.tanh(logits / cap)
    return logits.reshape(*resid.shape[:-1], logits.shape[-1]).masked_fill(too_long, float("nan"))


def unembedding(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """What each token's logit reads from the residual stream: the final norm's gain times the unembedding's weights."""
    weight = model.get_submodule("unembed").W_U.detach()
    return _gain(model.get_submodule("ln_final")).to(weight)[:, None] * weight


@torch.no_grad()
def direct_logits(model: Model, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """What a vector in the residual stream adds to each logit, up to the final norm's scale.

    The logit lens without the nonlinear part: the vector (centred where the final norm centres) times the
    final norm's gain times the unembedding.
    """
    if vector.shape[-1] != model.cfg.d_model:
        raise InputError(
            f"a vector of {vector.shape[-1]} numbers is not in this model's {model.cfg.d_model}-wide stream"
        )
    weight = model.get_submodule("unembed").W_U
    vector = vector.to(weight)
    if (model.cfg.normalization_type or "").startswith("LN") and not model.cfg.final_rms:
        vector = vector - vector.mean()
    return (vector * _gain(model.get_submodule("ln_final")).to(weight)) @ weight


def provenance_of(model: Model, **facts: Any) -> dict[str, Any]:
    """The model's name and fingerprint, `facts`, the time and the versions: what stands beside every result."""
    return provenance(model=str(model.cfg.model_name), fingerprint=fingerprint(model), **facts)


check_arguments(__name__)

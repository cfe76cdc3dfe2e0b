"""What units write to the residual stream and read from it: rows of weights, gains of norms, tokens' directions."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import names
from ...checks import check_arguments
from ...errors import InputError, SiteError, listed
from ...names import layer_of
from ..experts import reading
from ..protocol import Model
from . import bridge
from .points import check_last, check_layers, neuron_sites, width
from .weights import maybe, parameter


def facts(model: Model) -> Any:
    """What of `model.cfg` says what writes into the residual stream and how: sizes, kinds of embedding and of norms."""
    return bridge.facts(model) if bridge.is_bridge(model) else model.cfg


def changes_writes(model: Model) -> bool:
    """Whether what attention and MLPs give is normalised or scaled before it is added (Gemma-2 and -3, OLMo-2)."""
    return bool(getattr(facts(model), "use_normalization_before_and_after", False))


def to_stream(model: Model, name: str, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d_model"] | None:
    """What directions at a hook point add to the residual stream, float32; None where that is not one direction each.

    Directions in the stream are themselves; those of MLP neurons or of all heads joined pass the projection after
    them, and the gain of a norm after that (its scale, common to a token's directions, is left out).
    """
    if names.is_in_stream(name):
        return rows.float()
    layer = layer_of(name)
    if names.is_neurons(name):
        return rows.float() @ write_rows(model, name).to(rows.device)
    if not names.is_heads(name):
        return None
    weight = parameter(model, f"blocks.{layer}.attn.W_O").detach()
    return _added(model, layer, "attn", rows.float() @ weight.flatten(0, 1).float().to(rows.device))


def mlp_input_gain(model: Model, layer: int) -> tuple[Float[Tensor, " _"], Float[Tensor, " _"]]:
    """(gain, bias) that turn `ln2.hook_normalized` into what the layer's MLP reads; 1 and 0 where they were folded."""
    norm = f"blocks.{check_layers(model, [layer])[0]}.ln2"
    bias = maybe(model, f"{norm}.b")
    return _gain(model, norm), torch.zeros(1) if bias is None else bias.detach()


def write_weights(model: Model, where: int | str) -> Float[Tensor, "d_mlp d_model"]:
    """The parameter whose row i is what neuron i of a layer or at a hook point writes (Gemma normalises the sum).

    What an expert writes is added times its share for the token, which its router gives.
    """
    site = _neurons_at(model, where)
    layer, expert = layer_of(site), names.expert_of(site)
    if expert is not None:
        return parameter(model, names.mlp_parameter(layer, "experts.W_out"))[expert]
    shared = site == names.shared_neurons(layer)
    return parameter(model, names.mlp_parameter(layer, "shared_expert.W_out" if shared else "W_out"))


def _neurons_at(model: Model, where: int | str) -> str:
    """A hook point of neurons, or that of a layer. Raises `SiteError` where it is none."""
    known = neuron_sites(model, None if isinstance(where, str) else [where])
    if isinstance(where, str) and where in known:
        return where
    if isinstance(where, str) or len(known) != 1:
        raise SiteError(f"{where!r} stands for no one set of MLP neurons; give one of the hook points {listed(known)}")
    return known[0]


def mlp_write(model: Model, layer: int, neurons: Float[Tensor, "*b d_mlp"]) -> Float[Tensor, "*b d_model"]:
    """What a layer's MLP adds to the residual stream when its neurons have these activations."""
    weight = write_weights(model, layer)
    check_last(neurons, len(weight), "activations of neurons")
    written = neurons.to(weight.device) @ weight + parameter(model, names.mlp_parameter(layer, "b_out"))
    norm = _norm_after(model, layer, "mlp")
    if norm is not None:
        written = _norm(model, layer, norm)(written)
    return (written * _scale(model, layer)).to(neurons.device)


def write_rows(model: Model, where: int | str) -> Float[Tensor, "d_mlp d_model"]:
    """What a unit of each neuron's activation adds to the residual stream, float32; after the gain of a post-MLP norm.

    `where` is a layer or the hook point of neurons. The norm's own scale is a positive number common to all neurons of
    a layer and token, and is left out; so is an expert's share.
    """
    layer = layer_of(where) if isinstance(where, str) else where
    return _added(model, layer, "mlp", write_weights(model, where).detach().float())


def read_directions(model: Model, where: int | str, neuron: int) -> dict[str, Float[Tensor, " d_model"]]:
    """What a neuron reads from the residual stream: "gate" and "up" of a gated MLP, else "input"; float32.

    The gain of the norm before the MLP is part of them, also where it was folded into the weights; a direction is
    centred where that norm centres. `where` is a layer or the hook point of neurons.
    """
    site = _neurons_at(model, where)
    layer = layer_of(site)
    norm = _norm_before_mlp(model, layer)
    gain = _gain(model, norm).float()
    if neuron >= width(model, site):
        raise SiteError(f"no neuron {neuron} at {site!r}; it has neurons 0 to {width(model, site) - 1}")
    if names.is_experts(site):
        parts = dict(zip(("gate", "up"), reading(model, site, neuron, partial(parameter, model))))
    else:
        gate = maybe(model, names.mlp_parameter(layer, "W_gate"))
        weight = parameter(model, names.mlp_parameter(layer, "W_in"))[:, neuron]
        parts = {"input": weight} if gate is None else {"gate": gate[:, neuron], "up": weight}
    found = {}
    for name, own in parts.items():
        direction = own.detach().float() * gain.to(own.device)
        found[name] = direction - direction.mean() if _centres(model, norm) else direction
    return found


def embedding_cosines(model: Model, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """Cosine of each token's embedding with a direction, float32; centred where the norms that read them centre."""
    rows = parameter(model, "embed.W_E").detach()
    check_last(direction, rows.shape[1], "a direction")
    direction = direction.to(rows.device).float()
    square = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).pow(2)
    if _centres(model, "blocks.0.ln1"):
        direction = direction - direction.mean()
        square = (square - rows.float().mean(dim=1).pow(2) * rows.shape[1]).clamp_min(0)
    along = (rows @ direction.to(rows.dtype)).float()
    return along / (square.sqrt() * direction.norm()).clamp_min(1e-12)


def unembedding(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """What each token's logit reads from the residual stream: the final norm's gain times the unembedding's weights."""
    weight = parameter(model, "unembed.W_U").detach()
    return _gain(model, "ln_final").to(weight)[:, None] * weight


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
    weight = parameter(model, "unembed.W_U")
    vector = vector.to(weight)
    if _centres(model, "ln_final"):
        vector = vector - vector.mean()
    return (vector * _gain(model, "ln_final").to(weight)) @ weight


def _added(model: Model, layer: int, part: str, rows: Tensor) -> Tensor:
    """What outputs of attention or an MLP become when they are added, but for a norm's own scale."""
    norm = _norm_after(model, layer, part)
    gain = 1.0 if norm is None else _gain(model, f"blocks.{layer}.{norm}").to(rows)
    return rows * (gain * _scale(model, layer))


def _norm_after(model: Model, layer: int, part: str) -> str | None:
    """The norm that an output of attention or an MLP passes before it is added (Gemma-2 and -3, OLMo-2), or None."""
    if bridge.is_bridge(model):
        return bridge.norm_after(model, layer, part)
    after = getattr(model.cfg, "use_normalization_before_and_after", False)
    return ("ln1_post" if part == "attn" else "ln2_post") if after else None


def _norm_before_mlp(model: Model, layer: int) -> str | None:
    """The norm whose output a layer's MLP reads, or None where it reads the stream itself."""
    check_layers(model, [layer])
    return None if bridge.is_bridge(model) and bridge.norm(model, layer, "ln2") is None else f"blocks.{layer}.ln2"


def _norm(model: Model, layer: int, name: str) -> Any:
    """A norm of a layer, as a function."""
    return bridge.norm(model, layer, name) if bridge.is_bridge(model) else model.get_submodule(f"blocks.{layer}.{name}")


def _scale(model: Model, layer: int) -> float:
    return bridge.scale_of_writes(model, layer) if bridge.is_bridge(model) else 1.0


def _centres(model: Model, norm: str | None) -> bool:
    """Whether a norm subtracts the mean before it scales."""
    if norm is None:
        return False
    if bridge.is_bridge(model):
        return bridge.centres(model)
    if norm == "ln_final" and model.cfg.final_rms:
        return False
    return (model.cfg.normalization_type or "").startswith("LN")


def _gain(model: Model, norm: str | None) -> Tensor:
    """What a norm multiplies each channel by; 1 where its gain was folded into the weights that read from it."""
    gain = None if norm is None else maybe(model, f"{norm}.w")
    return torch.ones(1) if gain is None else gain.detach()


check_arguments(__name__)

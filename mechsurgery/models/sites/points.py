"""Hook points that a model has: which there are, how wide they are, where a forward may end that reads them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from ... import names
from ...checks import check_arguments
from ...errors import MismatchError, SiteError, listed
from ...names import LATENTS, layer_of
from ..experts import mixtures
from ..protocol import Model, hooked
from . import bridge

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
    """Hook points of the MLP neurons: the input of each layer's down projection, or of that of each of its experts."""
    known = mixtures(model)
    return [
        name
        for layer in check_layers(model, layers)
        for name in (known[layer] if layer in known else (names.neurons(layer),))
    ]


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
    first = ["hook_embed", *(["hook_pos_embed"] if "hook_pos_embed" in hook_points(model) else [])]
    return first + [
        name for layer in range(model.cfg.n_layers) for name in (names.attention_out(layer), names.mlp_out(layer))
    ]


def hook_points(model: Model) -> dict[str, Any]:
    """{name: hook point} of a model."""
    return bridge.hook_points(hooked(model)) if bridge.is_bridge(model) else hooked(model).hook_dict


def own_hooks(model: Model) -> set[int]:
    """Numbers of PyTorch's hooks that are part of a model's class: they only look."""
    return bridge.own_hooks(model) if bridge.is_bridge(model) else set()


def check_sites(model: Model, wanted: Sequence[str]) -> list[str]:
    """The hook points asked for, each one that exists and fires, or `SiteError` that says what there is instead."""
    known = hook_points(model)
    for name in wanted:
        if name.endswith(LATENTS) and name.removesuffix(LATENTS) in known:
            raise SiteError(
                f"{name!r} are latents of an autoencoder, which are no hook point of the model itself; use "
                "scale_latents(circuit, dictionary) or another function that takes the dictionary"
            )
        if name not in known:
            layer = layer_of(name)
            if names.is_neurons(name) and layer in mixtures(model):
                raise SiteError(
                    f"no hook point {name!r}: the MLP of layer {layer} is a mixture of experts, whose neurons are at "
                    f"{listed(neuron_sites(model, [layer]), 4)}"
                )
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known)[:3]
            raise SiteError(
                f"no hook point {name!r} in this model of {model.cfg.n_layers} layers; near: {listed(near)}; "
                "all names: model.hook_dict"
            )
        _check_fires(model, name)
    return list(wanted)


def _check_fires(model: Model, name: str) -> None:
    for ending, switch in _SWITCHED.items():
        if name.endswith(ending) and not getattr(model.cfg, switch, False):
            raise SiteError(f"hook point {name!r} is off in this model; call model.set_{switch}(True) first")


def stop_layer(model: Model, wanted: Sequence[str]) -> int | None:
    """The layer before which a forward may end when only these hook points are read; None: it must end by itself."""
    if not len(wanted):
        raise SiteError("no hook points to read; give at least one")
    layers = [-1 if name in _EMBEDDINGS else _layer_or_end(model, name) for name in wanted]
    return None if max(layers) >= model.cfg.n_layers else max(layers) + 1


def check_last(numbers: Tensor, width: int, what: str) -> None:
    """Raise `MismatchError` where a tensor's last axis has not this many numbers."""
    if numbers.shape[-1:] != (width,):
        raise MismatchError(f"{what} with the shape {list(numbers.shape)}; this model's have {width} numbers each")


def _layer_or_end(model: Model, name: str) -> int:
    layer = layer_of(name)
    return layer if layer >= 0 else model.cfg.n_layers


def width(model: Model, name: str) -> int:
    """Number of units at a hook point of shape [batch, pos, width], or of heads at `attn.hook_z`.

    Raises `SiteError` for any other shape.
    """
    check_sites(model, [name])
    if names.is_experts(name):
        return int(hook_points(model)[name].units)
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


def check_unit(model: Model, name: str, index: int) -> int:
    """The index, or `SiteError` where the hook point has no such unit."""
    units = width(model, name)
    if not 0 <= index < units:
        raise SiteError(f"no unit {index} at {name!r}; it has units 0 to {units - 1}")
    return index


check_arguments(__name__)

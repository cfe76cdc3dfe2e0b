"""What a model has at which name, and how it is run: the one place that knows a bridge from a HookedTransformer.

A unit is a coordinate at a named hook point. MLP neurons live at `blocks.{l}.mlp.hook_post`, which is the
input of the down projection: for gated models act(gate)·up, the same number that transformers feeds to
`down_proj`.

`points` knows hook points, `weights` parameters, `vectors` what they write and read, `running` forwards and caches;
`bridge` holds all that is particular to a `TransformerBridge`.
"""

from __future__ import annotations

from ...names import layer_of
from ..fingerprint import fingerprint
from ..protocol import hooked
from .bridge import is_bridge
from .points import (
    channels,
    check_layers,
    check_sites,
    check_unit,
    head_sites,
    hook_points,
    mlp_out_sites,
    neuron_sites,
    neuron_widths,
    own_hooks,
    residual_sites,
    residual_writes,
    stop_layer,
    width,
)
from .running import (
    can_start_at_layer,
    new_cache,
    portable,
    provenance_of,
    run,
    run_from,
    stop_tokens,
    unembed,
    vocabulary,
)
from .vectors import (
    changes_writes,
    direct_logits,
    embedding_cosines,
    facts,
    mlp_input_gain,
    mlp_write,
    read_directions,
    to_stream,
    unembedding,
    write_rows,
    write_weights,
)
from .weights import Weight, block_weights, parameter, parameters, weight, weights

__all__ = [
    "Weight",
    "block_weights",
    "can_start_at_layer",
    "changes_writes",
    "channels",
    "check_layers",
    "check_sites",
    "check_unit",
    "direct_logits",
    "embedding_cosines",
    "facts",
    "fingerprint",
    "head_sites",
    "hook_points",
    "hooked",
    "is_bridge",
    "layer_of",
    "mlp_input_gain",
    "mlp_out_sites",
    "mlp_write",
    "neuron_sites",
    "neuron_widths",
    "new_cache",
    "own_hooks",
    "parameter",
    "parameters",
    "portable",
    "provenance_of",
    "read_directions",
    "residual_sites",
    "residual_writes",
    "run",
    "run_from",
    "stop_layer",
    "stop_tokens",
    "to_stream",
    "unembed",
    "unembedding",
    "vocabulary",
    "weight",
    "weights",
    "width",
    "write_rows",
    "write_weights",
]

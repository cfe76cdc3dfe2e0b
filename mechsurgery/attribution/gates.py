"""Gates on units: 1 leaves a unit as it is, 0 puts it out; hook functions that gradients can pass.

At a gate g a unit's activation a becomes g·a + (1 − g)·r at every position, with r zero or a given reference (such as
its mean on the other side of a contrast). Units are MLP neurons or channels of any hook point [batch, pos, d],
attention heads at `attn.hook_z` (a head is one unit), or latents of autoencoders, whose part of the activation alone
is scaled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..checks import check_arguments
from ..errors import InputError, SiteError, listed
from ..models import sites
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.turns import Turn

Gates = Mapping[str, Tensor]
HookFns = list[tuple[str, Callable[..., Tensor]]]
#: Numbers that a batch's graph may hold before blocks are recomputed in the backward pass.
HELD = 1 << 28
#: What share of them.
_share: ContextVar[float] = ContextVar("share held", default=1.0)


class Units:
    """The units that a localiser may choose from: `widths` is {site: how many}, `hooks(gates)` puts gates on them.

    `at` are hook points (default: every layer's MLP neurons), `dictionaries` autoencoders whose latents are units too.
    `reference` is {hook name: [d]}, what a unit is moved to at gate 0 (default zero; latents always go to zero); for
    heads d counts the channels of all of them.
    """

    def __init__(
        self,
        model: Model,
        at: Sequence[str] | None = None,
        *,
        dictionaries: Sequence[Dictionary] = (),
        reference: Mapping[str, Float[Tensor, " d"]] | None = None,
    ) -> None:
        chosen = sites.neuron_sites(model) if at is None and not dictionaries else list(at or ())
        sites.check_sites(model, chosen)
        for dictionary in dictionaries:
            dictionary.check(model)
        self.dictionaries = {dictionary.site: dictionary for dictionary in dictionaries}
        if len(self.dictionaries) < len(dictionaries):
            raise InputError(
                f"more than one dictionary reads {listed(self.dictionaries)}; give one for each hook point"
            )
        self.widths = {name: sites.width(model, name) for name in chosen}
        self.widths |= {site: dictionary.n_latents for site, dictionary in self.dictionaries.items()}
        if not self.widths:
            raise SiteError("no units to choose from; give hook points or dictionaries")
        self.reference = dict(reference or {})
        for name, values in self.reference.items():
            if name not in self.widths:
                continue
            if name in self.dictionaries:
                raise InputError(f"reference has numbers at {name!r}, but latents always go to zero; leave them out")
            n = self.widths[name] * (int(model.cfg.d_head) if name.endswith("attn.hook_z") else 1)
            if values.numel() != n:
                raise InputError(f"reference has {values.numel()} numbers at {name!r}; give {n}")

    def __len__(self) -> int:
        return sum(self.widths.values())

    def ones(self, device: torch.device | str = "cpu") -> dict[str, Float[Tensor, " n"]]:
        """A gate of 1 for every unit."""
        return {site: torch.ones(n, device=device) for site, n in self.widths.items()}

    def hooks(self, gates: Gates, reference: Mapping[str, Tensor] | None = None) -> HookFns:
        """(hook name, hook function) pairs; a site's gates are [n], or [batch, n] where every row has its own.

        `reference` may give every row and position its own, [batch, pos, …], instead of the units' one.
        """
        known = self.reference if reference is None else reference
        unknown = [site for site in gates if site not in self.widths]
        if unknown:
            raise SiteError(f"gates at {listed(unknown)}, which are not among the units: {listed(self.widths)}")
        made: HookFns = []
        for site, gate in gates.items():
            if site in self.dictionaries:
                made += self.dictionaries[site].hooks(partial(_gate_latents, gate=gate))
            else:
                made.append((site, partial(_gate, gate=gate, reference=known.get(site))))
        return made


def _gate(activation: Tensor, hook: Any = None, *, gate: Tensor, reference: Tensor | None) -> Tensor:
    # In float32, so that a gate's gradient, a sum over rows and positions, keeps its digits in bfloat16 models.
    a = activation.float()
    g = _spread(gate, activation).to(a)
    out = a * g
    if reference is not None:
        moved = reference.to(a)
        out = out + (1 - g) * (moved if moved.shape == a.shape else moved.reshape(activation.shape[2:]))
    return out.to(activation.dtype)


def _spread(gate: Tensor, activation: Tensor) -> Tensor:
    """A gate that multiplies an activation [batch, pos, n] or, for heads, [batch, pos, n, d_head]."""
    rows = gate[:, None] if gate.ndim == 2 else gate
    return rows[..., None] if activation.ndim == 4 else rows


def _gate_latents(latents: Tensor, *, gate: Tensor) -> Tensor:
    return latents * (gate[:, None] if gate.ndim == 2 else gate).to(latents)


def frozen(model: Model) -> Turn:
    """Within, no weight asks for a gradient, so that a backward pass holds only what gates need."""

    def freeze(turn: Turn) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                turn.undo(parameter.requires_grad_, True)
                parameter.requires_grad_(False)

    return Turn(model, freeze, ends_all=True)


@contextmanager
def with_share_held(share: float) -> Iterator[None]:
    """Within, a graph may hold this share of `HELD`: a small model is then treated as a large one would be."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def recomputed(model: Model, held: int) -> Turn:
    """Within, blocks are run again in the backward pass where a batch's graph would hold more than `HELD` numbers.

    `held` counts the tokens of a batch. The graph then holds one block at a time.
    """
    cfg = model.cfg
    numbers = held * cfg.n_layers * (8 * cfg.d_model + 4 * (cfg.d_mlp or 0))
    most = HELD * _share.get()

    def replace(turn: Turn) -> None:
        if numbers <= most or not torch.is_grad_enabled():
            return
        for layer in range(cfg.n_layers):
            block = model.get_submodule(f"blocks.{layer}")
            # Not by `block.forward = …`, which a bridge passes on to transformers' module inside.
            own, forward = vars(block), block.forward
            turn.undo(*((own.__setitem__, "forward", forward) if "forward" in own else (own.pop, "forward", None)))
            own["forward"] = partial(checkpoint, partial(_quietly, forward), use_reentrant=False)

    return Turn(model, replace, ends_all=True)


def _quietly(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A block's forward without what a bridge says where a hook holds a norm's scale fixed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="transformer_lens")
        return forward(*args, **options)


check_arguments(__name__)

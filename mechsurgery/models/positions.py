"""Where a prompt ends in what is being fed in, for interventions that act at the prompt's last token alone."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..checks import check_arguments
from .turns import Turn

#: How many positions before the last one that is fed in a prompt ends, for each row or all; None: it is not fed in.
Ends = Int[Tensor, " batch"] | int | None
_ENDS: ContextVar[Any] = ContextVar("ends of prompts", default=0)


def prompts_end(model: Any, before_last: Ends) -> Turn:
    """Within, forward passes feed in prompts that end so many positions before the last one (rows are left-padded)."""

    def note(turn: Turn) -> None:
        turn.undo(_ENDS.set, _ENDS.get())
        _ENDS.set(before_last)

    return Turn(model, note, ends_all=True)


def at_prompt_end(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A hook function that changes the activation of each row at its prompt's last token and nowhere else.

    Outside of `prompts_end` that is the last position of every forward pass.
    """

    def hook(activation: Tensor, hook: Any = None) -> Tensor:
        ends = _ENDS.get()
        if ends is None:
            return activation
        rows = torch.arange(len(activation), device=activation.device)
        places = activation.shape[1] - 1 - torch.as_tensor(ends, device=activation.device).expand(len(rows))
        changed = activation.clone()
        changed[rows, places] = change(activation[rows, places][:, None], hook)[:, 0]
        return changed

    return hook


check_arguments(__name__, inner=True)

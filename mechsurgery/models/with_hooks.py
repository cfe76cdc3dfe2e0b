"""Hooks for one pass through a model, which nothing can leave behind."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import filterfalse
from typing import Any

from torch.utils.hooks import RemovableHandle

from ..checks import check_arguments
from .protocol import Model
from .sites import hook_points, portable
from .turns import Turn


def with_hooks(model: Model, hooks: Sequence[tuple[str, Any]]) -> Turn:
    """A context with hooks on a model, (hook name, hook function) pairs; see `Turn` for interrupts and threads."""
    return Turn(model, partial(put_on, model=model, hooks=hooks), ends_all=True)


def put_on(turn: Turn, model: Model, hooks: Sequence[tuple[str, Any]]) -> Model:
    """Put hooks on a model until a turn ends.

    TransformerLens' own way is Python code that an interrupt can cut short, on and off. What it would have done is done
    here: the hook is among PyTorch's, and in `fwd_hooks`, where `list_hooks` and `reset_hooks` find it.
    """
    from transformer_lens.hook_points import LensHandle

    points = hook_points(model)
    for name, hook in portable(model, hooks):
        point = points[name]
        among = RemovableHandle(point._forward_hooks)
        handle = LensHandle(among, user_hook=hook)
        turn.undo(point._forward_hooks.pop, among.id, None)
        turn.undo(_drop(handle, vars(point)))
        point._forward_hooks[among.id] = _as_torch_calls_it(point, hook)
        point.fwd_hooks.append(handle)
    return model


def _drop(handle: Any, facts: dict[str, Any]) -> Callable[[], None]:
    """A function in C that takes a handle out of `fwd_hooks`, which may be another list by then."""
    now = map(operator.itemgetter("fwd_hooks"), [facts])
    others = map(list, map(partial(filterfalse, partial(operator.is_, handle)), now))
    done: deque[Any] = deque(maxlen=0)
    return partial(done.extend, map(partial(facts.__setitem__, "fwd_hooks"), others))


def _as_torch_calls_it(point: Any, hook: Callable[..., Any]) -> Callable[..., Any]:
    def call(module: Any, inputs: Any, output: Any) -> Any:
        conversion = getattr(point, "hook_conversion", None)
        if conversion is None:
            return hook(output, hook=point)
        changed = hook(conversion.convert(output), hook=point)
        return changed if changed is None else conversion.revert(changed)

    return call


check_arguments(__name__, inner=True)

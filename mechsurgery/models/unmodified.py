"""Whether a model is the one that its weights say: what is measured is kept under a digest of the weights alone."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.utils import parametrize

from ..checks import check_arguments
from ..errors import InputError, listed
from . import sites
from .protocol import Model
from .turns import Turn

#: {model: {mark of a turn: name of the intervention that is on it}}
_changed: WeakKeyDictionary[Any, dict[object, str]] = WeakKeyDictionary()


def changed_by(turn: Turn, model: Model, name: str) -> None:
    """Have the model count as changed by the intervention of this name until a turn ends."""
    names, mark = _changed.setdefault(model, {}), object()
    turn.undo(names.pop, mark, None)
    names[mark] = name


def check_unmodified(model: Model) -> None:
    """Raise `InputError` where something acts on a model that is no part of its weights.

    That is an intervention (`applied`), hooks at hook points, PyTorch's hooks before or after a module, and
    parametrisations. What would be measured there would be found later as the unmodified model's.
    """
    there = sites.hook_points(model)
    points = {id(point) for point in there.values()}
    if own := [name for name, point in there.items() if point.fwd_hooks or point.bwd_hooks]:
        found = f"has hooks on it already, at {listed(own)}"
    elif isinstance(model, nn.Module) and (own := _hooked_modules(model, points, sites.own_hooks(model))):
        found = f"has hooks on it already, PyTorch's on {listed(own)}"
    elif own := list(_changed.get(model, {}).values()):
        found = f"is inside applied(…) with {listed(own)}"
    elif isinstance(model, nn.Module) and (own := _parametrised(model)):
        found = f"has parametrisations on {listed(own)}"
    else:
        return
    raise InputError(
        f"this model {found}, so it is not the unmodified one; leave applied(…) and give the intervention itself, call "
        "model.reset_hooks(), or take off what was put on it"
    )


def _hooked_modules(model: nn.Module, points: set[int], its_own: set[int]) -> list[str]:
    """Modules with a hook that changes what they are given or what they give, besides those the class puts on."""
    return [
        name or "the model"
        for name, module in model.named_modules()
        if id(module) not in points and {*module._forward_hooks, *module._forward_pre_hooks} - its_own
    ]


def _parametrised(model: nn.Module) -> list[str]:
    """Modules one of whose weights is computed from others."""
    return [name or "the model" for name, one in model.named_modules() if parametrize.is_parametrized(one)]


check_arguments(__name__, inner=True)

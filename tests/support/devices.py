"""Devices that are not there: tensors that say they are on one, and refuse to meet those of another, as a GPU's would.

Their numbers are in the memory of the CPU, so results are exact, backward passes work, and what a program does across
devices can be tested on any machine. `torch.device("lazy:0")` and its like name them, which no build of PyTorch uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

KIND = "lazy"
_CPU = torch.device("cpu")
#: What brings numbers from one device to another.
_MOVES = {"to", "cpu", "copy_", "__deepcopy__", "__repr__", "__format__", "type_as"}
#: What gives numbers of Python, or a description.
_READS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__len__", "is_floating_point"}
#: What a GPU's tensor may be indexed by: a CPU's too.
_INDEXES = {"__getitem__", "__setitem__"}


class _AsTensor(type(Tensor)):
    """For code that asks whether the type of a tensor is `Tensor`."""

    def __eq__(cls, other: object) -> bool:
        return other is Tensor or other is cls

    def __hash__(cls) -> int:
        return id(cls)


class Placed(Tensor, metaclass=_AsTensor):
    """A tensor on a device that is not there."""

    def __new__(cls, value: Tensor, requires_grad: bool = False) -> Tensor:
        """A parameter, for code that makes one of a kind like another's."""
        return torch.nn.Parameter(value, requires_grad=requires_grad)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, types, args, dict(kwargs or {}))


class _Everywhere(TorchFunctionMode):
    """Has tensors made and moved where a device that is not there is named."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, types, args, dict(kwargs or {}))


@contextmanager
def devices_that_are_not_there() -> Iterator[None]:
    """Within, "lazy:0", "lazy:1" … are devices."""
    with _Everywhere():
        yield


def place_of(tensor: Tensor) -> torch.device:
    """The device that a tensor says it is on."""
    if isinstance(tensor, Placed):
        return vars(tensor).get("place", _CPU)
    # Of a subclass of the package's own, the tensor that it stands for.
    return place_of(vars(tensor)["frozen"]) if "frozen" in vars(tensor) else _CPU


def _call(func: Any, types: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, of = getattr(func, "__name__", ""), getattr(func, "__self__", None)
    if of is Tensor.device:
        return place_of(args[0])
    if func is torch.device:
        return func(*args, **kwargs)
    others = [kind for kind in types if kind not in (Tensor, Placed, torch.nn.Parameter)]
    for kind in others:  # subclasses of the package's own decide for themselves
        made = kind.__torch_function__(func, types, args, kwargs)
        if made is not NotImplemented:
            where = _together(name, args, kwargs)
            if isinstance(made, kind):
                vars(made)["frozen"] = _as_placed(vars(made)["frozen"], where, [])
                return made
            return _as_placed(made, where, list(_tensors(args)))
    with torch._C.DisableTorchFunctionSubclass():
        if name == "numpy" and place_of(args[0]) != _CPU:
            raise TypeError(f"can't convert {place_of(args[0])} device type tensor to numpy")
        if name in _READS or of in (Tensor.shape, Tensor.dtype, Tensor.requires_grad, Tensor.grad_fn):
            return func(*args, **kwargs)
        if name.startswith("_foreach_"):  # the caller sorts tensors by device, and sees the CPU's alone here
            made = func(*args, **kwargs)
            return made and [_as_placed(one, place_of(own), []) for one, own in zip(made, args[0])]
        if func is torch.autograd.grad:  # each gradient is where what it is of is
            made = func(*args, **kwargs)
            return tuple(_as_placed(one, place_of(own), []) for one, own in zip(made, _tensors(args[1])))
        there = _together(name, args, kwargs)
        args, kwargs, wanted = _without_devices(name, args, kwargs)
        made = func(*args, **kwargs)
        if name in ("cpu", "numpy"):
            wanted = _CPU
        if name in ("copy_", "__setitem__"):
            there = place_of(args[0])
        if name == "type_as":
            wanted = place_of(args[1])
    return _as_placed(made, there if wanted is None else wanted, [*_tensors(args), *_tensors(kwargs)])


def _together(name: str, args: Any, kwargs: Any) -> torch.device:
    """The device of what an operation is given. Raises `RuntimeError` where there are two."""
    given = list(_tensors([args, kwargs]))
    if name in _MOVES:
        return place_of(given[0]) if given else _CPU
    if name in _INDEXES:
        places = {place_of(args[0])} | {place_of(one) for one in _tensors(args[1:]) if place_of(one) != _CPU}
        if name == "__setitem__" and isinstance(args[2], Tensor) and args[2].ndim and place_of(args[2]) not in places:
            raise RuntimeError(f"a value on {place_of(args[2])} for a tensor on {places}")
    else:
        places = {place_of(one) for one in given if one.ndim or place_of(one) != _CPU} or {_CPU}
    if len(places) > 1:
        found = sorted(map(str, places))
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {found}")
    return places.pop()


def _without_devices(name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], torch.device | None]:
    """Arguments with the CPU in the place of every device, and the one that was named."""
    wanted: torch.device | None = None

    def own(value: Any) -> Any:
        nonlocal wanted
        # "meta" too: what transformers makes there before it has weights is in memory here.
        if not isinstance(value, (str, torch.device)) or not str(value).startswith((KIND, "cpu", "meta")):
            return value
        wanted = torch.device(value)
        return _CPU

    changed = tuple(own(value) if name != "einsum" else value for value in args)
    options = {key: own(value) if key == "device" else value for key, value in kwargs.items()}
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        wanted = place_of(args[1])
    if name == "to" and isinstance(kwargs.get("other"), Tensor):
        wanted = place_of(kwargs["other"])
    return changed, options, wanted


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _as_placed(made: Any, where: torch.device, given: list[Tensor]) -> Any:
    """Tensors of a result on a device; those that were there before stay as they are."""
    if isinstance(made, Tensor):
        if any(made is one for one in given) and place_of(made) == where:
            return made
        with torch._C.DisableTorchFunctionSubclass():
            if where == _CPU:
                return made.as_subclass(Tensor) if isinstance(made, Placed) else made
            own = made.as_subclass(Placed)
        vars(own)["place"] = where
        return own
    if isinstance(made, (list, tuple)):
        parts = [_as_placed(one, where, given) for one in made]
        if type(made) in (list, tuple):
            return type(made)(parts)
        return type(made)(parts) if hasattr(made, "n_fields") else made
    return made


def put(model: Any, spread: Any) -> Any:
    """A loaded model with its weights where a `Spread` has them, and its layers run where it has them run."""
    from mechsurgery.models.spread import spread_out

    made: dict[int, tuple[Any, Any]] = {}
    for block, home in zip(model.blocks, spread.home):
        _to(block, home, made)
    _to(model, spread.first, made)
    model.cfg.device = str(spread.first)
    return spread_out(model, spread)


def _to(part: torch.nn.Module, home: torch.device, made: dict[int, tuple[Any, Any]]) -> None:
    """Have the tensors of a module on a device; `made` has those that were moved, with what they became."""
    for module in part.modules():
        for among in (module._parameters, module._buffers):
            for leaf, tensor in list(among.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    own = tensor.detach().to(home)
                    own = torch.nn.Parameter(own, requires_grad=False) if among is module._parameters else own
                    made[id(tensor)], made[id(own)] = (tensor, own), (own, own)
                among[leaf] = made[id(tensor)][1]

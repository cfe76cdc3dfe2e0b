"""A model's layers on several devices, and layers that wait on the CPU until they are run.

Embeddings, the last norm and the unembedding stand on the first device, where tokens go in and logits come out. Each
layer runs on a device of its own: what comes to it is brought there. Weights of a layer for which no device has room
wait on the CPU, and are on the layer's device only while it runs; everything that reads or changes weights finds them
on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_arguments
from ..device_names import Named, named_devices
from ..errors import InputError
from ..names import layer_of
from . import memory
from .protocol import Model
from .turns import Turn

#: Share of a device's memory that weights may take; activations, keys and values have the rest.
SHARE = 0.9
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Spread:
    """Where a model runs: its first device, and of every layer where it runs and where its weights are."""

    first: torch.device
    run: tuple[torch.device, ...]
    home: tuple[torch.device, ...]

    @property
    def is_one(self) -> bool:
        """Whether everything is on one device."""
        return {*self.run, *self.home} == {self.first}

    def home_of(self, name: str) -> torch.device:
        """Where a module or parameter of a HookedTransformer is."""
        layer = layer_of(name)
        return self.first if layer < 0 else self.home[layer]

    @property
    def waiting(self) -> int:
        """How many layers wait on the CPU."""
        return sum(home != run for home, run in zip(self.home, self.run))

    def told(self) -> str:
        """In words, e.g. "20 layers on cuda:0, 12 on cuda:1, of which 4 wait on the CPU"."""
        counts = [(device, self.run.count(device)) for device in dict.fromkeys(self.run)]
        parts = [f"{n} on {device}" for device, n in counts]
        parts[0] = f"{counts[0][1]} layer{'s' if counts[0][1] > 1 else ''} on {counts[0][0]}"
        return ", ".join(parts) + (f", of which {self.waiting} wait on the CPU" if self.waiting else "")


def spread_over(wanted: str | torch.device | None, layers: Sequence[int], rest: int) -> Spread:
    """Where layers of these many bytes, and the `rest` of the model, are put.

    `wanted` is one device, some ("cuda:0,cuda:1", each with "=20GiB" where no more is to be taken), or "auto" for all
    GPUs; None is "auto" where there are GPUs, else the CPU. A model that the first device, or with "auto" any one,
    has room for is there alone; else its layers are spread in order, so that all devices are filled alike; layers for
    which there is no room wait on the CPU. One device without a limit has the whole model, whatever its memory.

    Raises `InputError` for devices that are not there, and where not even one layer has room.
    """
    if (only := _only(wanted)) is not None:
        return _on_one(only, len(layers))
    devices = [_there(one) for one in named_devices(wanted)]
    room = {one.device: _room(one) for one in devices}
    whole = sum(layers) + rest
    ordered = sorted(room, key=lambda device: -room[device]) if wanted in (None, "auto") else list(room)
    if room[ordered[0]] >= whole:
        return _on_one(ordered[0], len(layers))
    order, most = list(room), max(layers, default=0)
    last = order[-1]
    if room[order[0]] < rest or room[last] < most + (rest if last == order[0] else 0):
        raise InputError(
            f"device={str(wanted)!r} has room for {sum(room.values()) / memory.GIB:.3g} GiB of weights, and the "
            f"model's embeddings alone take {rest / memory.GIB:.3g} GiB, each layer {most / memory.GIB:.3g} GiB; free "
            "memory, name more devices, or load in bfloat16"
        )
    for part in range(1, 101):
        found, left = _filled(order, {d: room[d] * part / 100 for d in order}, layers, rest)
        if not left:
            return Spread(order[0], tuple(found), tuple(found))
    # What waits is run on the last device, which keeps room for one layer of it.
    found, left = _filled(order, room | {last: room[last] - most}, layers, rest)
    return Spread(order[0], (*found, *[last] * left), (*found, *[_CPU] * left))


def _only(wanted: str | torch.device | None) -> torch.device | None:
    """The device that gets the whole model whatever it has room for, or None where that is to be seen."""
    devices = named_devices(wanted)
    chosen = wanted not in (None, "auto") or devices[0].device == _CPU
    return _there(devices[0]).device if chosen and len(devices) == 1 and devices[0].limit is None else None


def _on_one(device: torch.device, n_layers: int) -> Spread:
    return Spread(device, (device,) * n_layers, (device,) * n_layers)


def _there(one: Named) -> Named:
    """A device that tensors can be put on. Raises `InputError` for another."""
    try:
        torch.empty(0, device=one.device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"device {str(one.device)!r} cannot be used here ({why}); 'cpu' always works") from error
    return one


def _room(one: Named) -> float:
    """Bytes of weights that a device may take."""
    if one.limit is not None:
        return float(one.limit)
    free = memory.available(one.device)
    return float("inf") if free is None else SHARE * free


def _filled(
    order: list[torch.device], room: dict[torch.device, float], layers: Sequence[int], rest: int
) -> tuple[list[torch.device], int]:
    """The device of each layer for which there is room, one device after the other; and how many layers are left."""
    found: list[torch.device] = []
    place, taken = 0, float(rest)
    for size in layers:
        while place < len(order) and taken + size > room[order[place]]:
            place, taken = place + 1, 0.0
        if place == len(order):
            break
        found.append(order[place])
        taken += size
    return found, len(layers) - len(found)


def placed(
    config: Any, architecture: str, dtype: torch.dtype | None, wanted: str | torch.device | None
) -> tuple[Spread, dict[str, Any] | None]:
    """Where a model of a configuration of transformers is put, and the `device_map` by which transformers does it.

    Raises `InputError` as `spread_over` does.
    """
    n_layers = int(config.get_text_config().num_hidden_layers)
    if (only := _only(wanted)) is not None:
        return _on_one(only, n_layers), None if only == _CPU else {"": only}
    import transformers

    with torch.device("meta"):
        empty = getattr(transformers, architecture)(config)
    empty.tie_weights()
    lists = (pair for pair in empty.named_modules() if isinstance(pair[1], nn.ModuleList) and len(pair[1]) == n_layers)
    path, layers = next(lists)
    kind = dtype or getattr(config, "dtype", None) or torch.float32
    sizes = [_numbers(layer) * kind.itemsize for layer in layers]
    spread = spread_over(wanted, sizes, _numbers(empty) * kind.itemsize - sum(sizes))
    if spread.is_one:
        return spread, None if spread.first == _CPU else {"": spread.first}
    # Each part by its name: of "" transformers would first bring the whole model to one device.
    others = dict.fromkeys(_beside(empty, path), spread.first)
    return spread, others | {f"{path}.{layer}": home for layer, home in enumerate(spread.home)}


def _beside(model: nn.Module, path: str) -> Iterator[str]:
    """The largest parts of a model in which the module at a path is not."""
    above = ""
    for step in path.split("."):
        for name, _ in model.get_submodule(above).named_children():
            if name != step:
                yield f"{above}.{name}".lstrip(".")
        above = f"{above}.{step}".lstrip(".")


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_dispatch(source: Any) -> None:
    """Take off accelerate's hooks, which transformers puts on a model that it spread, and which do what is done here.

    Weights that they hold elsewhere come back to where the `device_map` has them.
    """
    if not hasattr(source, "_hf_hook"):
        return
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(source)
    vars(source).pop("hf_device_map", None)


def spread_out(model: Model, spread: Spread) -> Model:
    """Have each layer of a model whose weights are where `spread` has them run on its device."""
    last = len(spread.run) - 1
    for layer, (device, home) in enumerate(zip(spread.run, spread.home)):
        block = model.get_submodule(f"blocks.{layer}")
        if device != spread.first or home != device:
            after = spread.first if layer == last else None
            # Not by `block.forward = …`, which a bridge passes on to transformers' module inside.
            vars(block)["forward"] = _There(block, block.forward, device, after, waits=home != device)
    return model


def device_of(model: Model) -> torch.device:
    """Where tokens go into a model and logits come out."""
    return next(iter(model.parameters())).device


def device_of_layer(model: Model, layer: int) -> torch.device:
    """Where a layer runs."""
    block = model.get_submodule(f"blocks.{layer}")
    own = vars(block).get("forward")
    return own.device if isinstance(own, _There) else next(block.parameters()).device


def devices_of(model: Model) -> list[torch.device]:
    """Every device on which a model runs, the first one first."""
    return list(
        dict.fromkeys([device_of(model), *(device_of_layer(model, layer) for layer in range(model.cfg.n_layers))])
    )


class _There:
    """A layer's `forward` on a device: what is given is brought there, and so are weights that wait elsewhere."""

    def __init__(
        self,
        block: nn.Module,
        forward: Callable[..., Any],
        device: torch.device,
        after: torch.device | None,
        *,
        waits: bool,
    ) -> None:
        self.block, self.forward, self.device, self.after, self.waits = block, forward, device, after, waits

    def __call__(self, *args: Any, **options: Any) -> Any:
        args, options = moved((args, options), self.device)
        if self.waits:
            # In one line, as in `turns.in_turn`.
            with Turn(self, self._bring, ends_all=True): made = self.forward(*args, **options)  # fmt: skip # noqa: E701
        else:
            made = self.forward(*args, **options)
        return made if self.after is None else moved(made, self.after)

    def _bring(self, turn: Turn) -> None:
        """Have the layer's weights on its device until a turn ends; the tensors that wait stay as they are."""
        for among, leaf, tensor in _held(self.block):
            if tensor.device != self.device:
                turn.undo(among.__setitem__, leaf, tensor)
                among[leaf] = tensor.to(self.device, non_blocking=True)


def moved(values: Any, device: torch.device) -> Any:
    """Values with all tensors in them, also within lists and dictionaries, on a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {key: moved(value, device) for key, value in values.items()}
    return type(values)(moved(value, device) for value in values) if type(values) in (list, tuple) else values


def _held(block: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(where it is held, its name, the tensor) of every weight and buffer of a layer."""
    for module in block.modules():
        for among in (module._parameters, module._buffers):
            yield from ((among, leaf, tensor) for leaf, tensor in list(among.items()) if tensor is not None)


check_arguments(__name__, inner=True)

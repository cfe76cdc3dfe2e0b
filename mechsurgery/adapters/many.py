"""`Workers`: copies of a model in processes of their own, on this machine or on a Ray cluster (extra `ray`).

Each copy is loaded from where the model came from and must have its fingerprint and its tokenizer. Jobs are cut before
anybody knows how many workers there are, and each has the same number of threads however many there are, so results do
not depend on how many there are. What travels between the processes are objects of this package only, made here and
pickled by Ray between processes of one user; nothing is unpickled that came from a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import __version__
from ..checks import check_arguments
from ..errors import InputError, MechsurgeryError, MismatchError, needs_extra
from ..models import sites, tokens
from ..models.protocol import Model
from ..models.workers import Act
from .handing_out import Came, hand_out

logger = logging.getLogger(__name__)

#: Set before Ray begins, where the user did not: no reports of use, no word on devices.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
#: Bytes of shared memory for what travels on this machine; Ray writes what is more to disk.
_STORE = 256 * 2**20
#: How often Ray is started before giving up: its own patience, 15 seconds, is short where every core is busy.
_TRIALS = 5
#: Whether the Ray in use was started here, for this machine alone: then nothing else shares it, and no worker waits for
#: cores that are free only when workers of another `Workers` end.
_STARTED = {"here": False}


class Workers:
    """`n` workers, each with its own copy of the model that is measured or trained; a context that ends them.

    Without an `address` they run on this machine (or where `ray.init` was called before), else on the Ray cluster
    there ("auto" for the one that this machine belongs to). Every worker takes `threads` cores and `gpus` GPUs, which
    may be a fraction; over more than one it spreads the model's layers, with none it computes on the CPU. `source` is
    where workers find the model, by default the name or directory that it was loaded by; `load` are further arguments
    of `load_model`, such as a revision. A worker that dies is replaced and its job done again, `retries` times. Workers
    are started when first needed and keep their copy until the context ends.

    >>> with Workers(2) as workers:  # doctest: +SKIP
    ...     results = evaluate(model, prompts, [ablate(circuit)], workers=workers, folder="results")
    """

    def __init__(
        self,
        n: int = 2,
        *,
        address: str | None = None,
        gpus: float = 0,
        threads: int = 1,
        retries: int = 3,
        source: str | Path | None = None,
        load: Mapping[str, Any] | None = None,
    ) -> None:
        if n < 1 or threads < 1 or gpus < 0 or retries < 0:
            raise InputError(
                f"n={n} workers with threads={threads}, gpus={gpus}, retries={retries}: n and threads are at least 1, "
                "gpus and retries at least 0"
            )
        self.n, self.address, self.gpus, self.threads, self.retries = n, address, gpus, threads, retries
        self.source, self.load = source, dict(load or {})
        self._idle: list[Any] = []
        self._ours = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and Ray where it was started here; used again, they start again."""
        import sys

        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            self._idle, self._ours = [], False
            return
        while self._idle:
            ray.kill(self._idle.pop())
        if self._ours:
            self._ours = _STARTED["here"] = False
            ray.shutdown()

    def each(
        self, model: Model, act: Act, items: Sequence[Any], *, shared: Any, done: Callable[[int, Any], Any]
    ) -> None:
        """Have `act(copy of the model, shared, item)` done for every item; `done(place, result)` is called here.

        What `act` raises is raised here. Raises `InputError` where something cannot travel to another process,
        `MismatchError` where workers load another model than this one.
        """
        wanted = self._wanted(model)
        ray = self._begin()
        parcel = _packed((act, shared, list(items)))
        pool = _RayPool(ray, self, wanted, ray.put(parcel))
        hand_out(pool, self.n, len(items), done, retries=self.retries)

    def _wanted(self, model: Model) -> dict[str, Any]:
        """What a worker needs to have the same model, and to know that it has."""
        name = str(model.cfg.model_name if self.source is None else self.source)
        name = str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name
        how = {
            "dtype": next(iter(model.parameters())).dtype,
            "device": "auto" if self.gpus > 1 else "cuda" if self.gpus else "cpu",
            "bridge": sites.is_bridge(model),
            **self.load,
        }
        return {
            "name": name,
            "load": how,
            "fingerprint": sites.fingerprint(model),
            "tokenizer": tokens.tokenizer_digest(tokens.tokenizer_of(model)),
            "stops": tokens.stop_ids(model),
            "version": __version__,
        }

    def _begin(self) -> Any:
        """Ray, with room for at least one worker."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with needs_extra("ray", "several workers"):
            import ray
        if not ray.is_initialized():
            _start(ray, self.address, self.n * self.threads)
            self._ours = True
            _STARTED["here"] = self.address is None
        there_is = ray.cluster_resources()
        if (not _STARTED["here"] and there_is.get("CPU", 0) < self.threads) or there_is.get("GPU", 0) < self.gpus:
            self.close()
            raise InputError(
                f"a worker takes {self.threads} cores and {self.gpus:g} GPUs, and Ray has {there_is.get('CPU', 0):g} "
                f"and {there_is.get('GPU', 0):g}; ask for less, or add nodes"
            )
        return ray


def _start(ray: Any, address: str | None, cores: int) -> None:
    """Connect to the cluster at an address, or start Ray on this machine, where a busy one may need several tries."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    here = {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE}
    for trial in range(_TRIALS):
        try:
            ray.init(**quiet, **(here if address is None else {"address": address}))
            return
        except Exception as error:  # Ray raises bare ones where the machine is too slow for its patience
            _end_half_started(error)
            ray.shutdown()
            if trial + 1 < _TRIALS and address is None:
                continue
            where = "on this machine" if address is None else f"at {address!r}"
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(
                f"Ray does not start {where}: {reason}; check the address, and that the machine is not too busy"
            ) from error


def _end_half_started(error: Exception) -> None:
    """End the processes of a Ray that gave up starting, which Ray itself ends only with this process."""
    trace = error.__traceback__
    while trace is not None:
        half: Any = trace.tb_frame.f_locals.get("self")
        if hasattr(half, "kill_all_processes"):
            half.kill_all_processes(check_alive=False, allow_graceful=False)
        trace = trace.tb_next


class _RayPool:
    """The workers as `hand_out` uses them: one Ray actor each, restarted by us and never by Ray."""

    def __init__(self, ray: Any, workers: Workers, wanted: dict[str, Any], parcel: Any) -> None:
        self._ray, self._workers, self._wanted, self._parcel = ray, workers, wanted, parcel
        cores = 0 if _STARTED["here"] else workers.threads
        how = {"num_cpus": cores, "num_gpus": workers.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._made = ray.remote(**how)(Copy)

    def begin(self) -> tuple[Any, Any]:
        idle = self._workers._idle
        worker = idle.pop() if idle else self._made.remote(self._workers.threads)
        # In a list, a reference travels as one; by itself, Ray would send what it stands for with each call.
        return worker, worker.hold.remote(self._wanted, [self._parcel])

    def give(self, worker: Any, place: int) -> Any:
        return worker.do.remote(place)

    def wait(self, tickets: Collection[Any]) -> Came:
        exceptions = self._ray.exceptions
        (ticket, *_), _ = self._ray.wait(list(tickets), num_returns=1)
        try:
            return Came(ticket, value=self._ray.get(ticket))
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MechsurgeryError):
                raise cause from None
            raise (cause if isinstance(cause, Exception) else error) from error
        except exceptions.RayError as error:
            return Came(ticket, died=next(iter(str(error).strip().splitlines()), type(error).__name__))

    def rest(self, worker: Any) -> None:
        self._workers._idle.append(worker)

    def end(self, worker: Any) -> None:
        self._ray.kill(worker)


class Copy:
    """What runs in a worker's process: a copy of one model, and what is asked of it."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._held: tuple[dict[str, Any], Model] | None = None
        self._work: tuple[Act, Any, list[Any]] | None = None

    def hold(self, wanted: dict[str, Any], parcel: list[Any]) -> None:
        """Load the model, where another one is held, and unpack what is to be done with it."""
        import pickle

        import ray

        if wanted["version"] != __version__:
            raise InputError(
                f"a worker has mechsurgery {__version__} and this process {wanted['version']}; install the same on "
                "every machine"
            )
        if self._held is None or self._held[0] != wanted:
            self._held = None
            self._held = wanted, loaded(wanted)
        try:
            self._work = pickle.loads(ray.get(parcel[0]))
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"a worker cannot find a function of yours ({error}); define it in the program itself, or install the "
                "module that has it on every machine"
            ) from error

    def do(self, place: int) -> Any:
        """What comes of an item."""
        assert self._held is not None and self._work is not None  # noqa: PT018
        act, shared, items = self._work
        return act(self._held[1], shared, items[place])


def loaded(wanted: Mapping[str, Any]) -> Model:
    """The model that a worker was asked to hold. Raises `MismatchError` where it is another one there."""
    from ..models import load_model

    model = load_model(wanted["name"], **wanted["load"])
    found = {"fingerprint": sites.fingerprint(model), "tokenizer": tokens.tokenizer_digest(model.tokenizer)}
    other = ["weights" if part == "fingerprint" else part for part in found if found[part] != wanted[part]]
    if other:
        raise MismatchError(
            f"what workers load from {wanted['name']!r} differs from the model given in its {' and '.join(other)}; "
            "load that one from there, or say with Workers(source=…, load=…) where this one is"
        )
    whole: Any = model
    whole.stop_token_ids = wanted["stops"]
    return model


def _packed(work: tuple[Act, Any, list[Any]]) -> bytes:
    """Everything workers need, as bytes. Raises `InputError` where something in it cannot travel."""
    from ray import cloudpickle

    try:
        return cloudpickle.dumps(work)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"something in this cannot travel to another process ({reason}); a function of your own in an intervention "
            "or a capability must hold plain values and tensors only, no lock and no connection"
        ) from error


check_arguments(__name__)

"""How many rows go into a batch: as many as memory has room for, and half as many after it ran out all the same."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch

from ..checks import LACKS_MEMORY, check_arguments
from . import memory
from .protocol import Model
from .spread import device_of_layer
from .tokens import Batch, device_of

logger = logging.getLogger(__name__)

#: The most rows of a batch that a caller gave no number for.
USUAL = {"cpu": 64, "cuda": 256}
#: Share of the free memory that is counted on.
_SHARE = 0.5


def rows_at_once(
    model: Model, ids: Sequence[Sequence[int]], *, max_rows: int | None = None, new_tokens: int = 0
) -> int:
    """Rows of a batch: at most `max_rows` (None: what is usual on the device), and no more than memory has room for.

    A row takes the keys and values of its prompt and of `new_tokens`, and what a layer makes of the prompt.
    """
    counts = Counter(device_of_layer(model, layer) for layer in range(model.cfg.n_layers))
    most = USUAL.get(device_of(model).type, 64) if max_rows is None else max_rows
    free = {device: memory.available(device) for device in counts}
    if most < 1 or not ids:
        return most
    fitting = most
    for device, found in free.items():
        if found is None:
            continue
        if device.type == "cuda":  # what PyTorch keeps for itself and uses again
            found += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        row = bytes_per_row(model, max(map(len, ids)), new_tokens, layers=counts[device])
        fitting = min(fitting, max(1, int(_SHARE * found / row)))
    if fitting < most:
        logger.info("%d rows at once instead of %d: there is no memory for more", fitting, most)
    return fitting


def bytes_per_row(model: Model, length: int, new_tokens: int = 0, *, layers: int | None = None) -> int:
    """Bytes that a prompt of this many tokens and its new tokens take at the most, from the configuration alone.

    Keys and values of all layers, or of as many as `layers`; of one layer the attention scores (four at once), the
    neurons and the residual stream; logits in float32 (three at once).
    """
    cfg = model.cfg
    n_layers = cfg.n_layers if layers is None else layers
    pairs = 2 * n_layers * (getattr(cfg, "n_key_value_heads", None) or cfg.n_heads) * cfg.d_head * (length + new_tokens)
    scores = 4 * cfg.n_heads * length * (length + new_tokens)
    wide = length * (4 * (getattr(cfg, "d_mlp", None) or 0) + 8 * cfg.d_model)
    size = next(iter(model.parameters())).element_size()
    return size * (pairs + wide + scores) + 3 * 4 * cfg.d_vocab


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of a device is at its end."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return type(error) is RuntimeError and any(said in str(error) for said in LACKS_MEMORY)


def final(error: RuntimeError) -> None:
    """Note that an error is not to be followed by a second attempt."""
    vars(error)["is_final"] = True


class Halved:
    """Does `work(batch)` for one batch after the other; where memory runs out, on its halves, and so from then on.

    A batch of one row for which memory does not suffice raises PyTorch's own error with a note of what helps. `work`
    must be such that doing it again on rows for which it was not finished does no harm.
    """

    def __init__(self, work: Callable[[Batch], None]) -> None:
        self._work = work
        self.max_rows: int | None = None

    def __call__(self, batch: Batch) -> None:
        """Do the work for a batch, whole or in parts."""
        waiting = list(self._parts(batch))
        while waiting:
            part = waiting[0]
            if self._fits(part):
                waiting.pop(0)
            else:
                gc.collect()
                if part.ids.is_cuda:
                    torch.cuda.empty_cache()
                waiting = [smaller for own in waiting for smaller in self._parts(own)]

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        n, step = len(batch.rows), self.max_rows or len(batch.rows)
        for start in range(0, n, step):
            own = slice(start, start + step)
            yield Batch(batch.rows[own], batch.ids[own], batch.mask[own])

    def _fits(self, batch: Batch) -> bool:
        # The error is let go of before the next attempt: its traceback holds the tensors of the one that failed.
        try:
            self._work(batch)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error) or vars(error).get("is_final"):
                raise
            n = len(batch.rows)
            if n == 1:
                error.add_note("one prompt alone does not fit: shorten it, load the model in bfloat16, or free memory")
                raise
            self.max_rows = (n + 1) // 2
            logger.warning("memory ran out with %d rows at once; going on with %d", n, self.max_rows)
            return False


check_arguments(__name__)

"""Out of memory: which errors say so, and what is tried before a row fails for it.

The fallbacks, in their order:

- `offload`: the checkpoint's parts wait in the machine's memory and are on the GPU only while they
  work. Slower, the same bytes.
- `tiles`: a frame is decoded in overlapping tiles (`zs2.decoding.in_tiles`). Pixels near a seam can
  differ from those of a frame decoded whole, so it comes last.

What a row needed is remembered for the rows like it, and is said in each one's ledger row.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

log = logging.getLogger("zs2.memory")

Done = TypeVar("Done")

OFFLOAD, TILES = "offload", "tiles"
# Of libraries below torch, which raise a plain RuntimeError.
_WORDS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


class OutOfMemory(RuntimeError):  # noqa: N818  as torch and Python name theirs
    """A row that does not fit, whatever was tried."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out."""
    import torch

    while True:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__


def fallbacks_of(stage: str) -> tuple[str, ...]:
    """What can be tried for a stage on this machine; without a GPU there is nothing to offload."""
    import torch

    offload = (OFFLOAD,) if torch.cuda.is_available() else ()
    return (*offload, TILES) if stage == "decode" else offload


class Fallbacks:
    """What rows have needed so far, by what rows share that need the same memory."""

    def __init__(self) -> None:
        self._needed: dict[Hashable, list[str]] = {}

    def attempt(
        self, shared: Hashable, stage: str, work: Callable[[Sequence[str]], Done]
    ) -> tuple[Done, list[str]]:
        """Do the work, with one fallback more each time that memory runs out.

        Args:
            shared: rows for which this is equal begin with what the earlier ones needed.
            work: is given the fallbacks to use.

        Returns:
            What the work returned, and the fallbacks it took.

        Raises:
            OutOfMemory: it ran out with all of them. Also what `work` raises otherwise.
        """
        key = (stage, shared)
        taken = list(self._needed.get(key, ()))
        while True:
            try:
                return work(taken), taken
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                left = [name for name in fallbacks_of(stage) if name not in taken]
                if not left:
                    raise OutOfMemory(_told(error, taken)) from error
                log.warning("%s: out of memory; going on with %s", stage, left[0])
            _free()  # out here: the error held on to what it could not finish
            taken.append(left[0])
            self._needed[key] = taken.copy()


def _told(error: BaseException, taken: Sequence[str]) -> str:
    tried = f" also with {' and '.join(taken)}" if taken else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"out of memory{tried} ({reason}); lower height, width or segment_frames, "
        "or render the row on a device with more memory"
    )


def _free() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()

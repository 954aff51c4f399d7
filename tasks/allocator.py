"""How the C library keeps memory that tensors and frames have given back."""

from __future__ import annotations

import ctypes
import os

# Where glibc's own thresholds end, which it raises when a large block is given back.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MMAP_BYTES = 64 << 20, 32 << 20
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Use memory again that was freed, in this process, instead of asking the kernel for new pages.

    glibc maps blocks from 128 kB on, and gives them back, page by page, until it has raised that bound by
    itself, which depends on what was freed before. A clip of zs2-mini cost up to 65,000 page faults, a
    tenth of its time, or none, as chance had it (infra/performance.md).

    Returns:
        Whether it was set: not where the environment has thresholds of its own, nor without glibc.
    """
    if any(name in os.environ for name in OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))

"""When this process reached each step of its start, and who may use the cores meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Niceness of a local run's actors. All start at 0: one that is to be up before the others stays there so
# long. Then samplers make way for the driver, and post-processing for the samplers, whose cores it shares.
SAMPLER_NICENESS = 15
POST_NICENESS = 19

_marks: dict[str, float] = {}
_IMPORTED = time.time()


def mark(step: str) -> None:
    """This step was reached now, unless it was before."""
    _marks.setdefault(step, round(time.time() - _process_began(), 2))


def marks() -> dict[str, float]:
    """Seconds from the start of this process to each step that was reached, in order."""
    return dict(_marks)


def make_way(niceness: int) -> None:
    """Lower this process's priority to what is given; never raise it, which only root may."""
    os.nice(max(0, niceness - os.nice(0)))


def _process_began() -> float:
    """In seconds since 1970, from the kernel; where it does not tell, when this module was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:  # not Linux
        return _IMPORTED
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")

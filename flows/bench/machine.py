"""The hardware and versions that a benchmark ran on, and the most that it multiplies."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.kinds import count
from tasks.publish import versions

if TYPE_CHECKING:
    import torch

PRODUCTS = 50  # of which the fastest counts
SIDE = {"cpu": 512, "cuda": 8192}  # of the matrices: one product is over before others get the core


def machine() -> dict[str, Any]:
    """The hardware, its load now, and the versions of what matters."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "versions": versions(),
    }


def machine_lines(found: Mapping[str, Any]) -> list[str]:
    """`machine()` for people."""
    libraries = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    cores = count(found["cores"], "core")
    return [
        f"{found['processor']}, {cores}, load {found['load']:.1f}; {found['system']}",
        libraries,
    ]


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square matrix products here and now, the best of some.

    With the threads that torch has; a product and its sum are two operations.
    """
    import torch

    side = SIDE.get(device.type, 1024)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        _ = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())

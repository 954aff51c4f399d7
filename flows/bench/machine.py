"""The hardware and versions that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.kinds import count
from tasks.publish import versions


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


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())

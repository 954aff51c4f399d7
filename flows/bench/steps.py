"""Steps of benchmarks, each measured in a fresh process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class BenchError(RuntimeError):
    """A step that failed; the message has what it said."""


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module as a program; returns the JSON object that it prints last.

    Raises:
        BenchError: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join([module, *arguments])
        raise BenchError(f"the step {told} failed\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])

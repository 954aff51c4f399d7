"""Freed memory is used again: what page faults cost a sampler."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tasks.allocator import OWN

# Blocks as large as a UNet's activations, all given back and asked for again.
PROGRAM = """
import json, resource, sys
from tasks.allocator import keep_freed_memory

kept = sys.argv[1] == "kept" and keep_freed_memory()

def clip():
    for _ in range(20):
        held = [bytearray(b"x") * 400_000 for _ in range(30)]
        del held

clip()
clip()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
clip()
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def run(how: str, **environment: str) -> tuple[bool, int]:
    env = {name: value for name, value in os.environ.items() if name not in OWN} | environment
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's thresholds")
def test_freed_memory_is_used_again():
    """The kernel gives next to no page for what was there before; without, it gives them again and again."""
    kept, faults = run("kept")
    assert kept and faults < 200
    kept, faults = run("as it is")
    assert not kept and faults > 10_000


@pytest.mark.parametrize("name", OWN)
def test_the_users_own_thresholds_stay(name: str):
    """Who has set malloc's thresholds wants those."""
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    kept, _ = run("kept", **{name: value})
    assert not kept

"""What the tests of `flows` share: `zs2` run as a user runs it, and manifests of tiny rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ZS2 = [sys.executable, "-m", "flows.cli"]
TIME_LIMIT = 480  # seconds; a run on the tiny model takes 12 s of an idle machine


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str
    seconds: float


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user who set nothing of Prefect's or Ray's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_ADDRESS"))}
    return {**kept, **extra}


def zs2(*arguments: object, time_limit: float = TIME_LIMIT, **extra: str) -> Answer:
    """Run `zs2` in a process of its own.

    Args:
        extra: variables of its environment.
    """
    started = time.monotonic()
    done = subprocess.run(
        [*ZS2, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=time_limit,
        env=environment(**extra),
    )
    return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a manifest; columns that a row lacks are null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path)
    return path


def processes(mark: str) -> dict[int, str]:
    """Processes alive whose environment has `mark` (NAME=value): pid → command."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
        if mark.encode() in environ and state != "Z":
            found[int(folder.name)] = command
    return found


def wait_until(holds: Any, seconds: float = 60.0) -> bool:
    """Whether `holds()` comes true within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.2)
    return bool(holds())

"""Processes of a run: found, frozen, ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def command(pid: int) -> str:
    """Its command line; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def state(pid: int) -> str:
    """R, S, D, T (frozen), Z (ended, not yet buried), or X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_alive(pid: int) -> bool:
    """Whether it is there and has not ended; a frozen one is alive."""
    return state(pid) not in "ZX"


def parents() -> dict[int, int]:
    """Every process of the machine and its parent."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                text = (folder / "stat").read_text()
                found[int(folder.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def children(*pids: int) -> list[int]:
    """Pids whose parent is one of these."""
    return [pid for pid, parent in parents().items() if parent in pids]


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    family, found = parents(), [pid]
    for each in found:  # grows meanwhile
        found += [child for child, parent in family.items() if parent == each]
    return found[1:]


def marked(mark: str) -> dict[int, str]:
    """Processes alive whose environment has `mark` (NAME=value): pid → command."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if mark.encode() in environment and is_alive(int(folder.name)):
                found[int(folder.name)] = command(int(folder.name))
    return found


def freeze(pid: int) -> bool:
    """Stop a process where it is, so that its state can be looked at; whether it was alive."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        for _ in range(1000):
            if state(pid) in "TZX":
                break
            time.sleep(0.001)
        return state(pid) == "T"
    return False


def release(pid: int) -> None:
    """Let a frozen process go on; one that is gone is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """SIGKILL to a process; one that is gone is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

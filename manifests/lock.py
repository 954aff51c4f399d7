"""The lock of a local run folder: the kernel holds it, and frees it when the process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests.files import LockedError, StorageError

Holder = dict[str, Any]


def holder_now(run_id: str) -> Holder:
    """This process, as a lock names it: run_id, pid, host, started."""
    return {
        "run_id": run_id,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def in_use(name: str, holder: Mapping[str, Any] | None) -> LockedError:
    """The refusal that names who holds the lock."""
    who = (
        f"run {holder.get('run_id')} (pid {holder.get('pid')} on {holder.get('host')}, "
        f"started {holder.get('started')})"
        if holder
        else "another run"
    )
    return LockedError(f"{name} is in use by {who}; wait for it, stop it, or use another folder")


@contextmanager
def hold_file(path: Path, run_id: str) -> Generator[None]:
    """Hold the lock file for one run.

    Raises:
        LockedError: another run holds it; the message names that run.
    """
    handle = _take(path)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder_now(run_id)).encode(), 0)
        yield
    finally:
        os.ftruncate(handle, 0)
        os.close(handle)


def _no_file(path: Path, reason: str | None) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({reason}): expected a file of the run's own; "
        "remove what stands there"
    )


def _take(path: Path) -> int:
    try:
        # never through a link: what it leads to would be emptied
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise _no_file(path, error.strerror) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_file(path, "it is no regular file")
    # `file_holder` holds the lock for an instant: one refusal is not yet another run
    for wait in (0.1, 0.2, 0.2, None):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is not None:
                time.sleep(wait)
                continue
            os.close(handle)
            raise in_use(str(path.parent), file_holder(path)) from None
        except OSError as error:
            os.close(handle)
            raise StorageError(
                f"{path.parent}: this file system has no locks ({error.strerror}); "
                "use a folder on a local disk"
            ) from error
        break
    return handle


def file_holder(path: Path) -> Holder | None:
    """Who holds the lock right now, or None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _no_file(path, error.strerror) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return json.loads(os.pread(handle, 4096, 0))
        except ValueError:
            return {}  # taken this instant, its name not written yet
    finally:
        os.close(handle)
    return None

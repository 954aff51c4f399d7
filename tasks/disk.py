"""A full disk: a file that does not fit fails its row, a disk without room ends the run."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from manifests.storage import StorageError

Done = TypeVar("Done")

# With less than this left no further row would fit: the run stops rather than fail them all.
LEAST_FREE = 64 * 2**20  # bytes
# Before a file is tried again: a neighbour's, too large to fit, is gone by then.
PAUSES = (1.0, 3.0)  # seconds


class DiskFullError(StorageError):
    """The run folder's disk has no room left; the run stops and can go on later."""


def lacks_room(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that a disk or a quota is full."""
    while True:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or getattr(error, "lacks_room", False):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__


def write_with_room(folder: Path, write: Callable[[], Done]) -> Done:
    """Write, and once more after each pause while the disk is full.

    Args:
        folder: where it writes.

    Raises:
        DiskFullError: the disk is full and stays so. Also what `write` raises, with room on the disk:
            then it is this file that does not fit.
    """
    for pause in PAUSES:
        try:
            return write()
        except Exception as error:
            if not lacks_room(error):
                raise
        time.sleep(pause)
    try:
        return write()
    except Exception as error:
        if lacks_room(error) and is_full(folder, error):
            raise DiskFullError(
                f"{folder}: the disk is full ({_free(folder) // 2**20} MB left; {error}); make space, "
                "and run the same command again: it goes on where it stopped"
            ) from error
        raise


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether other files would not fit either: hardly anything is free, or a quota is used up."""
    quota = isinstance(error, OSError) and error.errno == errno.EDQUOT
    return quota or _free(folder) < LEAST_FREE


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free

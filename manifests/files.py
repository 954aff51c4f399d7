"""Files that appear whole or not at all, and the errors of a run folder.

They are written aside under hidden names that are unique per attempt (`.tmp-…`), synced, renamed, and
their folder synced. What a killed attempt leaves is swept by the next run.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

ABANDONED_AFTER = 6 * 3600.0  # seconds without a write, for attempts whose process cannot be asked

_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}-.+", re.DOTALL)


class StorageError(Exception):
    """A run folder that cannot be used. The message ends with what to do."""


class LockedError(StorageError):
    """Another run holds the run folder."""


def sweep_temporary(
    root: Path, abandoned_after: float = ABANDONED_AFTER, *, deep: bool = True
) -> int:
    """Remove what dead attempts left below `root`: those of this host whose process is gone, and any
    not written to for `abandoned_after` seconds. Returns how many went.

    Args:
        deep: in its folders, too.
    """
    swept = 0
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            match = _TEMPORARY.fullmatch(name)
            if match is None:
                continue
            if name in folders:
                folders.remove(name)
            path = Path(folder, name)
            if _abandoned(path, match[1], int(match[2]), abandoned_after):
                swept += remove(path)
        if not deep:
            break
    return swept


def _abandoned(path: Path, host: str, pid: int, abandoned_after: float) -> bool:
    if host == _host() and not is_alive(pid):
        return True
    try:
        return time.time() - path.lstat().st_mtime > abandoned_after
    except FileNotFoundError:
        return False  # finished or swept by its own process meanwhile


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _host() -> str:
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


def aside_path(path: Path) -> Path:
    """A hidden name beside `path` that no other attempt uses and `sweep_temporary` knows."""
    # the full name last: encoders choose their format by the suffix
    return path.with_name(f".tmp-{_host()}-{os.getpid()}-{uuid4().hex[:12]}-{path.name}")


@contextmanager
def write_aside(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to; on leaving it is synced and renamed to `path`.

    On an error nothing appears at `path` and the temporary is removed. The folder is made where it
    is missing.
    """
    make_folder(path.parent)
    aside = aside_path(path)
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def publish_folder(path: Path) -> Generator[Path]:
    """As `write_aside`, for a folder: yields a fresh folder that becomes `path` as a whole.

    What stood at `path` is exchanged for it in one step and then removed. Where the file system
    cannot exchange, it is moved away first: a crash between the two leaves no folder there, never
    a mixture.
    """
    make_folder(path.parent)
    aside = aside_path(path)
    aside.mkdir()
    try:
        yield aside
        for folder, _, files in os.walk(aside, topdown=False):
            for name in files:
                sync(Path(folder, name))
            sync(Path(folder))
        _put_folder(aside, path)
        sync(path.parent)
    finally:
        remove(aside)


def _put_folder(aside: Path, path: Path) -> None:
    """Rename a folder to `path`. What stood there has the name `aside` afterwards, or is gone."""
    while True:
        try:
            aside.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _exchange(aside, path):
            return
        # Or gone meanwhile: another attempt of the row, of a run that was killed, may be at it too.
        replaced = aside_path(path)
        with suppress(FileNotFoundError):
            path.rename(replaced)
        remove(replaced)


_EXCHANGE, _HERE = 2, -100  # Linux: RENAME_EXCHANGE, AT_FDCWD


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change their names in one step; whether the system could."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return renameat2 is not None and not renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)


def remove(path: Path) -> bool:
    """Remove a file or a folder; whether it went. A folder into which the encoder of an actor that
    was killed still writes stays, for the next run's sweep."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return True
    for _ in range(20):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # another run's sweep, or the encoder's own doing
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        if not path.exists():
            return True
        time.sleep(0.05)
    return False


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they outlast a power loss: each is synced into its
    parent, also one that is there, since its maker may have been killed before it came to that."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    sync_entry(folder)


def sync_entry(folder: Path) -> None:
    """fsync a folder's name into its parent."""
    with suppress(PermissionError):  # what may not be read was not made by a run
        sync(folder.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

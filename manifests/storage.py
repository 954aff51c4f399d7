"""The run folder: where everything lies, how files appear whole or not at all, and who may write.

Files are written aside under hidden names that are unique per attempt (`.tmp-…`), synced, renamed,
and their folder synced. What a killed attempt leaves is swept by the next run.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from manifests.columns import is_id
from manifests.kinds import describe

SUFFIXES = {
    "h264": ".mp4",
    "h265": ".mp4",
    "av1": ".mp4",
    "ffv1": ".mkv",
    "gif": ".gif",
    "webp": ".webp",
    "png": "",  # a folder of frames
}
ABANDONED_AFTER = 6 * 3600.0  # seconds without a write, for attempts whose process cannot be asked

_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}-.+", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{8,64}")


class StorageError(Exception):
    """A run folder that cannot be used. The message ends with what to do."""


class LockedError(StorageError):
    """Another run holds the run folder."""


class RunFolder:
    """The paths of a run's folder (see DESIGN.md, "What a run leaves"). Makes nothing by itself.

    Raises:
        StorageError: the root is an object-store URL, or something that is not a folder.
    """

    def __init__(self, root: str | Path) -> None:
        name = str(root)
        if "://" in name:
            raise StorageError(f"{name}: object stores are not built yet; use a local folder")
        if not name or "\0" in name:
            raise StorageError(f"{describe(name)} is not a path; give a local folder")
        self.root = Path(name)
        try:
            taken = self.root.exists() and not self.root.is_dir()
        except OSError as error:
            raise _unusable(name, error) from error
        if taken:
            raise StorageError(f"{name} is a file; give another output folder")
        self.videos = self.root / "videos"
        self.previews = self.root / "previews"
        self.results = self.root / "results"
        self.latents = self.root / "latents"
        self.logs = self.root / "logs"
        self.metadata_file = self.root / "metadata.parquet"
        self.run_file = self.root / "run.json"
        self.summary_file = self.root / "summary.json"
        self.gallery_file = self.root / "index.html"
        self.lock_file = self.root / "run.lock"

    def create(self) -> RunFolder:
        """Make the folder and its parts, and prove that files can be written there.

        Raises:
            StorageError: with the remedy.
        """
        try:
            make_folder(self.root)
            for ancestor in self.root.absolute().parents:
                if os.access(ancestor, os.W_OK):  # a run that was killed may have made it just now
                    sync_entry(ancestor)
            for folder in (self.videos, self.results, self.latents, self.logs):
                make_folder(folder)
            probe = aside_path(self.results / "probe")
            probe.write_bytes(b"zs2")
            probe.unlink()
        except OSError as error:
            raise _unusable(self.root, error) from error
        return self

    def video_path(self, digest: str, row_id: str, codec: str) -> Path:
        """videos/<first two hex of digest>/<id>.<suffix>; a folder where the codec is png.

        Raises:
            ValueError: a digest or an id that is not one: neither may lead out of the folder.
        """
        if not _DIGEST.fullmatch(digest) or not is_id(row_id):
            raise ValueError(f"not a digest and an id: {describe(digest)}, {describe(row_id)}")
        return self.videos / digest[:2] / f"{row_id}{SUFFIXES[codec]}"

    def has_video(self, digest: str, row_id: str, codec: str) -> bool:
        """Whether a finished video lies where `video_path` says."""
        return self.video_path(digest, row_id, codec).exists()

    def latents_path(self, sample_digest: str) -> Path:
        """latents/<sample digest>.safetensors"""
        if not _DIGEST.fullmatch(sample_digest):
            raise ValueError(f"not a digest: {describe(sample_digest)}")
        return self.latents / f"{sample_digest}.safetensors"

    def file_name(self, path: Path) -> str:
        """A path of the folder as the ledger and metadata name it: relative, with slashes."""
        return path.relative_to(self.root).as_posix()

    @contextmanager
    def lock(self, run_id: str) -> Generator[None]:
        """Hold the folder for one run. The kernel frees the lock when the process ends, however it
        ends, so a killed run leaves none behind.

        Raises:
            LockedError: another run holds it; the message names that run.
        """
        handle = self._take_lock()
        try:
            holder = {
                "run_id": run_id,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
            yield
        finally:
            os.ftruncate(handle, 0)
            os.close(handle)

    def _take_lock(self) -> int:
        try:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"{self.lock_file} cannot be written ({error.strerror})") from error
        # `lock_holder` holds the lock for an instant: one refusal is not yet another run
        for wait in (0.1, 0.2, 0.2, None):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is not None:
                    time.sleep(wait)
                    continue
                os.close(handle)
                raise LockedError(self._held_by()) from None
            except OSError as error:
                os.close(handle)
                raise StorageError(
                    f"{self.root}: this file system has no locks ({error.strerror}); "
                    "use a folder on a local disk"
                ) from error
            break
        return handle

    def lock_holder(self) -> dict[str, str | int] | None:
        """Who holds the lock right now (run_id, pid, host, started), or None."""
        try:
            handle = os.open(self.lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
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

    def _held_by(self) -> str:
        holder = self.lock_holder() or {}
        who = (
            f"run {holder.get('run_id')} (pid {holder.get('pid')} on {holder.get('host')}, "
            f"started {holder.get('started')})"
            if holder
            else "another run"
        )
        return f"{self.root} is in use by {who}; wait for it, stop it, or use another folder"

    def sweep_temporary(self, abandoned_after: float = ABANDONED_AFTER) -> int:
        """Remove what dead attempts left: those of this host whose process is gone, and any not
        written to for `abandoned_after` seconds. Returns how many went."""
        swept = 0
        for folder, folders, files in os.walk(self.root):
            for name in [*folders, *files]:
                match = _TEMPORARY.fullmatch(name)
                if match is None:
                    continue
                if name in folders:
                    folders.remove(name)
                path = Path(folder, name)
                if _abandoned(path, match[1], int(match[2]), abandoned_after):
                    swept += _remove(path)
        return swept


def _unusable(root: str | Path, error: OSError) -> StorageError:
    reason = error.strerror or error
    return StorageError(f"{root} cannot be used ({reason}); choose another folder or make space")


def _abandoned(path: Path, host: str, pid: int, abandoned_after: float) -> bool:
    if host == _host() and not _alive(pid):
        return True
    try:
        return time.time() - path.lstat().st_mtime > abandoned_after
    except FileNotFoundError:
        return False  # finished or swept by its own process meanwhile


def _alive(pid: int) -> bool:
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
        _remove(aside)


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
        _remove(replaced)


_EXCHANGE, _HERE = 2, -100  # Linux: RENAME_EXCHANGE, AT_FDCWD


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change their names in one step; whether the system could."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return renameat2 is not None and not renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)


def _remove(path: Path) -> bool:
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

"""The run folder: where everything lies, who may write, and what of it a store holds.

A run's folder is local, or the prefix of an object store; then the paths are those of a local staging
folder, and the verbs that do nothing for a local folder bring files from the store and put them there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from manifests.columns import is_id
from manifests.files import (
    ABANDONED_AFTER,
    LockedError,
    StorageError,
    aside_path,
    make_folder,
    publish_folder,
    sweep_temporary,
    sync,
    sync_entry,
    write_aside,
)
from manifests.kinds import describe
from manifests.links import LinkError, check_own
from manifests.lock import Holder, file_holder, hold_file
from manifests.object_store import is_url
from manifests.remote import Remote, staging_folder

__all__ = [
    "SUFFIXES",
    "LockedError",
    "RunFolder",
    "StorageError",
    "aside_path",
    "make_folder",
    "publish_folder",
    "sync",
    "write_aside",
]

SUFFIXES = {
    "h264": ".mp4",
    "h265": ".mp4",
    "av1": ".mp4",
    "ffv1": ".mkv",
    "gif": ".gif",
    "webp": ".webp",
    "png": "",  # a folder of frames
}

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


class RunFolder:
    """The paths of a run's folder (see DESIGN.md, "What a run leaves"). Makes nothing by itself.

    Args:
        root: a local folder, or a URL (`s3://bucket/prefix`).
        staging: of a URL: the local folder to work in; default one of its own on this machine.

    Attributes:
        name: the root as people know it; `address` is the same from any working folder.
        root: the local folder, of a URL its staging folder.

    Raises:
        StorageError: the root is a URL of an unknown kind, or something that is not a folder.
    """

    def __init__(self, root: str | Path, staging: Path | None = None) -> None:
        name = str(root)
        if not name or "\0" in name:
            raise StorageError(f"{describe(name)} is not a path; give a local folder")
        self.remote: Remote | None = None
        if is_url(name):
            self.remote = Remote(name, staging or staging_folder(name))
            self.root, self.name = self.remote.staging, self.remote.url
        else:
            self.root, self.name = Path(name), name
        try:
            taken = self.root.exists() and not self.root.is_dir()
        except OSError as error:
            raise _unusable(name, error) from error
        if taken:
            raise StorageError(f"{self.root} is a file; give another output folder")
        self.videos = self.root / "videos"
        self._videos = str(self.videos)
        self.previews = self.root / "previews"
        self.results = self.root / "results"
        self.latents = self.root / "latents"
        self.logs = self.root / "logs"
        self.metadata_file = self.root / "metadata.parquet"
        self.run_file = self.root / "run.json"
        self.summary_file = self.root / "summary.json"
        self.gallery_file = self.root / "index.html"
        self.throughput_file = self.root / "throughput.svg"
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
                check_own(self.root, folder / "file")
                make_folder(folder)
            probe = aside_path(self.results / "probe")
            probe.write_bytes(b"zs2")
            probe.unlink()
        except LinkError as error:
            raise StorageError(str(error)) from error
        except OSError as error:
            raise _unusable(self.root, error) from error
        return self

    def video_path(self, digest: str, row_id: str, codec: str) -> Path:
        """videos/<first two hex of digest>/<id>.<suffix>; a folder where the codec is png.

        Raises:
            ValueError: a digest or an id that is not one: neither may lead out of the folder.
        """
        return self.videos / _video_name(digest, row_id, codec)

    def has_video(self, digest: str, row_id: str, codec: str) -> bool:
        """Whether a finished video lies where `video_path` says."""
        name = _video_name(digest, row_id, codec)
        if self.remote:
            return self.remote.has_video(self.file_name(self.videos / name))
        try:
            return not stat.S_ISLNK(os.lstat(f"{self._videos}/{name}").st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def videos_now(self) -> Callable[[str, str, str], bool]:
        """`has_video` as it would answer at this moment, for a million questions: of a local folder
        one listing, which takes a fifth of the time and about 60 bytes a video."""
        if self.remote:
            return self.has_video
        there: set[int] = set()
        for number in range(256):
            folder = f"{number:02x}"
            gone = suppress(FileNotFoundError, NotADirectoryError)
            with gone, os.scandir(f"{self._videos}/{folder}") as entries:
                there.update(hash(folder + e.name) for e in entries if not e.is_symlink())
        return lambda digest, row_id, codec: hash(digest[:2] + row_id + SUFFIXES[codec]) in there

    def preview_path(self, digest: str, row_id: str) -> Path:
        """previews/<first two hex of digest>/<id>: a folder, of a clip that browsers do not play."""
        return self.previews / _video_name(digest, row_id, "png")

    def latents_path(self, sample_digest: str) -> Path:
        """latents/<sample digest>.safetensors"""
        if not _DIGEST.fullmatch(sample_digest):
            raise ValueError(f"not a digest: {describe(sample_digest)}")
        return self.latents / f"{sample_digest}.safetensors"

    def file_name(self, path: Path) -> str:
        """A path of the folder as the ledger and metadata name it: relative, with slashes."""
        return path.relative_to(self.root).as_posix()

    @property
    def address(self) -> str:
        """What finds the folder from any working folder: an absolute path, or the URL."""
        return self.remote.url if self.remote else str(self.root.absolute())

    def address_of(self, path: Path) -> str:
        """A file of the folder, as people find it."""
        return self.remote.store.url_of(self.file_name(path)) if self.remote else str(path)

    @contextmanager
    def lock(self, run_id: str) -> Generator[None]:
        """Hold the folder for one run. A killed run leaves no lock behind: the kernel frees a local
        one, the next run takes over a store's.

        Raises:
            LockedError: another run holds it; the message names that run.
        """
        remote = self.remote
        with remote.lock(run_id) if remote else hold_file(self.lock_file, run_id):
            yield

    def when_lost(self, stop: Callable[[], None]) -> None:
        """Call `stop`, in another thread, should another run take the held lock over: a store's can
        be, from a run that could not renew it. From then on every write raises LockedError."""
        if self.remote:
            self.remote.when_lost(stop)

    def lock_holder(self) -> Holder | None:
        """Who holds the lock right now (run_id, pid, host, started), or None."""
        return self.remote.holder() if self.remote else file_holder(self.lock_file)

    def sweep_temporary(self, abandoned_after: float = ABANDONED_AFTER) -> int:
        """Remove what dead attempts left in the local folder; see `files.sweep_temporary`."""
        return sweep_temporary(self.root, abandoned_after)

    @contextmanager
    def view(self) -> Generator[RunFolder]:
        """The folder to read from, without its lock: of a store, a copy of its ledger, run.json and
        summary.json as they are now, gone afterwards."""
        if self.remote is None:
            yield self
            return
        with TemporaryDirectory(prefix="zs2-") as staging:
            seen = RunFolder(self.name, Path(staging))
            seen.pull()
            yield seen

    def exists(self, path: Path) -> bool:
        """Whether a file of the folder is there; of a store, there."""
        return self.remote.has(self.file_name(path)) if self.remote else path.exists()

    def pull(self) -> None:
        """At the start of a run, under the lock: staging's ledger becomes the store's."""
        if self.remote:
            self.remote.pull()

    def bring(self, path: Path) -> None:
        """A file of the folder as the store has it now, if it has it."""
        if self.remote:
            self.remote.bring(self.file_name(path))

    @contextmanager
    def finished_file(self, file_name: str) -> Generator[Path]:
        """A finished video, by its name in the ledger, to read; of a store a copy, gone afterwards.

        Raises:
            FileNotFoundError: the store has none of that name.
        """
        if self.remote is None:
            yield self.root / file_name
            return
        with self.remote.finished_file(file_name) as path:
            yield path

    def upload(self, path: Path) -> None:
        """A finished file of the folder goes to the store."""
        if self.remote:
            self.remote.upload(self.file_name(path))

    def remove(self, path: Path) -> None:
        """Remove a file of the folder, in the store, too."""
        path.unlink(missing_ok=True)
        if self.remote:
            self.remote.remove(self.file_name(path))

    def push_ledger(self) -> None:
        """After a compaction: the store's ledger becomes staging's."""
        if self.remote:
            self.remote.push_ledger()

    @contextmanager
    def delivery(self, digest: str, row_id: str, codec: str) -> Generator[Path]:
        """Where to make a finished video; it is where it belongs when this is left without error."""
        path = check_own(self.root, self.video_path(digest, row_id, codec))
        with self.remote.delivery(self.file_name(path)) if self.remote else nullcontext(path) as at:
            yield at

    @contextmanager
    def preview_delivery(self, digest: str, row_id: str) -> Generator[Path]:
        """As `delivery`, of a preview's folder."""
        path = check_own(self.root, self.preview_path(digest, row_id))
        with self.remote.delivery(self.file_name(path)) if self.remote else nullcontext(path) as at:
            yield at

    @contextmanager
    def latents_file(self, sample_digest: str) -> Generator[Path]:
        """Where latents are found if they were sampled before, and kept if they are sampled now."""
        path = self.latents_path(sample_digest)
        with self.remote.latents(self.file_name(path)) if self.remote else nullcontext(path) as at:
            yield at

    def forget_latents(self, sample_digest: str) -> None:
        """Remove latents whose row has ended and stands in the journal."""
        path = self.latents_path(sample_digest)
        if self.remote:
            self.remote.forget_latents(self.file_name(path))
        else:
            path.unlink(missing_ok=True)

    def commit_journal(self, journal: Path) -> None:
        """After a sync of the journal: what it has grown by goes to the store."""
        if self.remote:
            self.remote.commit_journal(journal)


def _video_name(digest: str, row_id: str, codec: str) -> str:
    if not _DIGEST.fullmatch(digest) or not is_id(row_id):
        raise ValueError(f"not a digest and an id: {describe(digest)}, {describe(row_id)}")
    return f"{digest[:2]}/{row_id}{SUFFIXES[codec]}"


def _unusable(root: str | Path, error: OSError) -> StorageError:
    reason = error.strerror or error
    return StorageError(f"{root} cannot be used ({reason}); choose another folder or make space")

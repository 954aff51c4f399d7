"""A run folder on an object store: what a run copies there, and brings from there.

A run works in a local *staging* folder; the store is the truth. Only finished files are uploaded, so
a reader of the store never sees half a file. The journal, which a store cannot append to, is put in
chunks of up to 1 MiB, of which the last is put again as it grows.
"""

from __future__ import annotations

import logging
import os
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path
from threading import Lock

from manifests.columns import is_id
from manifests.files import (
    LockedError,
    StorageError,
    aside_path,
    make_folder,
    remove,
    sweep_temporary,
)
from manifests.lock import Holder
from manifests.object_store import (
    ChangedError,
    ObjectStore,
    Stored,
    UnreachableError,
    parse_url,
)
from manifests.store_lock import STALE_SECONDS, StoreLock, store_holder

CHUNK_BYTES = 2**20  # of the journal: what a commit puts at most, and again until the chunk is full
LOCK_PATIENCE = STALE_SECONDS / 4  # seconds a renewal is tried before the next one's turn
LAST_PATIENCE = 2.0  # seconds for freeing the lock on a store that has failed: it may be back
UPLOADS_AT_ONCE = 8  # of a folder of frames

_PART = re.compile(r"part-\d{6}-\d{5}-of-\d{5}\.parquet")
_CHUNK = re.compile(r"(journal-(.+))-(\d{6})\.jsonl")
_SMALL = ("run.json", "summary.json")  # what a run reads of the one before

log = logging.getLogger("zs2.store")


def staging_base() -> Path:
    """Where this machine keeps what is on its way to or from a store: $ZS2_STAGING, else
    ~/.cache/zs2/runs."""
    base = os.environ.get("ZS2_STAGING")
    return Path(base).absolute() if base else Path.home() / ".cache" / "zs2" / "runs"


def staging_folder(url: str) -> Path:
    """Where this machine works on the run at a URL."""
    return staging_base() / sha256(parse_url(url).url.encode()).hexdigest()[:16]


class Remote:
    """The store's half of a run folder, whose local half is `staging`.

    Raises:
        StorageError: from all that talks to the store. LockedError: the lock was lost; then nothing
            more is written. After the store did not answer one of the driver's writes, all further
            ones fail at once.
    """

    def __init__(self, url: str, staging: Path) -> None:
        self.store = ObjectStore(url)
        self.url = self.store.url
        self.staging = staging
        self._lock: StoreLock | None = None
        self._results: dict[str, set[str]] = {}  # file in results/ → the objects that hold it
        self._broken: UnreachableError | None = None
        self._videos: array[int] | None = None
        self._chunk = 0  # the journal's: its number, and where it begins and ends
        self._begins = self._ends = 0
        self._done_latents: list[str] = []
        self._committing = Lock()
        self._is_swept = False

    # The lock.

    @contextmanager
    def lock(self, run_id: str) -> Generator[None]:
        """Hold the run's lock; see `StoreLock`."""
        lock = StoreLock(ObjectStore(self.url, LOCK_PATIENCE), run_id)
        lock.take()
        self._lock = lock
        try:
            yield
        finally:
            self._lock = None
            try:
                lock.release(ObjectStore(self.url, LAST_PATIENCE) if self._broken else None)
            except StorageError as error:  # it is taken over when it is stale
                log.warning("the lock could not be freed: %s", error)

    def when_lost(self, stop: Callable[[], None]) -> None:
        """What to call should the held lock be lost."""
        if self._lock is not None:
            self._lock.on_lost = stop

    def holder(self) -> Holder | None:
        """Who holds the lock right now, or None."""
        return store_holder(self.store)

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Around every write of a driver: the lock is held, and the store has not failed yet."""
        if self._broken is not None:
            raise self._broken
        if self._lock is not None:
            self._lock.check()
        try:
            yield
        except UnreachableError as error:
            self._broken = error
            raise

    # From the store.

    def pull(self) -> None:
        """Make staging's results, run.json and summary.json those of the store."""
        for _ in range(5):
            try:
                self._pull()
                return
            except ChangedError:
                continue  # a run went on meanwhile
        raise StorageError(f"{self.url}: the ledger there changes all the time; try again")

    def _pull(self) -> None:
        results = self.staging / "results"
        make_folder(results)
        for path in results.iterdir():
            if path.name.startswith(("part-", "journal-")):
                path.unlink()
        self._results = {}
        chunks: dict[str, list[Stored]] = {}
        for found in self.store.list("results"):
            name = found.url.rpartition("/")[2]
            chunk = _CHUNK.fullmatch(name)
            if _PART.fullmatch(name):
                self._results[name] = {f"results/{name}"}
                self._download(found, results / name)
            elif chunk and is_id(chunk[2]):
                chunks.setdefault(f"{chunk[1]}.jsonl", []).append(found)
        for name, parts in chunks.items():
            self._results[name] = {self.store.name_of(found) for found in parts}
            self._join(name, sorted(parts), results)
        for name in _SMALL:
            self.bring(name)

    def _join(self, name: str, parts: list[Stored], results: Path) -> None:
        """The journal that the chunks are of."""
        with (results / name).open("wb") as journal:
            for number, found in enumerate(parts):
                if not found.url.endswith(f"-{number:06d}.jsonl"):
                    log.warning("%s: chunk %d is gone; its rows count as not done", name, number)
                    return
                piece = aside_path(results / name)
                try:
                    self.store.fetch(found, piece)
                    journal.write(piece.read_bytes())
                finally:
                    piece.unlink(missing_ok=True)

    def _download(self, found: Stored, path: Path) -> None:
        aside = aside_path(path)
        try:
            self.store.fetch(found, aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def bring(self, name: str) -> None:
        """Make staging's file of that name the store's."""
        found = self.store.head(name)
        (self.staging / name).unlink(missing_ok=True)
        if found is not None:
            self._download(found, self.staging / name)

    @contextmanager
    def finished_file(self, name: str) -> Generator[Path]:
        """A copy of a video, or of a folder of frames; gone afterwards.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        with self._desk(Path(name).name) as path:
            found = self.store.head(name)
            if found is not None:
                self.store.fetch(found, path)
            else:
                frames = list(self.store.list(name))
                if not frames:
                    raise FileNotFoundError(f"{self.store.url_of(name)} is not there")
                make_folder(path)
                for frame in frames:
                    self.store.fetch(frame, path / frame.url.rpartition("/")[2])
            yield path

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return self.store.head(name) is not None

    def has_video(self, name: str) -> bool:
        """Whether a video, or any frame of a folder of them, is there: by one listing, made at the
        first question and held in 8 bytes a video."""
        if self._videos is None:
            hashes = array("Q")
            for found in self.store.list("videos"):
                parts = self.store.name_of(found).split("/")
                hashes.append(_name_hash("/".join(parts[:3])))  # videos/<dd>/<id>[/frame]
            self._videos = array("Q", sorted(hashes))
        wanted = _name_hash(name)
        at = bisect_left(self._videos, wanted)
        return at < len(self._videos) and self._videos[at] == wanted

    # To the store.

    def upload(self, name: str) -> None:
        """Put a finished file of staging."""
        with self._writing():
            self.store.put(name, self.staging / name)

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        with self._writing():
            self.store.delete([name])

    def commit_journal(self, path: Path) -> None:
        """Put what the journal has grown by, whole lines, and then delete the latents of rows that
        have ended: called after each sync of the journal."""
        with self._committing, self._writing():
            latents, self._done_latents = self._done_latents, []
            while self._put_chunk(path):
                pass
            self.store.delete(latents)

    def _put_chunk(self, path: Path) -> bool:
        """Put the current chunk, if it has grown; whether it is full and another may follow."""
        with path.open("rb") as journal:
            journal.seek(self._begins)
            data = journal.read(CHUNK_BYTES)
            is_full = len(data) == CHUNK_BYTES
            data = data + journal.readline() if is_full else data
        data = data[: data.rfind(b"\n") + 1]  # no line that is still being written
        if not data or self._begins + len(data) == self._ends:
            return False
        name = f"results/{path.stem}-{self._chunk:06d}.jsonl"
        self.store.write(name, data)
        self._results.setdefault(path.name, set()).add(name)
        self._ends = self._begins + len(data)
        if is_full:
            self._chunk, self._begins = self._chunk + 1, self._ends
        return is_full

    def push_ledger(self) -> None:
        """After a compaction: put the new generation of parts, then delete what it replaces. Ended
        anywhere between, the store holds the old state or the new one (see `manifests.ledger`)."""
        if self._lock is not None:
            self._lock.check(known_for=0)  # for what is replaced here there is no second chance
        results = self.staging / "results"
        here = {path.name for path in results.iterdir() if _PART.fullmatch(path.name)}
        for name in sorted(here - self._results.keys()):
            with self._writing():
                made = self.store.create(f"results/{name}", (results / name).read_bytes())
            if made is None:
                raise LockedError(
                    f"{self.url}/results/{name} was written by another run; run again"
                )
            self._results[name] = {f"results/{name}"}
        replaced = [name for name in self._results if not (results / name).exists()]
        with self._writing():
            self.store.delete([held for name in replaced for held in sorted(self._results[name])])
        for name in replaced:
            del self._results[name]

    # What actors do, on whatever node; they hold no lock.

    @contextmanager
    def delivery(self, name: str) -> Generator[Path]:
        """A path to make a video at, or a folder of frames; it is uploaded as `name` on leaving and
        the local one removed. Of a folder every frame appears whole; until all of them are there the
        ledger does not name it."""
        with self._desk(Path(name).name) as path:
            yield path
            if not path.is_dir():
                self.store.put(name, path)
                return
            frames = sorted(frame.name for frame in path.iterdir())
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(
                    pool.map(lambda frame: self.store.put(f"{name}/{frame}", path / frame), frames)
                )
            current = {f"{name}/{frame}" for frame in frames}
            there = [self.store.name_of(found) for found in self.store.list(name)]
            self.store.delete([other for other in there if other not in current])

    @contextmanager
    def latents(self, name: str) -> Generator[Path]:
        """A path with the latents that an earlier attempt left, if any; what is written there when
        there were none is uploaded on leaving."""
        with self._desk(Path(name).name) as path:
            found = self.store.head(name)
            if found is not None:
                self.store.fetch(found, path)
            before = path.stat().st_mtime_ns if found is not None else None
            yield path
            if path.exists() and path.stat().st_mtime_ns != before:
                self.store.put(name, path)

    def forget_latents(self, name: str) -> None:
        """Latents that nobody needs once the journal has their row: deleted with its next commit."""
        self._done_latents.append(name)

    @contextmanager
    def _desk(self, name: str) -> Generator[Path]:
        """A path in a folder that no other attempt uses; gone afterwards."""
        work = self.staging / "work"
        if not self._is_swept:
            sweep_temporary(work)
            self._is_swept = True
        folder = aside_path(work / "desk")
        make_folder(folder)
        try:
            yield folder / name
        finally:
            remove(folder)


def _name_hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")

"""The journal: the append-only record that a running flow writes, one JSON line a result.

Each line carries the CRC-32 of its record. A line that a crash tore, or that the disk lost, is not
taken for a result: its row is rendered again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4
from zlib import crc32

from manifests.columns import is_id
from manifests.kinds import describe
from manifests.links import is_own_file
from manifests.result import ResultRow, from_record, to_record
from manifests.sound import is_sound
from manifests.storage import StorageError, sync

COMMIT_SECONDS = 0.5  # a result is on the disk this long after it ended, and an fsync later
_PREFIX = len('{"crc":"00000000","row":')
_HEAD = re.compile(
    rb'\{"id":"([A-Za-z0-9._-]*)","digest":"((?:[0-9a-f]{2}){0,32})",'
    rb'"status":"(ok|failed|invalid)"(?:,|\}$)'
)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_FILE = re.compile(rb'"file_name":"videos/[0-9a-f]{2}/[A-Za-z0-9_-][A-Za-z0-9._-]*"[,}]')
_log = logging.getLogger(__name__)


class JournalHeader(NamedTuple):
    """A journal's first line: a name that is never given twice, the run, its place among the
    journals of the folder (newer ones have greater numbers), and where the results begin."""

    uid: str
    run_id: str
    sequence: int
    end: int


class Journal:
    """Appends results to `journal-<run_id>.jsonl`. Any thread may append.

    A result is with the operating system when `append` returns, so a killed process loses none; a
    thread syncs it to the disk within 0.5 s, so a power loss costs no more than that. Use it as a
    context manager, or call `close`.

    Args:
        folder: the run folder's `results`, which must exist.
        run_id: what may be an id may be a run's id. The same run id goes on in the same file.
        on_commit: called with the journal's path after each sync, in that thread or the closing one:
            what copies it elsewhere.

    Raises:
        StorageError: from `append`, `flush` and `close`, when the disk or `on_commit` failed; none is
            swallowed, and after one nothing more is copied.
    """

    def __init__(
        self, folder: Path, run_id: str, on_commit: Callable[[Path], None] = lambda path: None
    ) -> None:
        if not is_id(run_id):
            raise ValueError(f"a run's id is 1 to 128 of A-Za-z0-9._-, not {describe(run_id)}")
        self.path = folder / f"journal-{run_id}.jsonl"
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._error: OSError | StorageError | None = None
        self._on_commit = on_commit
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self._end = self._begin(folder, run_id)
        except OSError as error:
            raise self._failed(error) from error
        self._thread = threading.Thread(target=self._sync_loop, name="zs2-journal", daemon=True)
        self._thread.start()

    def _begin(self, folder: Path, run_id: str) -> int:
        """Write the header, or find the end of the last whole line. Returns where to append."""
        header = read_header(self.path)
        if header is None:
            earlier = [h.sequence for _, h in list_journals(folder)]
            line = {"zs2_journal": 1, "uid": uuid4().hex, "run_id": run_id}
            line["sequence"] = max(earlier, default=0) + 1
            os.ftruncate(self._file, 0)
            end = self._write(json.dumps(line).encode() + b"\n", 0)
        else:
            end = max((at for at, _ in read_records(self.path)), default=header.end)
            os.ftruncate(self._file, end)
        os.fsync(self._file)
        sync(folder)
        return end

    def append(self, row: ResultRow) -> None:
        """Add one result."""
        record = _encode(to_record(row)).encode()
        line = b'{"crc":"%08x","row":%s}\n' % (crc32(record), record)
        with self._lock:
            if self._closing.is_set():
                raise ValueError(f"{self.path} is closed")
            if self._error is not None:
                raise self._failed(self._error)
            try:
                self._end = self._write(line, self._end)
            except OSError as error:
                self._take_back()
                raise self._failed(error) from error
        self._dirty.set()

    def _take_back(self) -> None:
        """Leave no half line behind: the next append may find space again."""
        try:
            os.ftruncate(self._file, self._end)
        except OSError as error:
            self._error = error

    def _write(self, line: bytes, at: int) -> int:
        view = memoryview(line)
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written
        return at

    def flush(self) -> None:
        """Return when everything appended is on the disk."""
        self._dirty.clear()
        self._sync()
        if self._error is not None:
            raise self._failed(self._error)

    def close(self) -> None:
        """Flush and end. Closing again does nothing."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        self._dirty.set()
        self._thread.join()
        try:
            self.flush()
        finally:
            os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync_loop(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._sync()
            self._closing.wait(COMMIT_SECONDS)

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
            if self._error is None:
                self._on_commit(self.path)
        except (OSError, StorageError) as error:
            # the kernel may have dropped the pages: no later fsync can be trusted
            self._error = error

    def _failed(self, error: OSError | StorageError) -> StorageError:
        if isinstance(error, StorageError):
            return error
        reason = error.strerror or error
        return StorageError(f"{self.path} cannot be written ({reason}); make space and run again")


def read_journal(path: Path) -> Iterator[ResultRow]:
    """The results of a journal in the order in which they ended, also while it is being written."""
    return (from_record(record) for _, record in read_records(path))


def read_header(path: Path) -> JournalHeader | None:
    """A journal's header; None where a crash came before it was written."""
    with path.open("rb") as file:
        return _header(file)


def _header(file: BinaryIO) -> JournalHeader | None:
    line = file.readline(1000)
    try:
        content = json.loads(line) if line.endswith(b"\n") else {}
        names = content["uid"], content["run_id"], content["sequence"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_ours = list(map(type, names)) == [str, str, int]
    return JournalHeader(*names, len(line)) if is_ours else None


def list_journals(folder: Path) -> list[tuple[Path, JournalHeader]]:
    """The journals of a results folder, oldest first."""
    found: list[tuple[Path, JournalHeader]] = []
    for path in folder.glob("journal-*.jsonl"):
        header = read_header(path) if is_own_file(path) else None
        if header is not None:
            found.append((path, header))
    return sorted(found, key=lambda item: (item[1].sequence, item[1].uid))


def read_records(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results as flat records, each with the offset at which its line ends.

    Lines that are torn or damaged are passed over with a warning in the log.

    Args:
        start: an offset that this function gave before, or 0 for all.
    """
    with path.open("rb") as file:
        yield from records_of(file, start)


def records_of(file: BinaryIO, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_records`, from an open file."""
    for end, _, text in lines_of(file, start):
        record = record_of(text)
        if record is not None:
            yield end, record


class Head(NamedTuple):
    """What a record begins with."""

    id: str
    digest: str
    status: str


def lines_of(file: BinaryIO, start: int = 0) -> Iterator[tuple[int, Head, bytes]]:
    """As `read_records`, but the records as JSON text, each with its head, which is found in a tenth
    of the time that parsing a record takes."""
    file.seek(0)
    header = _header(file)
    if header is None:
        return
    at = max(start, header.end)
    file.seek(at)
    for line in file:
        at += len(line)
        if not line.endswith(b"\n"):
            return  # torn by a crash, or still being written
        text = line[_PREFIX:-2]
        head = _head(text) if line[8:16] == b"%08x" % crc32(text) else None
        if head is None:
            _log.warning(
                "%s: a damaged line ends at byte %d; its row counts as not done", file.name, at
            )
        else:
            yield at, head, text


def _head(text: bytes) -> Head | None:
    match = _HEAD.match(text)
    at = text.find(b'"file_name"')
    is_named = at < 0 or _FILE.match(text, at)
    if match is not None and text.endswith(b"}") and is_named:
        row_id, digest, status = match.groups()
        return Head(row_id.decode(), digest.decode(), status.decode())
    record = record_of(text)
    return Head(record["id"], record["digest"], record["status"]) if record else None


def record_of(text: bytes) -> dict[str, Any] | None:
    """A record from its JSON, or None where it is none that a run wrote."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and is_sound(record) else None

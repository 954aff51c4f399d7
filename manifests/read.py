"""Manifests on disk: a Parquet file, a folder or a glob of them, read lazily by record batches."""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.columns import COLUMNS
from manifests.digest import file_sha256
from manifests.kinds import describe
from manifests.object_store import is_url
from manifests.pages import PageError, Reading, reading_of
from manifests.run_file import read_derived
from manifests.schema import schema_faults
from manifests.stored_inputs import NothingThereError, fetch_manifests
from manifests.values import has_oversize, to_python

# what `manifests.build` makes manifests of
TEXTS: tuple[str, ...] = (".txt", ".csv", ".jsonl", ".ndjson")
MAX_BATCH_ROWS = 8192
MAX_FAULTS = 50  # of files; shown, the rest is counted
MAX_BATCH_BYTES = 16 * 2**20  # a batch's rows as Python objects are a few times this


class ManifestError(ValueError):
    """A manifest that cannot be read at all. The message says what was expected, found, and what
    to do."""


class RawRow(NamedTuple):
    """A row as it stands in its file: nothing checked but the columns' names and types.

    `row` counts from 0 inside `file`, as pandas and DuckDB do; `position` counts from 0 over the
    whole manifest. `values` leaves nulls out.
    """

    file: str
    row: int
    position: int
    values: dict[str, Any]


class RawBatch:
    """Rows of one file that were read together. A column becomes Python objects when it is asked for.

    Args:
        file: its path; `first` is the position of its first row.
        positions: of the batch's rows, ascending.
    """

    def __init__(
        self, file: str, first: int, positions: Sequence[int], batch: pa.RecordBatch
    ) -> None:
        self.file = file
        self.positions = positions
        self._first = first
        self._batch = batch
        self._columns: dict[str, list[Any]] = {}
        found = zip(batch.schema.names, batch.columns, strict=True)
        self.names = [name for name, column in found if column.null_count < batch.num_rows]

    def column(self, name: str) -> list[Any]:
        """The values of one of `names`, those of the columns that are not null throughout."""
        values = self._columns.get(name)
        if values is None:
            values = to_python(self._batch.column(name), widen=name in COLUMNS)
            self._columns[name] = values
        return values

    def has_oversize(self, name: str) -> bool:
        """Whether a column has a value that is too large to be read; no value is read for this."""
        return has_oversize(self._batch.column(name))

    @property
    def arrow(self) -> pa.RecordBatch:
        """The rows as they were read; long texts that repeat may be dictionaries."""
        return self._batch

    def row(self, index: int) -> RawRow:
        """A row of the batch, by its place in it."""
        columns = self._columns
        if len(columns) < len(self.names):
            columns = {name: self.column(name) for name in self.names}
        position = self.positions[index]
        values = {name: value for name in self.names if (value := columns[name][index]) is not None}
        return RawRow(self.file, position - self._first, position, values)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One Parquet file: its name (path or URL), a local path to it, rows, columns to read, and rows
    per batch."""

    name: str
    path: Path
    num_rows: int
    columns: tuple[str, ...]
    batch_rows: int


@dataclass(frozen=True)
class Manifest:
    """A manifest whose files were found and whose schemas are sound. Rows are read on demand."""

    source: str
    files: tuple[ManifestFile, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all files, from their footers."""
        return sum(file.num_rows for file in self.files)

    def identity(self) -> list[dict[str, Any]]:
        """What tells this manifest from another: path, bytes and sha256 of each file's content."""
        return [
            {
                "file": file.name,
                "bytes": file.path.stat().st_size,
                "sha256": file_sha256(file.path),
            }
            for file in self.files
        ]

    def locate(self, position: int) -> tuple[str, int]:
        """The file and the row in it (from 0) at a position of the whole manifest."""
        starts = [0, *accumulate(file.num_rows for file in self.files)]
        if not 0 <= position < starts[-1]:
            raise IndexError(f"position {position} of a manifest with {starts[-1]} rows")
        index = bisect_right(starts, position) - 1
        return self.files[index].name, position - starts[index]

    def rows(self, start: int = 0) -> Iterator[RawRow]:
        """All rows in order, from a position on. Holds one batch at a time.

        Raises:
            ManifestError: where a file turns out to be damaged.
        """
        return _rows(self._read(_Wanted(start, None)))

    def rows_at(self, positions: Sequence[int]) -> Iterator[RawRow]:
        """The rows at these positions, which must ascend. Row groups without one are not read."""
        return _rows(self._read(_Wanted(0, positions)))

    def batches(self, end: int | None = None) -> Iterator[RawBatch]:
        """All rows in order, or those before a position, as they are read: batch by batch, column by column.

        Raises:
            ManifestError: where a file turns out to be damaged.
        """
        return self._read(_Wanted(0, None if end is None else range(end)))

    def _read(self, wanted: _Wanted) -> Iterator[RawBatch]:
        first = 0
        for file in self.files:
            if wanted.any_in(first, first + file.num_rows):
                yield from _read_file(file, first, wanted)
            first += file.num_rows


def _rows(batches: Iterator[RawBatch]) -> Iterator[RawRow]:
    for batch in batches:
        yield from map(batch.row, range(len(batch.positions)))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The positions that a reading asks for: from `start` on, or exactly `positions`."""

    start: int
    positions: Sequence[int] | None

    def any_in(self, first: int, end: int) -> bool:
        return len(self.offsets(first, end)) > 0

    def offsets(self, first: int, end: int) -> Sequence[int]:
        """The wanted ones of first ≤ position < end, as offsets from `first`."""
        if self.positions is None:
            return range(max(self.start - first, 0), end - first)
        low = bisect_right(self.positions, first - 1)
        high = bisect_right(self.positions, end - 1)
        return [position - first for position in self.positions[low:high]]


def open_manifest(source: str | Path) -> Manifest:
    """Find a manifest's files and check their schemas; no row is read yet.

    Args:
        source: a Parquet file, a folder (every `*.parquet` in it and below, but for names that
            begin with `.` or `_`) or a glob; a path, or the URL of an object store.

    Raises:
        ManifestError: nothing there, not Parquet, no rows, an unknown column, a missing one, or a
            column of a type that it cannot have. StorageError: a store that cannot be asked.
    """
    faults: list[str] = []
    files = tuple(_open_file(name, path, faults) for name, path in _find(source))
    if faults:
        _refuse_run_folder(source)
        more = [f"… and {len(faults) - MAX_FAULTS:,} more"] if len(faults) > MAX_FAULTS else []
        raise ManifestError("\n".join(faults[:MAX_FAULTS] + more))
    if not any(file.num_rows for file in files):
        what = str(source) if len(files) == 1 else f"{source} ({len(files)} files)"
        raise ManifestError(f"{what} has no rows: a manifest needs at least one")
    return Manifest(str(source), files)


def _find(source: str | Path) -> list[tuple[str, Path]]:
    if not is_url(source):
        return [(str(path), path) for path in _find_local(source)]
    try:
        return fetch_manifests(str(source))
    except NothingThereError as error:
        raise ManifestError(str(error)) from error


def _find_local(source: str | Path) -> list[Path]:
    name = str(source)
    if "\0" in name or not name:
        raise ManifestError(f"{describe(name)} is not a path to a manifest")
    path = Path(name)
    try:
        if path.is_dir():
            found = [p for p in path.rglob("*.parquet") if _visible(p.relative_to(path))]
            missing = f"{name} holds no *.parquet file: build one with `zs2 manifest build`"
        elif path.exists():
            found, missing = [path], ""
        elif glob.has_magic(name):
            # Path.glob takes no absolute patterns
            found = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
            missing = f"no file matches {name}"
        else:
            raise ManifestError(f"{name} does not exist: give a Parquet file, a folder or a glob")
    except OSError as error:
        raise ManifestError(f"{name} cannot be read: {error.strerror or error}") from error
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ManifestError(f"{name} is not a regular file: give a Parquet file")
    # two names of one file (a link beside its target) would make every row a duplicate
    files = {p.resolve(): p for p in sorted(found, reverse=True) if p.is_file()}
    if not files:
        _refuse_run_folder(source)
        raise ManifestError(missing)
    return sorted(files.values())


def _refuse_run_folder(source: str | Path) -> None:
    """Of a folder that is no manifest: its files' many faults are one."""
    said = None if is_url(source) else read_derived(Path(source) / "run.json")
    if said is not None:
        manifest = str(said.get("manifest") or "")
        was = (
            f"; its manifest was {manifest[:1000]}: give that" if manifest else "; give a manifest"
        )
        raise ManifestError(f"{source} is a run folder (it has run.json), not a manifest{was}")


def _visible(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _open_file(name: str, path: Path, faults: list[str]) -> ManifestFile:
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            schema = file.schema_arrow
        names = tuple[str, ...](schema.names)  # not UTF-8: an error, too
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, path, error) from error
    faults += [f"{name}: {fault}" for fault in schema_faults(schema)]
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    if metadata.num_rows != sum(g.num_rows for g in groups) or any(g.num_rows < 0 for g in groups):
        raise ManifestError(
            f"{name} is damaged: it promises {metadata.num_rows:,} rows, and its row groups others; "
            "write it again"
        )
    row_bytes = max((g.total_byte_size // max(g.num_rows, 1) for g in groups), default=0)
    batch_rows = max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // max(row_bytes, 1)))
    return ManifestFile(name, path, metadata.num_rows, names, batch_rows)


def _unreadable(name: str, path: Path, error: Exception) -> ManifestError:
    if isinstance(error, PermissionError):
        return ManifestError(f"{name} may not be read: permission denied")
    reason = " ".join(str(error).split())[:200]
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        magic = b""
    if magic == b"PARE" or "decrypt" in reason:
        return ManifestError(f"{name} is encrypted Parquet: write it without encryption ({reason})")
    if "too deeply nested" in reason:
        return ManifestError(f"{name} has a column nested too deeply: leave it out ({reason})")
    if isinstance(error, MemoryError):
        return ManifestError(
            f"{name} needs more memory than there is: shorten its values ({reason})"
        )
    if magic == b"PAR1":
        return ManifestError(f"{name} is truncated or damaged Parquet: write it again ({reason})")
    what = "an empty file" if not magic else "not Parquet"
    own = Path(name)
    texts = own.name if own.suffix.lower() in TEXTS else "PROMPTS.csv"
    target = own.with_suffix(".parquet").name if texts == own.name else "NEW.parquet"
    return ManifestError(
        f"{name} is {what}: a manifest is a Parquet file; `zs2 manifest build {texts} -o {target}` "
        "makes one from .txt, .csv or .jsonl"
    )


def _read_file(file: ManifestFile, first: int, wanted: _Wanted) -> Iterator[RawBatch]:
    try:
        with pq.ParquetFile(file.path) as parquet:
            if parquet.metadata.num_rows != file.num_rows:
                raise ManifestError(f"{file.name} was changed while it was read: start again")
            yield from _read_groups(parquet, file, first, wanted)
    except ManifestError:
        raise
    except PageError as error:
        raise ManifestError(f"{file.name}: {error}") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # a name is not UTF-8
        raise _unreadable(file.name, file.path, error) from error


def _read_groups(
    parquet: pq.ParquetFile, file: ManifestFile, first: int, wanted: _Wanted
) -> Iterator[RawBatch]:
    begin = first
    for group in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if wanted.any_in(begin, begin + rows):
            at = begin
            reading = reading_of(file.path, group, parquet.metadata, file.batch_rows)
            for batch in _batches(parquet, file, group, reading):
                offsets = wanted.offsets(at, at + batch.num_rows)
                if len(offsets) > 0:
                    positions = [at + offset for offset in offsets]
                    yield RawBatch(file.name, first, positions, _chosen(batch, offsets))
                at += batch.num_rows
                if not wanted.any_in(at, begin + rows):
                    break
            else:
                _check_rows(file.name, group, at - begin, rows)
        begin += rows


def _batches(
    parquet: pq.ParquetFile, file: ManifestFile, group: int, reading: Reading
) -> Iterator[pa.RecordBatch]:
    with ExitStack() as stack:
        if reading.dictionaries:
            as_dictionaries = pq.ParquetFile(file.path, read_dictionary=list(reading.dictionaries))
            parquet = stack.enter_context(as_dictionaries)
        yield from parquet.iter_batches(
            reading.batch_rows, row_groups=[group], columns=list(file.columns), use_threads=False
        )


def _check_rows(name: str, group: int, found: int, promised: int) -> None:
    """No row may be lost silently."""
    if found != promised:
        raise ManifestError(
            f"{name} is damaged: row group {group} promises {promised:,} rows and has {found:,}; "
            "write it again"
        )


def _chosen(batch: pa.RecordBatch, offsets: Sequence[int]) -> pa.RecordBatch:
    """The rows of a batch at these offsets."""
    if isinstance(offsets, range):
        return batch.slice(offsets.start, len(offsets))
    return batch.take(pa.array(offsets, pa.int64()))

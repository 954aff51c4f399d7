"""The ledger: Parquet parts under OUT/results that say what happened to every row.

A state of the ledger is one *generation* of parts, `part-<generation>-<n>-of-<total>.parquet`, and
the journals on top of it. A generation counts when all its parts are there; the newest that counts
is the base, and its parts name the journals that are already in it, and how far. So compaction
commits with the rename of its last part: before it the old parts and the journals are read, after
it the new parts alone, and whatever else lies there waits for removal.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.arrow_types import merge_type, merge_types, to_array
from manifests.columns import META
from manifests.digest import id_hash
from manifests.journal import Head, lines_of, list_journals, read_header, record_of
from manifests.known import Known
from manifests.links import is_own_file
from manifests.result import RESULT_COLUMNS, STATUSES, ResultRow, Status, from_record
from manifests.sound import DECISIVE, check_schema, sound_rows
from manifests.storage import StorageError, aside_path, sync
from manifests.table import Table

__all__ = [
    "LEDGER_SCHEMA",
    "Known",
    "ResultRow",
    "Status",
    "compact",
    "iter_results",
    "known",
    "ledger_batches",
]

PART_ROWS = 100_000
BATCH_ROWS = 8192
BUFFER = 2**20  # bytes; a journal's lines are of a kilobyte, and there may be a million
LINE_BYTES = 1000  # of a journal, about
_JOURNALS = b"zs2.journals"  # in a part's schema metadata: JSON of journal uid -> bytes merged
_log = logging.getLogger(__name__)
_PART = re.compile(r"part-(\d{6})-(\d{5})-of-(\d{5})\.parquet")
_META = f'"{META}'.encode()
_TIME = pa.timestamp("us", "UTC")

_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(RESULT_COLUMNS, pa.string()),
    **dict.fromkeys(("attempts", "num_frames", "height", "width"), pa.int32()),
    **dict.fromkeys(("bytes", "seed"), pa.int64()),
    **{name: pa.float64() for name in RESULT_COLUMNS if name.startswith("seconds_")},
    "fps": pa.float64(),
    "kl_achieved": pa.list_(pa.float64()),
    "started_at": _TIME,
    "finished_at": _TIME,
}

LEDGER_SCHEMA: pa.Schema = pa.schema(list(_TYPES.items()))
"""The ledger's columns; `meta_*` columns follow them, by name."""


@dataclass
class _State:
    """The files that make up the ledger at one moment, held open: removal cannot harm a reading."""

    parts: list[pq.ParquetFile] = field(default_factory=list)
    journals: list[tuple[BinaryIO, int]] = field(default_factory=list)  # and where to start
    uids: list[str] = field(default_factory=list)  # of the journals
    newest: int = 0  # generation, complete or not
    stale: list[Path] = field(default_factory=list)  # parts of other generations than the base


def _open_state(results: Path, stack: ExitStack) -> _State:
    for _ in range(20):
        before = _names(results)
        with ExitStack() as attempt:
            try:
                state = _try_open(results, before, attempt)
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _damaged(results, error) from error
            # else a compaction replaced files between listing and opening
            if _names(results) == before:
                stack.push(attempt.pop_all())
                return state
    raise StorageError(f"the ledger in {results} changes all the time; try again")


def _damaged(results: Path | str, error: Exception) -> StorageError:
    return StorageError(
        f"the ledger in {results} cannot be read ({error}); "
        "remove that part, and what only it knew of is rendered again"
    )


def _names(results: Path) -> list[str]:
    if not results.is_dir():
        return []
    names = (path.name for path in results.iterdir())
    return sorted(name for name in names if name.startswith(("part-", "journal-")))


def _try_open(results: Path, names: list[str], stack: ExitStack) -> _State:
    generations: dict[int, list[Path]] = {}
    totals: dict[int, int] = {}
    for name in names:
        match = _PART.fullmatch(name)
        if match:
            generations.setdefault(int(match[1]), []).append(results / name)
            totals[int(match[1])] = int(match[3])
    complete = [g for g, paths in generations.items() if len(paths) == totals[g]]
    base = max(complete, default=None)
    state = _State(newest=max(generations, default=0))
    merged: dict[str, int] = {}
    for generation, paths in generations.items():
        if generation == base:
            state.parts = [_open_part(path, stack) for path in paths]
            metadata = state.parts[0].schema_arrow.metadata or {}
            merged = json.loads(metadata.get(_JOURNALS, b"{}"))
        else:
            state.stale += paths
    for path, header in list_journals(results):
        start = merged.get(header.uid, header.end)
        state.journals.append((stack.enter_context(path.open("rb", BUFFER)), start))
        state.uids.append(header.uid)
    return state


def _part_batches(part: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A part's batches. Rows that no run wrote, such as one whose file lies elsewhere, are passed
    over: they are rendered again."""
    names = [name for name in columns if name in part.schema_arrow.names]
    try:
        needed = list(dict.fromkeys([*names, *DECISIVE]))
        for batch in part.iter_batches(BATCH_ROWS, columns=needed, use_threads=False):
            sound = sound_rows(batch)
            if not pc.call_function("all", [sound]).as_py():
                _log.warning("the ledger has rows that no run wrote; they count as not done")
                batch = batch.filter(sound)
            yield batch.select(names)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged("results", error) from error


def _open_part(path: Path, stack: ExitStack) -> pq.ParquetFile:
    if path.exists() and not is_own_file(path):
        raise ValueError(f"{path.name} is no regular file")
    try:
        part = stack.enter_context(pq.ParquetFile(path))
        check_schema(part.schema_arrow, _TYPES)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return part


def _lines(state: _State) -> Iterator[tuple[int, int, Head, bytes]]:
    """(number of the journal, end of the line, head, the record as JSON), oldest first."""
    for number, (file, start) in enumerate(state.journals):
        for end, head, text in lines_of(file, start):
            yield number, end, head, text


def _place(number: int, end: int) -> bytes:
    return number.to_bytes(4) + end.to_bytes(6)


@dataclass
class _Index:
    """What one reading of the journals tells: where the newest result of each id stands, the types
    of the meta columns, and how far each journal was read."""

    newest: Table
    meta: dict[str, pa.DataType]
    ends: list[int]


def _index(state: _State, with_meta: bool = True) -> _Index:
    index = _Index(Table(len(_place(0, 0))), {}, [start for _, start in state.journals])
    for part in state.parts:
        for column in part.schema_arrow:
            if column.name.startswith(META):
                merge_type(index.meta, column.name, column.type)
    chunk: dict[str, list[Any]] = {}
    for count, (number, end, head, text) in enumerate(_lines(state)):
        index.newest.put(id_hash(head.id), _place(number, end))
        index.ends[number] = end
        if with_meta and _META in text:
            for name, value in (record_of(text) or {}).items():
                if name.startswith(META):
                    chunk.setdefault(name, []).append(value)
        if count % BATCH_ROWS == 0:
            merge_types(index.meta, chunk)
    merge_types(index.meta, chunk)
    index.meta = dict(sorted(index.meta.items()))
    return index


def _journal_batch(records: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for column in schema:
        values = [record.get(column.name) for record in records]
        if column.type == _TIME:
            values = [None if v is None else datetime.fromisoformat(v) for v in values]
        arrays.append(to_array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _part_batch(batch: pa.RecordBatch, mask: list[bool], schema: pa.Schema) -> pa.RecordBatch:
    if not all(mask):
        batch = batch.filter(pa.array(mask))
    arrays: list[pa.Array] = []
    for column in schema:
        if column.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, column.type))
            continue
        array = batch.column(column.name)
        if array.type != column.type:
            array = to_array(array.to_pylist(), column.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


Keep = Container[str] | Callable[[str], bool]


def _merged(
    state: _State,
    index: _Index,
    keep: Callable[[str], bool],
    schema: pa.Schema,
    statuses: Collection[str] = STATUSES,
) -> Iterator[pa.RecordBatch]:
    """The newest result of each kept id, batch by batch: the parts' first, then the journals'."""
    for part in state.parts:
        wanted = {"id", "status", *schema.names}
        names = [name for name in part.schema_arrow.names if name in wanted]
        for batch in _part_batches(part, names):
            if len(statuses) < len(STATUSES):
                batch = batch.filter(pc.field("status").isin(list(statuses)))
            ids: list[str] = batch.column("id").to_pylist()
            mask = [index.newest.get(id_hash(row_id)) is None and keep(row_id) for row_id in ids]
            if any(mask):
                yield _part_batch(batch, mask, schema)
    records: list[dict[str, Any]] = []
    for number, end, head, text in _lines(state):
        # what a running flow appended since the index was made is for the next reading
        is_newest = index.newest.get(id_hash(head.id)) == _place(number, end)
        if is_newest and head.status in statuses and keep(head.id):
            record = record_of(text)
            records += [record] if record else []
            if len(records) == BATCH_ROWS:
                yield _journal_batch(records, schema)
                records = []
    if records:
        yield _journal_batch(records, schema)


def _test(keep: Keep | None) -> Callable[[str], bool]:
    if keep is None:
        return lambda _: True
    return keep if callable(keep) else keep.__contains__


def ledger_batches(
    out: Path,
    columns: Sequence[str] | None = None,
    keep: Keep | None = None,
    statuses: Collection[str] = STATUSES,
) -> Iterator[pa.RecordBatch]:
    """The newest result of every id, as record batches; also while a run is going on.

    Args:
        out: the run folder.
        columns: those wanted, in order; all of LEDGER_SCHEMA and every `meta_*` by default.
        keep: the ids wanted; all by default.
        statuses: those wanted of the newest results.
    """
    with ExitStack() as stack:
        state = _open_state(out / "results", stack)
        index = _index(state, columns is None or any(n.startswith(META) for n in columns))
        yield from _merged(state, index, _test(keep), _schema(index, columns), statuses)


def _schema(index: _Index, columns: Sequence[str] | None = None) -> pa.Schema:
    full = _TYPES | index.meta
    return pa.schema([(name, full[name]) for name in (full if columns is None else columns)])


def iter_results(out: Path, keep: Keep | None = None) -> Iterator[ResultRow]:
    """The newest result of every id (of `keep`), also while a run is going on."""
    for batch in ledger_batches(out, keep=keep):
        for record in batch.to_pylist():
            yield from_record(record)


def known(out: Path) -> Known:
    """The newest digest and status of every id that has a result. One pass over the ledger."""
    with ExitStack() as stack:
        state = _open_state(out / "results", stack)
        rows = sum(part.metadata.num_rows for part in state.parts)
        sizes = (os.fstat(file.fileno()).st_size for file, _ in state.journals)
        found = Known(rows + sum(sizes) // LINE_BYTES)
        for part in state.parts:
            for batch in _part_batches(part, ["id", "digest", "status"]):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    found.put(*row)
        for file, start in state.journals:
            for _, head, _ in lines_of(file, start):
                found.put(*head)
    return found


def compact(out: Path, keep: Keep | None = None) -> int:
    """Merge parts and journals into a new generation of parts: one row per id, the newest, for the
    ids of `keep`. Returns the rows of the ledger.

    The caller holds the run's lock and has closed its journal. A crash at any moment leaves the old
    state or the new one (see this module's docstring). Where nothing would change, nothing is
    written. Holds about 40 bytes for each result in the journals.
    """
    results = out / "results"
    keeps = _test(keep)
    with ExitStack() as stack:
        state = _open_state(results, stack)
        index = _index(state)
        rows = sum(part.metadata.num_rows for part in state.parts)
        if len(index.newest) or _drops(state, keeps):
            merged = dict(zip(state.uids, index.ends, strict=True))
            schema = _schema(index).with_metadata({_JOURNALS: json.dumps(merged)})
            batches = _merged(state, index, keeps, schema)
            rows = _write_generation(results, state.newest + 1, schema, batches)
    _remove_merged(results)
    return rows


def _drops(state: _State, keep: Callable[[str], bool]) -> bool:
    return any(
        not keep(row_id)
        for part in state.parts
        for batch in _part_batches(part, ["id"])
        for row_id in batch.column(0).to_pylist()
    )


def _write_generation(
    results: Path, generation: int, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> int:
    """Write a generation aside, sync it, rename it into place. Returns its rows."""
    asides: list[Path] = []
    rows = 0
    try:
        batch = next(batches, None)
        while batch is not None or not asides:  # a ledger without rows is one empty part
            asides.append(aside_path(results / "part.parquet"))
            with pq.ParquetWriter(asides[-1], schema, compression="zstd") as writer:
                room = PART_ROWS
                while batch is not None and room > 0:
                    writer.write_batch(batch)
                    rows, room = rows + batch.num_rows, room - batch.num_rows
                    batch = next(batches, None)
            sync(asides[-1])
        for number, aside in enumerate(asides):
            name = f"part-{generation:06d}-{number:05d}-of-{len(asides):05d}.parquet"
            aside.rename(results / name)
        sync(results)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)
    return rows


def _remove_merged(results: Path) -> None:
    """Remove the parts and journals that are in the base, or that a crash left half-made."""
    with ExitStack() as stack:
        state = _open_state(results, stack)
        if not state.parts:
            return
        more = [next(lines_of(file, start), None) for file, start in state.journals]
        done = [Path(file.name) for (file, _), m in zip(state.journals, more, strict=True) if not m]
    headless = [path for path in results.glob("journal-*.jsonl") if read_header(path) is None]
    for path in [*state.stale, *done, *headless]:
        path.unlink()
    sync(results)

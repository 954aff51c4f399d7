"""Scores of finished clips: scores.parquet in a run folder, and the journal of an evaluation at work.

One row an id: the digest whose video was scored, the scorer (name@revision) and the scores. An
evaluation appends to scores.jsonl, a line a clip, so that one that is killed has lost nothing; the
lines count on top of scores.parquet until `compact_scores` has put them there. Both are derived: what
is damaged counts as not scored.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.best_by import SCORE_NAMES
from manifests.columns import is_id
from manifests.digest import id_hash
from manifests.files import sync, write_aside
from manifests.links import is_own_file
from manifests.table import Table

SCORES_SCHEMA: pa.Schema = pa.schema(
    [
        ("id", pa.string()),
        ("digest", pa.string()),
        ("scorer", pa.string()),
        *((name, pa.float64()) for name in SCORE_NAMES),
        ("truncated", pa.bool_()),
    ]
)
BATCH_ROWS = 8192
_PACKED = struct.Struct(f"<8s8s{len(SCORE_NAMES)}d")  # hashes of digest and scorer, the scores
_log = logging.getLogger(__name__)


class ScoreRow(NamedTuple):
    """The scores of one clip. `values` has each of SCORE_NAMES; NaN where there is none, as the
    consistency of a single frame. `truncated`: the scorer has not read the prompt to its end."""

    id: str
    digest: str
    scorer: str
    values: Mapping[str, float]
    truncated: bool = False


class Scores(Mapping[str, dict[str, float]]):
    """All scores of a run folder by id, in about 100 bytes a row; without those that are NaN.

    Iteration reads the folder's files again, for the ids are not held.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rows = Table(_PACKED.size)
        for row in iter_scores(root):
            self._rows.put(id_hash(row.id), _pack(row))

    def __getitem__(self, row_id: str) -> dict[str, float]:
        found = self._rows.get(id_hash(row_id))
        if found is None:
            raise KeyError(row_id)
        return _unpack(found)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        told = Table(1)
        for row in iter_scores(self._root):
            key = id_hash(row.id)
            if told.get(key) is None:
                told.put(key, b"\1")
                yield row.id

    def of(self, row_id: str, digest: str) -> dict[str, float] | None:
        """The scores of an id's video of this very digest; None where that was not scored."""
        found = self._rows.get(id_hash(row_id))
        return _unpack(found) if found and found.startswith(_hash(digest)) else None

    def has(self, row_id: str, digest: str, scorer: str) -> bool:
        """Whether this digest was scored by this scorer."""
        found = self._rows.get(id_hash(row_id))
        return found is not None and found.startswith(_hash(digest) + _hash(scorer))

    def is_newest(self, row: ScoreRow) -> bool:
        """Whether no later row of its id replaces it."""
        return self._rows.has(id_hash(row.id), _pack(row))


def read_scores(root: Path) -> Scores:
    """The scores of a run folder: a mapping of id to {name: value}. None at all is an empty one."""
    return Scores(root)


def iter_scores(root: Path) -> Iterator[ScoreRow]:
    """Every row of scores.parquet and then of the journal; later ones of an id replace earlier."""
    yield from _parquet_rows(scores_file(root))
    yield from _journal_rows(_journal_file(root))


def scores_file(root: Path) -> Path:
    """Where a run folder's scores are."""
    return root / "scores.parquet"


def _journal_file(root: Path) -> Path:
    return root / "scores.jsonl"


class ScoreJournal:
    """Appends rows to a run folder's scores.jsonl; a context manager. The caller holds the run's
    lock. A row is with the operating system when `append` returns."""

    def __init__(self, root: Path) -> None:
        self._path = _journal_file(root)
        self._file: BinaryIO | None = None

    def __enter__(self) -> ScoreJournal:
        if not is_own_file(self._path):  # never through a link
            with suppress(FileNotFoundError):
                self._path.unlink()
        self._file = self._path.open("ab")
        self._file.write(b"\n")  # ends a line that a crash tore
        return self

    def append(self, row: ScoreRow) -> None:
        """Add one clip's scores."""
        assert self._file is not None
        values = {n: v for n, v in row.values.items() if not math.isnan(v)}
        record = {"id": row.id, "digest": row.digest, "scorer": row.scorer, **values}
        record |= {"truncated": True} if row.truncated else {}
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def compact_scores(root: Path, current: Callable[[], Callable[[str, str], bool]]) -> int:
    """Make scores.parquet of itself and the journal: one row an id, the newest, for the ids whose
    digest is current; the others' scores go. Returns its rows; without any there is no file.

    The caller holds the run's lock. Where nothing would change, nothing is written; a crash leaves
    the old file and the journal, or the new file. Holds about 100 bytes a row.

    Args:
        current: called where there are scores at all: what tells whether an id's digest is current.
    """
    path, journal = scores_file(root), _journal_file(root)
    if not path.exists() and not journal.exists():
        return 0
    scores, is_current = read_scores(root), current()
    dropped = any(not _stays(row, scores, is_current) for row in _parquet_rows(path))
    if not journal.exists() and not dropped and is_own_file(path):
        return len(scores)
    rows = _write(path, root, scores, is_current)
    if not rows:
        path.unlink(missing_ok=True)
    journal.unlink(missing_ok=True)
    sync(root)
    return rows


def _stays(row: ScoreRow, scores: Scores, is_current: Callable[[str, str], bool]) -> bool:
    return scores.is_newest(row) and is_current(row.id, row.digest)


def _write(path: Path, root: Path, scores: Scores, is_current: Callable[[str, str], bool]) -> int:
    """Write the rows that stay; returns how many."""
    written = Table(1)
    chunk: list[ScoreRow] = []
    with (
        write_aside(path) as aside,
        pq.ParquetWriter(aside, SCORES_SCHEMA, compression="zstd") as writer,
    ):
        for row in iter_scores(root):
            key = id_hash(row.id)
            # the same row stands in both files after a crash between the two
            if written.get(key) is None and _stays(row, scores, is_current):
                written.put(key, b"\1")
                chunk.append(row)
            if len(chunk) == BATCH_ROWS:
                writer.write_batch(_batch(chunk))
                chunk = []
        if chunk:
            writer.write_batch(_batch(chunk))
    return len(written)


def _batch(rows: list[ScoreRow]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ("id", "digest", "scorer")
    }
    for name in SCORE_NAMES:
        values = [row.values.get(name, math.nan) for row in rows]
        columns[name] = [None if math.isnan(value) else value for value in values]
    columns["truncated"] = [row.truncated for row in rows]
    return pa.RecordBatch.from_pydict(columns, schema=SCORES_SCHEMA)


def _parquet_rows(path: Path) -> Iterator[ScoreRow]:
    if not is_own_file(path):
        return
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCORES_SCHEMA):
                raise ValueError("other columns than a run's scores have")
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                yield from filter(None, map(_row, batch.to_pylist()))
    except (pa.ArrowException, OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); its clips count as not scored", path, error)


def _journal_rows(path: Path) -> Iterator[ScoreRow]:
    if not is_own_file(path):
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # torn by a crash, or the empty line after one
                continue
            row = _row(record) if isinstance(record, dict) else None
            if row is not None:
                yield row


def _row(record: dict[str, Any]) -> ScoreRow | None:
    """A row from its record; None for what no evaluation wrote."""
    texts = [record.get(name) for name in ("id", "digest", "scorer")]
    found = [record.get(name) for name in SCORE_NAMES]
    if not all(isinstance(text, str) for text in texts) or not is_id(str(texts[0])):
        return None
    if not all(value is None or type(value) in (int, float) for value in found):
        return None
    values = [_number(value) for value in found]
    row_id, digest, scorer = map(str, texts)
    scores: dict[str, float] = dict(zip(SCORE_NAMES, values, strict=True))
    return ScoreRow(row_id, digest, scorer, scores, record.get("truncated") is True)


def _number(value: float | None) -> float:
    try:
        number = math.nan if value is None else float(value)
    except OverflowError:  # JSON has integers of any size
        return math.nan
    return number if math.isfinite(number) else math.nan


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _pack(row: ScoreRow) -> bytes:
    values = (row.values.get(name, math.nan) for name in SCORE_NAMES)
    return _PACKED.pack(_hash(row.digest), _hash(row.scorer), *values)


def _unpack(packed: bytes) -> dict[str, float]:
    values = _PACKED.unpack(packed)[2:]
    pairs = zip(SCORE_NAMES, values, strict=True)
    return {name: value for name, value in pairs if not math.isnan(value)}

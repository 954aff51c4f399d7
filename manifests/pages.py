"""What a row group holds once it is unpacked, found from its page headers before it is unpacked.

A few bytes of Parquet can stand for gigabytes: a compressed page, a dictionary of one long text that
every row names, a list of a hundred million equal numbers. The footer may lie about all of them, so
the headers that precede the pages are read, as the reader itself will believe those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.kinds import count
from manifests.thrift import read_struct

MAX_PAGE_BYTES = 256 * 2**20  # writers make pages of about 1 MiB, or of about 1,000 long values
MAX_LIST_VALUES = 2**24  # in the lists of a row group, and 64 more for each of its rows
MAX_UNPACKED = 2**31  # bytes of the lists of a row group, where they cannot be read piece by piece
BATCH_BYTES = 16 * 2**20  # a batch's rows as Python objects are a few times this
MANY_ROWS = 1_000_000  # of a row group; more must at least have ids
_CHUNK = (5, 7, 9, 11)  # values, packed bytes, offsets of the first page and the dictionary
_LARGEST_FOOTER = 64 * 2**20
_HEADER = 1 << 12
_LARGEST_HEADER = 16 * 2**20  # as Arrow has it: a header may quote the page's extremes
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DELTA_BYTE_ARRAY = 7  # each value is the one before with another end: long ones from a few bytes


class PageError(ValueError):
    """A row group that must not be unpacked; the message says what was found, and the remedy."""


@dataclass(frozen=True)
class Reading:
    """How to read a row group: rows at a time, and the leaf columns to keep as dictionaries."""

    batch_rows: int
    dictionaries: tuple[str, ...]


@dataclass
class _Pages:
    """The pages of one column of a row group, added up.

    Attributes:
        bytes: of all, unpacked.
        value_bytes: of the page where a value takes most, on average.
        repeated: bytes of the largest page from which values may be repeated at no cost.
        is_delta: they are repeated by DELTA_BYTE_ARRAY, not by a dictionary.
    """

    values: int = 0
    bytes: int = 0
    value_bytes: float = 0.0
    repeated: int = 0
    is_delta: bool = False


def reading_of(path: Path, group: int, metadata: pq.FileMetaData, most_rows: int) -> Reading:
    """How to read a row group so that no more than some tens of megabytes are held at once.

    Args:
        most_rows: never more at a time.

    Raises:
        PageError: a page, or lists, that no reading can bound. OSError: the file cannot be read.
    """
    rows = metadata.row_group(group).num_rows
    if rows <= 0:
        return Reading(most_rows, ())
    row_bytes = 0.0
    suspects: dict[str, int] = {}  # leaf column -> values that a batch may have of it
    with path.open("rb") as file:
        for index, leaf in enumerate(_leaves(path, path.stat().st_mtime_ns, group)):
            name = metadata.schema.column(index).path
            pages = _survey(file, leaf, name)
            is_list = metadata.schema.column(index).max_repetition_level > 0
            _check(group, name, pages, rows, is_list)
            share = max(1.0, pages.values / rows)
            row_bytes += pages.value_bytes * share
            width = _width(metadata, index)
            most = pages.values if is_list else min(rows, most_rows)
            if pages.repeated and width is not None:
                row_bytes += width * share
            elif pages.is_delta:
                row_bytes += pages.repeated * share
            elif pages.repeated * most > 4 * BATCH_BYTES:
                suspects[name] = most
    batch_rows = max(1, min(most_rows, int(BATCH_BYTES / max(row_bytes, 1.0))))
    return Reading(batch_rows, _repeated(path, group, suspects))


@lru_cache(1)
def _groups(path: Path, changed: int) -> list[Any]:
    """The row groups of a file, as its footer has them: pyarrow ends the process where a column of a
    damaged footer is asked for."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        if length > min(size - 8, _LARGEST_FOOTER):
            raise PageError(f"a footer of {length:,} bytes: write fewer columns or row groups")
        file.seek(size - 8 - length)
        try:
            groups = read_struct(BytesIO(file.read(length))).get(4)
        except (EOFError, ValueError) as error:
            raise PageError(f"the footer is damaged ({error}): write the file again") from error
    return groups if isinstance(groups, list) else []


def _leaves(path: Path, changed: int, group: int) -> list[dict[int, Any]]:
    groups = _groups(path, changed)
    found = (
        groups[group].get(1) if group < len(groups) and isinstance(groups[group], dict) else None
    )
    if not isinstance(found, list) or not all(isinstance(leaf, dict) for leaf in found):
        raise PageError(f"row group {group} is damaged: write the file again")
    return found


def _check(group: int, name: str, pages: _Pages, rows: int, is_list: bool) -> None:
    if name == "id" and rows > MANY_ROWS and pages.bytes < rows:
        raise PageError(
            f"row group {group} promises {rows:,} rows, and its ids take {pages.bytes:,} bytes: "
            "they cannot all differ; write the rows that there are"
        )
    if is_list and pages.values > MAX_LIST_VALUES + 64 * rows:
        raise PageError(
            f"row group {group} has {pages.values:,} values in the lists of `{name}` for "
            f"{count(rows, 'row')}: expected at most {MAX_LIST_VALUES:,}; shorten the lists, or write "
            "smaller row groups"
        )
    if is_list and pages.is_delta and pages.values * pages.repeated > MAX_UNPACKED:
        raise PageError(
            f"row group {group} may unpack to {pages.values * pages.repeated:,} bytes in the lists of "
            f"`{name}`: expected at most {MAX_UNPACKED:,}; write smaller row groups, or with a "
            "dictionary"
        )


def _repeated(path: Path, group: int, suspects: dict[str, int]) -> tuple[str, ...]:
    """Those columns whose dictionaries have values so long that repeating them takes too much."""
    if not suspects:
        return ()
    found: list[str] = []
    for name, values in suspects.items():
        top = name.partition(".")[0]
        with pq.ParquetFile(path, read_dictionary=[name]) as parquet:
            batches = parquet.iter_batches(1, row_groups=[group], columns=[top], use_threads=False)
            dictionaries = list(_dictionaries(next(iter(batches)).column(0)))
        longest = max(map(_longest, dictionaries), default=0)
        if longest * values > 4 * BATCH_BYTES or not dictionaries:
            found.append(name)
    return tuple(found)


def _longest(dictionary: pa.Array) -> int:
    lengths = pc.call_function("binary_length", [dictionary])
    return pc.call_function("max", [lengths]).as_py() or 0


def _dictionaries(column: pa.Array) -> Iterator[pa.Array]:
    """The dictionaries of an array and of what is nested in it, of text and bytes."""
    if pa.types.is_dictionary(column.type):
        yield column.dictionary
    elif pa.types.is_nested(column.type):
        parts = column.flatten()
        for part in parts if isinstance(parts, list) else [parts]:
            yield from _dictionaries(part)


def _width(metadata: pq.FileMetaData, index: int) -> int | None:
    """Bytes of one value; None where they differ."""
    column = metadata.schema.column(index)
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return max(1, column.length)
    return _WIDTHS.get(column.physical_type)


def _survey(file: BinaryIO, leaf: dict[int, Any], name: str) -> _Pages:
    """Go through the headers of a column's pages, as the reader will.

    Raises:
        PageError: a page of more than MAX_PAGE_BYTES, or what is no page.
    """
    chunk = leaf.get(3)
    if leaf.get(1) or not isinstance(chunk, dict):
        raise PageError(f"`{name}` stands in another file: write one whole file")
    promised, packed_bytes, at, dictionary = (chunk.get(field, 0) for field in _CHUNK)
    numbers = (promised, packed_bytes, at, dictionary)
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise PageError(f"`{name}` is damaged: write the file again")
    if 0 < dictionary < at:
        at = dictionary
    end = at + packed_bytes
    pages = _Pages()
    while pages.values < promised and at < end:
        header, length = _header(file, at, name)
        unpacked, packed = header.get(2), header.get(3)
        if (
            not isinstance(unpacked, int)
            or not isinstance(packed, int)
            or min(unpacked, packed) < 0
        ):
            raise PageError(f"`{name}` has a damaged page at byte {at}; write the file again")
        if unpacked > MAX_PAGE_BYTES:
            raise PageError(
                f"`{name}` has a page that unpacks to {unpacked:,} bytes: expected at most "
                f"{MAX_PAGE_BYTES:,}; shorten its values, or write smaller pages"
            )
        _add(pages, header, unpacked)
        at += length + packed
    return pages


def _add(pages: _Pages, header: dict[int, object], unpacked: int) -> None:
    pages.bytes += unpacked
    if isinstance(header.get(7), dict):  # a dictionary
        pages.repeated = max(pages.repeated, unpacked)
        return
    data = header.get(5) or header.get(8)
    if not isinstance(data, dict):
        return  # an index page: the reader passes it over
    values = data.get(1)
    if not isinstance(values, int) or values < 0:
        raise PageError("a page has a damaged header; write the file again")
    pages.values += values
    pages.value_bytes = max(pages.value_bytes, unpacked / max(values, 1))
    if data.get(2 if header.get(5) else 4) == _DELTA_BYTE_ARRAY:
        pages.repeated, pages.is_delta = max(pages.repeated, unpacked), True


def _header(file: BinaryIO, at: int, name: str) -> tuple[dict[int, object], int]:
    """A page's header by field number, and its length."""
    size = _HEADER
    while size <= _LARGEST_HEADER:
        file.seek(at)
        data = file.read(size)
        stream = BytesIO(data)
        try:
            return read_struct(stream), stream.tell()
        except EOFError:
            if len(data) < size:
                break
            size *= 16
        except (ValueError, OverflowError):
            break
    raise PageError(f"`{name}` has no page at byte {at}; the file is damaged: write it again")

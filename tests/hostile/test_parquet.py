"""Hostile Parquet: what a few kilobytes may unpack to, odd types, damaged bytes."""

from __future__ import annotations

import decimal
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.kinds import Oversize
from manifests.read import ManifestError, open_manifest
from manifests.schema import MAX_COLUMNS
from manifests.validate import check_rows

pytestmark = pytest.mark.timeout(240)

MEGABYTES = 700  # of peak memory above the interpreter's; the bombs are of 800 MB and more

READ = """
import resource, sys
from manifests.read import ManifestError, open_manifest
from manifests.validate import check_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
good = bad = 0
told = ""
try:
    for raw, row in check_rows(open_manifest(sys.argv[1])):
        if isinstance(row, list):
            bad += 1
            told = str(row[0])
        else:
            good += 1
except ManifestError as error:
    told = str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(good, bad, peak // 1024, told.replace(chr(10), " "))
"""


def read_elsewhere(path: Path) -> tuple[int, int, int, str]:
    """Good rows, bad rows, megabytes at the peak and the last message, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    good, bad, megabytes, told = done.stdout.rstrip("\n").split(" ", 3)
    return int(good), int(bad), int(megabytes), told


def ids(count: int) -> list[str]:
    return [f"r{index}" for index in range(count)]


def repeated(text: str, rows: int) -> pa.Array:
    """The same text in all rows, once in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def lists(values: int) -> pa.Array:
    """A list of so many equal numbers, and one of one."""
    offsets = pa.array([0, values, values + 1], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.full(values + 1, 0.5)))


def texts(values: int, text: str) -> pa.Array:
    offsets = pa.array([0, values, values + 1], pa.int32())
    return pa.ListArray.from_arrays(offsets, repeated(text, values + 1).cast(pa.string()))


BOMBS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any], tuple[int, int], str]] = {
    "one long page": (
        lambda: {"id": ids(2), "prompt": ["x" * (300 * 2**20), "fine"]},
        {"use_dictionary": False},
        (0, 0),
        "a page that unpacks to",
    ),
    "a long prompt that all rows share": (
        lambda: {"id": ids(8192), "prompt": repeated("x" * 100_000, 8192)},
        {},
        (8192, 0),
        "",
    ),
    "a longer meta text that all rows share": (
        lambda: {
            "id": ids(8192),
            "prompt": ["p"] * 8192,
            "meta_x": repeated("x" * 5_000_000, 8192),
        },
        {},
        (0, 8192),
        "at most 4,194,304 bytes",
    ),
    "a list of 100,000,000 numbers": (
        lambda: {"id": ids(2), "prompt": ["p", "q"], "kl_target": lists(100_000_000)},
        {},
        (0, 0),
        "shorten the lists",
    ),
    "a list of 1,000,000 numbers": (
        lambda: {"id": ids(2), "prompt": ["p", "q"], "meta_x": lists(1_000_000)},
        {},
        (1, 1),
        "at most 4,194,304 bytes",
    ),
    "a storyboard of 10,000 long prompts": (
        lambda: {"id": ids(2), "prompt": texts(10_000, "x" * 100_000)},
        {},
        (1, 1),
        "a value of 1,000,080,000 bytes",
    ),
    "long texts after short ones": (
        lambda: {"id": ids(12_000), "prompt": ["p"] * 6000 + ["y" * 90_000] * 6000},
        {"use_dictionary": False},
        (12_000, 0),
        "",
    ),
}


@pytest.mark.parametrize(
    "name",
    [name if i < 3 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(BOMBS)],
)
def test_a_bomb_is_bounded(name: str, tmp_path: Path) -> None:
    """Kilobytes that stand for gigabytes are refused, or read a little at a time; a value of more
    than 4 MiB is its row's fault alone."""
    columns, options, rows, words = BOMBS[name]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns()), path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 200_000
    good, bad, megabytes, told = read_elsewhere(path)
    assert (good, bad) == rows, told
    assert words in told
    assert megabytes < MEGABYTES


def test_rows_without_bytes(tmp_path: Path) -> None:
    """A file of a few kilobytes that promises ten million rows of one id is refused at once."""
    path = tmp_path / "m.parquet"
    rows = 10_000_000
    table = pa.table({"id": repeated("a", rows), "prompt": repeated("p", rows)})
    pq.write_table(table, path, row_group_size=rows, store_schema=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(ManifestError, match=r"promises 10,000,000 rows.*cannot all differ"):
        next(iter(open_manifest(path).rows()))


def odd(array: pa.Array) -> pa.Table:
    return pa.table({"id": ["a", "b"], "prompt": ["p", "q"], "meta_x": array})


def nested(depth: int) -> pa.Array:
    kind, value = pa.int64(), 1
    for _ in range(depth):
        kind, value = pa.list_(kind), [value]
    return pa.array([value, None], kind)


ODD_TYPES: dict[str, Callable[[], pa.Array]] = {
    "zone of another planet": lambda: pa.array([1, 2], pa.timestamp("us", "Mars/Phobos")),
    "zone of 99 hours": lambda: pa.array([1, 2], pa.timestamp("us", "+99:99")),
    "year 146,138": lambda: pa.array([2**62, -(2**62)], pa.timestamp("us")),
    "nanoseconds": lambda: pa.array([1, 2], pa.timestamp("ns")),
    "day 2^31": lambda: pa.array([2**31 - 1, -(2**31)], pa.date32()),
    "25 o'clock": lambda: pa.array([2**40, 2**62], pa.time64("us")),
    "an age": lambda: pa.array([1, 2**62], pa.duration("s")),
    "decimal256": lambda: pa.array([decimal.Decimal("1" * 70), None], pa.decimal256(76, 3)),
    "uint64": lambda: pa.array([2**64 - 1, 1], pa.uint64()),
    "null": lambda: pa.array([None, None], pa.null()),
    "bytes": lambda: pa.array([b"\xff\x00", b""]),
    "float16": lambda: pa.array([1.0, float("nan")], pa.float16()),
    "a map": lambda: pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "a struct of lists": lambda: pa.array([{"a": [{"b": [1]}]}, None]),
    "a struct whose names repeat": lambda: pa.StructArray.from_arrays(
        [pa.array([1, 2]), pa.array([3, 4])], ["a", "a"]
    ),
    "a UUID": lambda: pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"0" * 16, b"1" * 16], pa.binary(16))
    ),
    "a dictionary": lambda: pa.array(["q", None]).dictionary_encode(),
    "20 lists deep": lambda: nested(20),
}


@pytest.mark.parametrize("name", ODD_TYPES)
def test_odd_types_ride_along(name: str, tmp_path: Path) -> None:
    """A meta column of any type that Parquet has makes no row bad, and its values are JSON's."""
    path = tmp_path / "m.parquet"
    pq.write_table(odd(ODD_TYPES[name]()), path)
    rows = [row for _, row in check_rows(open_manifest(path))]
    assert [row.id for row in rows if not isinstance(row, list)] == ["a", "b"]
    for row in rows:
        assert not isinstance(row, list)
        assert pa.array([str(value) for value in row.meta.values()]) is not None


def columns(count: int) -> pa.Table:
    names = ["id", "prompt", *(f"meta_{index}" for index in range(count))]
    return pa.table([pa.array(["a"])] * len(names), names=names)


def pickled_type() -> pa.Table:
    """An extension type as pyarrow once pickled them."""
    import pickle

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (sys.exit, (7,))

    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Runs()),
    }
    fields = [pa.field("id", pa.string()), pa.field("prompt", pa.string())]
    fields.append(pa.field("meta_x", pa.int64(), metadata=metadata))
    return pa.table([["a"], ["p"], [1]], schema=pa.schema(fields))


REFUSED: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "10,000 columns": (lambda: columns(10_000), f"at most {MAX_COLUMNS:,} columns, found 10,002"),
    "900 unknown columns": (
        lambda: pa.table([pa.array(["a"])] * 900, names=[f"c{i}" for i in range(900)]),
        "… and 895 more unknown columns",
    ),
    "a name twice": (
        lambda: pa.table([["a"], ["p"], ["q"]], names=["id", "prompt", "prompt"]),
        "found 2 columns of this name",
    ),
    "a name of control characters": (
        lambda: pa.table([["a"], ["p"], ["q"]], names=["id", "prompt", "\x1b[31m\n"]),
        r"'\\x1b\[31m\\n': unknown column",
    ),
    "60 lists deep": (lambda: odd(nested(60)), "nested too deeply"),
    "ids in lists": (lambda: pa.table({"id": [["a"]], "prompt": ["p"]}), "`id`: expected string"),
    "ids in structs": (
        lambda: pa.table({"id": [{"a": "b"}], "prompt": ["p"]}),
        "`id`: expected string",
    ),
    "no rows": (lambda: columns(0).slice(0, 0), "has no rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_is_refused_in_a_few_lines(name: str, tmp_path: Path) -> None:
    """What no row could mend is one error of at most 60 lines that says what was expected."""
    make, words = REFUSED[name]
    path = tmp_path / "m.parquet"
    pq.write_table(make(), path)
    with pytest.raises(ManifestError, match=words) as caught:
        open_manifest(path)
    text = str(caught.value)
    assert len(text.splitlines()) <= 60 and "\x1b" not in text


def test_a_pickled_type_is_not_loaded(tmp_path: Path) -> None:
    """Types that a schema carries as a pickle are never unpickled: the column is what it is stored
    as."""
    pq.write_table(pickled_type(), tmp_path / "m.parquet")
    (row,) = [row for _, row in check_rows(open_manifest(tmp_path / "m.parquet"))]
    assert not isinstance(row, list) and row.meta == {"meta_x": 1}


def test_row_groups_of_any_size(tmp_path: Path) -> None:
    """Row groups of no rows and thousands of one row lose and add nothing."""
    path = tmp_path / "m.parquet"
    table = pa.table({"id": ids(3000), "prompt": ["p"] * 3000})
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(3000):
            writer.write_table(table.slice(start, 1))
            if start % 100 == 0:
                writer.write_table(table.slice(0, 0))
    assert [raw.values["id"] for raw in open_manifest(path).rows()] == ids(3000)


def test_encrypted_footers(tmp_path: Path) -> None:
    """An encrypted file is called so."""
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PARE" + bytes(100) + (50).to_bytes(4, "little") + b"PARE")
    with pytest.raises(ManifestError, match="is encrypted Parquet: write it without"):
        open_manifest(path)


def test_oversize_values_are_only_described() -> None:
    """What stands for a value that was not read says how large it is."""
    from manifests.kinds import describe

    assert describe(Oversize(5_000_000)) == "a value of 5,000,000 bytes"


FUZZ = """
import random, sys
from pathlib import Path
from manifests.read import ManifestError, open_manifest
from manifests.validate import check_rows
from manifests.row import ManifestRow
folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole = (folder / "whole.parquet").read_bytes()
generator = random.Random(seed)
counts = {"read": 0, "refused": 0}
for number in range(count):
    data = bytearray(whole)
    for _ in range(generator.choice([1, 1, 2, 8, 64])):
        # half of the flips in the footer, where every byte decides
        low = generator.choice([0, len(data) * 2 // 3])
        data[generator.randrange(low, len(data))] = generator.randrange(256)
    if generator.random() < 0.2:
        del data[generator.randrange(len(data)) :]
    path = folder / f"{seed}.parquet"
    path.write_bytes(data)
    print(number, flush=True, file=sys.stderr)
    try:
        rows = list(check_rows(open_manifest(path)))
        assert all(isinstance(row, ManifestRow) or row for _, row in rows)
        assert [raw.position for raw, _ in rows] == list(range(len(rows)))
        counts["read"] += 1
    except ManifestError as error:
        assert str(error)
        counts["refused"] += 1
print(counts["read"], counts["refused"])
"""


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 150), pytest.param(1, 3000, marks=pytest.mark.slow)]
)
def test_damaged_bytes(seed: int, count: int, tmp_path: Path) -> None:
    """A manifest with flipped and missing bytes is read or refused with a ManifestError: no other
    exception, no crash, no end that does not come, memory below 4 GiB."""
    generator = random.Random(seed)
    rows = 300
    table = pa.table(
        {
            "id": ids(rows),
            "prompt": [[f"a star {generator.random()}", "b"] for _ in range(rows)],
            "seed": [generator.randrange(2**63) for _ in range(rows)],
            "kl_target": [[0.1] * 7] * rows,
            "meta_x": [{"a": [index], "b": "é" * (index % 7)} for index in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "whole.parquet", row_group_size=100, compression="zstd")
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path), str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=220,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    read, refused = map(int, done.stdout.split())
    assert read + refused == count and refused > count / 4

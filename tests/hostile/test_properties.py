"""Any table through open_manifest, check_rows and make_plan: told or planned, nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.columns import COLUMNS
from manifests.read import ManifestError, open_manifest
from manifests.validate import Problem
from tasks.catalogue import Catalogue
from tasks.job import Engine
from tasks.kin import planned_rows
from tasks.plan import make_plan

pytestmark = pytest.mark.timeout(300)

CATALOGUE = Catalogue()
SETTINGS = settings(
    max_examples=40,
    deadline=None,  # the machine may be busy
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from([*COLUMNS, "meta_a", "meta_\x1b", "meta_"])
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), st.one_of(TEXT, st.sampled_from(["a", "b", "h264", "gif", "canny"]))),
    "bytes": (pa.binary(), st.binary(max_size=4)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 20)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "double": (pa.float64(), st.floats() | st.sampled_from([0.1, 0.98, 8.0])),
    "float": (pa.float32(), st.floats(width=32)),
    "bool": (pa.bool_(), st.booleans()),
    "null": (pa.null(), st.none()),
    "date": (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    "time": (pa.timestamp("us", "Nowhere/Else"), st.integers(-(2**63) + 1, 2**63 - 1)),
    "list": (pa.list_(pa.string()), st.lists(TEXT, max_size=4)),
    "numbers": (pa.list_(pa.float64()), st.lists(st.floats(), max_size=8)),
    "struct": (pa.struct({"a": pa.list_(pa.int8())}), st.fixed_dictionaries({"a": st.just([1])})),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A table of one to eight rows with ids and prompts, and any other columns of any type."""
    rows = draw(st.integers(1, 8))
    ids = st.one_of(st.sampled_from(["a", "b", "c", "..", "invalid-row-1"]), TEXT, st.none())
    columns: dict[str, pa.Array] = {
        "id": pa.array(draw(st.lists(ids, min_size=rows, max_size=rows)), pa.string()),
        "prompt": pa.array(draw(st.lists(TEXT, min_size=rows, max_size=rows)), pa.string()),
    }
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        kind, values = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        drawn = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        columns[name] = pa.array(drawn, kind)
    return pa.table(columns)


def planned(path: Path) -> list[Any]:
    """What becomes of each row, in order: its id and digest, or its faults without their place."""
    found = planned_rows(open_manifest(path), CATALOGUE, {}, Engine())
    return [
        (row.id, row.digest)
        if hasattr(row, "digest")
        else [
            (p.column, p.expected, p.found) for p in row.problems if "other row" not in p.expected
        ]
        for row in found
    ]


@SETTINGS
@given(table=tables())
def test_every_row_is_told_or_planned_once(table: pa.Table) -> None:
    """No exception but ManifestError; each row is good or bad, once; every one has a place of its
    own in the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.parquet")
        pq.write_table(table, path)
        told: dict[str, list[Problem]] = {}
        try:
            made = make_plan(
                open_manifest(path),
                CATALOGUE,
                defaults={},
                engine=Engine(),
                on_invalid=told.__setitem__,
            )
        except ManifestError as error:
            assert str(error).startswith(str(path))
            return
        positions = [position for shard in made.shards for position in shard.positions]
        assert len(positions) == len(set(positions)) == made.work.rows
        assert made.rows == table.num_rows == made.work.rows + made.invalid_rows
        assert len(made.digests) == table.num_rows and len(told) == made.invalid_rows
        assert all(told.values())


@SETTINGS
@given(table=tables(), cut=st.integers(1, 7), group=st.integers(1, 4))
def test_neighbours_decide_nothing(table: pa.Table, cut: int, group: int) -> None:
    """Row groups, a dictionary, compression and files beside change no row's digest or faults."""
    with tempfile.TemporaryDirectory() as folder:
        path, parts = Path(folder, "m.parquet"), Path(folder, "parts")
        parts.mkdir()
        pq.write_table(table, path)
        try:
            expected = planned(path)
        except ManifestError:
            return
        pq.write_table(table, path, row_group_size=group, use_dictionary=False, compression="gzip")
        assert planned(path) == expected
        for number, start in enumerate(range(0, table.num_rows, cut)):
            pq.write_table(table.slice(start, cut), parts / f"{number}.parquet")
        assert planned(parts) == expected

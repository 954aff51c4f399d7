"""Hostile rows, one at a time between good ones, and all of them together in a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.inputs import InputFiles
from manifests.read import open_manifest
from manifests.row import parse_row
from manifests.validate import Problem
from tasks.catalogue import Catalogue
from tasks.clips import ClipError, read_clip
from tasks.job import Engine
from tasks.plan import make_plan
from tests.hostile.cases import CASES, TABLES
from tests.hostile.yard import Yard, write_rows

pytestmark = pytest.mark.timeout(120)  # whatever it is, it ends

PLANNED = [name for name, case in CASES.items() if not case.unreadable]
CLIPS = [
    name for name, case in CASES.items() if "source_video" in case.columns and not case.invalid
]


@pytest.fixture(scope="module")
def catalogue(shared_yard: Yard) -> Catalogue:
    """One for all: the good model's weights are hashed once."""
    return Catalogue(inputs=InputFiles([shared_yard.inside]))


def test_there_are_enough() -> None:
    """The table is a table: names of rows do not repeat and nothing fell out of it."""
    assert len(CASES) == sum(map(len, TABLES.values())) >= 120


@pytest.mark.parametrize("name", PLANNED)
def test_a_hostile_row_is_told_or_planned(
    name: str, yard: Yard, catalogue: Catalogue, tmp_path: Path
) -> None:
    """The row is invalid, with its column and the words of the table, or planned; the rows before
    and after it are planned, and its place in the ledger is its own."""
    case = CASES[name]
    good = [{"id": f"good-{i}", "prompt": "p"} for i in range(2)]
    rows = [good[0], case.row(yard, "case"), good[1]]
    manifest = open_manifest(write_rows(tmp_path / "m.parquet", rows))
    told: dict[str, list[Problem]] = {}
    made = make_plan(manifest, catalogue, defaults={}, engine=Engine(), on_invalid=told.__setitem__)
    planned = [position for shard in made.shards for position in shard.positions]
    assert sorted(planned) == ([0, 2] if case.invalid else [0, 1, 2])
    assert len(made.digests) == 3
    if case.invalid:
        (problems,) = told.values()
        text = "\n".join(map(str, problems))
        assert all(words in text for words in case.invalid), text
        assert len(text) < 2000 + 2 * len(str(yard.inside)) * len(problems)
    else:
        assert not told


@pytest.mark.parametrize("name", CLIPS)
def test_a_hostile_clip_is_refused_or_read(name: str, yard: Yard) -> None:
    """Reading ends: in a ClipError that names the file and has the words of the table, or in
    frames."""
    case = CASES[name]
    path = yard.inside / case.columns["source_video"]
    if not case.unreadable:
        frames = read_clip(path, num_frames=8, fps=8, height=32, width=32)
        assert frames.shape == (8, 32, 32, 3) and frames.dtype == np.uint8
        return
    with pytest.raises(ClipError) as caught:
        read_clip(path, num_frames=8, fps=8, height=32, width=32)
    text = str(caught.value)
    assert path.name in text and "; " in text
    assert all(words in text for words in case.unreadable), text


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Bytes in a column of text are refused row by row; the neighbours are good."""
    offsets = pa.array([0, 1, 3, 4], pa.int32()).buffers()[1]
    prompts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")])
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "c"], "prompt": prompts}), path)
    values = [raw.values for raw in open_manifest(path).rows()]
    assert [parse_row(values[i]).prompt for i in (0, 2)] == [("a",), ("b",)]
    with pytest.raises(ValueError, match="not UTF-8"):
        parse_row(values[1])

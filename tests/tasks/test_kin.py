"""tasks.kin: the short way for rows that are alike says what the long way says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.inputs import InputFiles
from manifests.kinds import MAX_VALUE_BYTES
from manifests.read import open_manifest
from tasks import kin
from tasks.catalogue import Catalogue
from tasks.job import Engine
from tasks.kin import PlannedRow, RefusedRow, planned_rows

CATALOGUE = Catalogue(inputs=InputFiles())  # the model's weights are hashed once


def told(row: PlannedRow | RefusedRow) -> Any:
    """All that a plan takes from a row."""
    if isinstance(row, RefusedRow):
        return row.raw.position, list(map(str, row.problems))
    job = row.kind.job
    return row[:3], row.kind.group, asdict(row.kind.work), job.row.codec, job.engine


def both_ways(
    source: Path, defaults: dict[str, Any] | None = None, kinds_held: int = kin.KINDS_HELD
) -> tuple[list[Any], list[Any]]:
    """What is told of each row, the short way and the long way."""
    manifest = open_manifest(source)
    short, long = (
        [told(row) for row in planned_rows(manifest, CATALOGUE, defaults or {}, Engine(), held)]
        for held in (kinds_held, 0)
    )
    return short, long


def some(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


# (good values, bad ones) by column; what is good by itself may be bad beside others
TEXTS = (st.one_of(some("p", "", "ü % %s \n\"'\\"), st.text(max_size=5)), some("\0", "p" * 100_001))
COLUMNS: dict[str, tuple[Any, Any]] = {
    "id": (st.integers(0, 200).map(str), some(".bad", "", "0", None)),
    "prompt": (TEXTS[0], st.one_of(TEXTS[1], st.none())),
    "prompts": (st.lists(some("p", "q"), min_size=1, max_size=2), some([], [None])),
    "negative_prompt": TEXTS,
    "seed": (st.one_of(some(0, 7, 2**63 - 1), st.integers(0, 2**62)), some(-1)),
    "kl_target": (st.one_of(some(0.0, -0.0, 5e-324), st.floats(0, 9)), some(-1.0, float("nan"))),
    "kl_targets": (st.lists(some(0.01, 0.5), min_size=1, max_size=3), some([-1.0], [])),
    "momentum": (st.floats(0, 1), some(1.5)),
    "momentums": (st.lists(some(0.9, 1.0), min_size=1, max_size=3), some([2.0])),
    "num_frames": (some(1, 2, 3), some(0)),
    "segment_frames": (some(1, 2), some(4)),
    "guidance_scale": (some(1.0, 2.5), some(-1.0)),
    "noise": (some("dependency", "mixed"), some("pink")),
    "alpha": (some(0.5), some(2.0)),
    "codec": (some("h264", "gif"), some("mp4")),
    "fps": (some(8.0, 101.0), some(0.0)),
    "height": (some(32, 64), some(33)),
    "source_video": (some("clip.mp4"), some("gone.mp4")),
    "meta_x": (some(1, 2), some(None)),
}
ARROW = {"prompts": ("prompt", pa.list_(pa.string())), "meta_x": ("meta_x", pa.int64())} | {
    f"{name}s": (name, pa.list_(pa.float64())) for name in ("kl_target", "momentum")
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A manifest's rows: any few of the columns, now and then a bad value or none."""
    count = draw(st.integers(1, 12))
    optional = sorted(set(COLUMNS) - {"id", "prompt"})
    names = ["id", "prompt", *draw(st.lists(st.sampled_from(optional), unique=True, max_size=4))]
    columns: dict[str, pa.Array] = {}
    for name in names:
        column, kind = ARROW.get(name, (name, None))
        good, bad = COLUMNS[name]
        values = [draw(good) for _ in range(count)]
        if draw(st.integers(0, 3)) == 0:
            values[draw(st.integers(0, count - 1))] = draw(bad)
        if name not in ("id", "prompt") and draw(st.integers(0, 3)) == 0:
            values[draw(st.integers(0, count - 1))] = None
        columns[column] = pa.array(values, kind)
    return pa.table(columns)


DEFAULTS: list[dict[str, Any]] = [
    {},
    {"kl_target": (0.1, 0.2), "momentum": 1, "negative_prompt": "blur", "seed": 3},
    {"num_frames": 3, "segment_frames": 2, "momentum": (0.9, 0.8, 0.7), "codec": "webp"},
]


@settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(tables(), min_size=1, max_size=2), st.sampled_from(DEFAULTS), some(2, 4096))
def test_both_ways_say_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[pa.Table],
    defaults: dict[str, Any],
    kinds_held: int,
):
    """Digests, signatures, work and problems of any rows of any columns, over several files and
    with run defaults, also where more kinds come than are held."""
    folder = tmp_path_factory.mktemp("m")
    (folder / "clip.mp4").write_bytes(b"clip")
    for number, table in enumerate(parts):
        pq.write_table(table, folder / f"{number}.parquet")
    short, long = both_ways(folder, defaults, kinds_held)
    assert short == long


def test_rows_that_are_alike_go_the_short_way(tmp_path: Path):
    """Of rows that differ in words, seed, λ, μ and meta columns one goes the long way for each set
    of other values, whatever their order and however the files are cut."""
    rows = 40
    table = pa.table(
        {
            "id": [f"r{i}" for i in range(rows)],
            "prompt": [[f"p{i}"] if i % 2 else ["a", f"p{i}"] for i in range(rows)],
            "negative_prompt": [f"n{i}" for i in range(rows)],
            "seed": [None if i % 3 else i for i in range(rows)],
            "kl_target": [[0.1 * i] if i % 4 else [0.1 * i] * 3 for i in range(rows)],
            "momentum": [i / rows for i in range(rows)],
            "num_frames": [4] * rows,
            "segment_frames": [2] * rows,
            "lora": pa.array([None] * rows, pa.list_(pa.string())),
            "codec": ["gif" if i % 5 else "h264" for i in range(rows)],
            "meta_n": list(range(rows)),
        }
    )
    pq.write_table(table, tmp_path / "1.parquet", row_group_size=7)
    # one prompt and one λ, two prompts and one λ, two prompts and three; two codecs of each
    planned = list(planned_rows(open_manifest(tmp_path / "1.parquet"), CATALOGUE, {}, Engine()))
    assert len({row.kind for row in planned if isinstance(row, PlannedRow)}) == 6
    short, long = both_ways(tmp_path / "1.parquet")
    assert short == long


def test_bad_rows_among_their_kin_are_told(tmp_path: Path):
    """A bad id, one used already, a seed or prompt that is none: each in a row that is otherwise like
    good ones before it."""
    ids = ["a", ".b", "a", "", None, "c", "d", "e", "f"]
    seeds = [1, 1, 1, 1, 1, -1, 1, 1, 1]
    prompts = ["p", "p", "p", "p", "p", "p", None, "\0", "p"]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ids, "prompt": prompts, "seed": seeds}), path)
    short, long = both_ways(path)
    assert short == long
    planned = planned_rows(open_manifest(path), CATALOGUE, {}, Engine())
    assert [r.id for r in planned if isinstance(r, PlannedRow)] == ["a", "f"]


def test_as_many_λ_as_frame_pairs_are_not_as_many_μ_as_frames(tmp_path: Path):
    """Files that differ in which column is a list have no kinds in common."""
    rows = {"id": ["a", "b"], "prompt": ["p", "p"], "num_frames": [8, 8]}
    pq.write_table(pa.table(rows | {"kl_target": [[0.1] * 7] * 2}), tmp_path / "1.parquet")
    rows["id"] = ["c", "d"]
    pq.write_table(pa.table(rows | {"momentum": [[0.9] * 7] * 2}), tmp_path / "2.parquet")
    short, long = both_ways(tmp_path)
    assert short == long
    assert [isinstance(row, tuple) and len(row) == 2 for row in short] == [False, False, True, True]


def test_a_meta_value_that_is_too_large_is_told(tmp_path: Path):
    """Meta columns are not read on the short way, but this is seen."""
    values = ["x", "y" * (MAX_VALUE_BYTES + 1), "z"]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": list("abc"), "prompt": ["p"] * 3, "meta_x": values}), path)
    short, long = both_ways(path)
    assert short == long
    assert "meta_x" in short[1][1][0]

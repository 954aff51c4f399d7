"""manifests.read: finding manifests, checking their schemas, reading rows lazily."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.read import Manifest, ManifestError, RawRow, open_manifest
from manifests.row import RowError, parse_row


def ids(manifest: Manifest, start: int = 0) -> list[str]:
    return [raw.values["id"] for raw in manifest.rows(start)]


def columns(*names: str) -> dict[str, list[str]]:
    return {"id": list(names), "prompt": [f"a {name}" for name in names]}


def test_a_file_gives_its_rows_with_their_places(write: Any):
    """Rows count from 0 in their file; nulls are left out."""
    path = write({**columns("a", "b"), "seed": [None, 7]})
    manifest = open_manifest(path)
    assert manifest.num_rows == 2
    assert list(manifest.rows()) == [
        RawRow(str(path), 0, 0, {"id": "a", "prompt": "a a"}),
        RawRow(str(path), 1, 1, {"id": "b", "prompt": "a b", "seed": 7}),
    ]


def test_a_folder_gives_every_visible_parquet_file_below_it_in_order(write: Any, tmp_path: Path):
    """Nested files count; hidden and underscored names, and other suffixes, do not."""
    write(columns("b"), "d/b.parquet")
    write(columns("a"), "d/a/z.parquet")
    for name in ("d/.c.parquet", "d/_c.parquet", "d/.x/c.parquet", "d/c.txt"):
        write(columns("c"), name)
    manifest = open_manifest(tmp_path / "d")
    assert ids(manifest) == ["a", "b"]
    assert [raw.row for raw in manifest.rows()] == [0, 0]
    assert [raw.position for raw in manifest.rows()] == [0, 1]


def test_a_glob_gives_what_matches(write: Any, tmp_path: Path):
    """Also below, with **; a file that matches by two ways is read once."""
    write(columns("a"), "p-1.parquet")
    write(columns("b"), "p-2.parquet")
    write(columns("c"), "deep/er/p-3.parquet")
    (tmp_path / "p-4.parquet").symlink_to(tmp_path / "p-1.parquet")
    assert ids(open_manifest(f"{tmp_path}/p-*.parquet")) == ["a", "b"]
    assert ids(open_manifest(f"{tmp_path}/**/p-[23].parquet")) == ["c", "b"]


def test_a_name_with_glob_characters_that_exists_is_a_name(write: Any):
    """A file named a[1].parquet can be given as it is."""
    assert ids(open_manifest(write(columns("a"), "a[1].parquet"))) == ["a"]


def test_a_linked_manifest_is_read(write: Any, tmp_path: Path):
    """Links to a file are followed."""
    link = tmp_path / "link.parquet"
    link.symlink_to(write(columns("a")))
    assert ids(open_manifest(link)) == ["a"]


def test_each_file_is_normalised_by_itself(write: Any, tmp_path: Path):
    """One file may hold lists, the next scalars, the next lack the column."""
    write({**columns("a"), "kl_target": [[0.5]], "num_frames": [2.0]}, "m/1.parquet")
    write({**columns("b"), "kl_target": [0.5], "num_frames": [2]}, "m/2.parquet")
    write({"id": ["c"], "prompt": [["a c"]]}, "m/3.parquet")
    rows = [parse_row(raw.values) for raw in open_manifest(tmp_path / "m").rows()]
    assert [row.kl_target for row in rows] == [0.5, 0.5, 0.01]
    assert [row.num_frames for row in rows] == [2, 2, 8]
    assert rows[2].prompt == ("a c",)


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.string()),
    pa.large_list(pa.large_string()),
]


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_text_columns_may_have_any_arrow_type_of_text(write: Any, kind: pa.DataType):
    """pandas, polars and DuckDB each write another one."""
    prompts = [["a star"]] if "list" in str(kind) else ["a star"]
    prompt = pa.array(prompts, None if "dictionary" in str(kind) else kind)
    if pa.types.is_dictionary(kind):
        prompt = prompt.dictionary_encode()
    (raw,) = open_manifest(write({"id": ["a"], "prompt": prompt})).rows()
    assert parse_row(raw.values).prompt == ("a star",)


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(10, 2)],
    ids=str,
)
def test_whole_numbers_may_have_any_arrow_type_of_number(write: Any, kind: pa.DataType):
    """Whole-number doubles and decimals are integers."""
    frames = pa.array(
        [Decimal("24.00") if pa.types.is_decimal(kind) else 24],
        pa.float64() if kind == pa.float16() else kind,
    )
    (raw,) = open_manifest(write({**columns("a"), "num_frames": frames.cast(kind)})).rows()
    assert parse_row(raw.values).num_frames == 24


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("make_list", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
def test_a_float32_means_the_number_that_was_written(write: Any, kind: pa.DataType, make_list: Any):
    """0.01 in a float32 column is 0.01, so the row's digest does not depend on the column's type."""
    table = {**columns("a", "b", "c"), "momentum": pa.array([0.98, None, 0.1], kind)}
    table["kl_target"] = pa.array([[0.7, 0.8], None, [0.01, 0.2]], make_list(kind))
    manifest = open_manifest(write(table))
    rows = list(manifest.rows())
    assert [row.values.get("momentum") for row in rows] == [0.98, None, 0.1]
    assert [row.values.get("kl_target") for row in rows] == [[0.7, 0.8], None, [0.01, 0.2]]
    assert list(manifest.rows(1)) == rows[1:]
    assert list(manifest.rows_at([0, 2])) == [rows[0], rows[2]]


def test_a_column_of_nulls_is_an_absent_column(write: Any):
    """Also with Arrow's null type, and for a column that is not built yet."""
    table = {**columns("a"), "seed": pa.nulls(1), "lora": pa.array([None], pa.list_(pa.string()))}
    (raw,) = open_manifest(write(table)).rows()
    assert set(raw.values) == {"id", "prompt"}


def test_meta_columns_of_any_type_ride_along(write: Any):
    """Lists, structs and times too."""
    table = {**columns("a"), "meta_tags": [["x", "y"]], "meta_info": [{"k": 1}]}
    (raw,) = open_manifest(write(table)).rows()
    assert parse_row(raw.values).meta == {"meta_tags": ["x", "y"], "meta_info": {"k": 1}}


def test_text_that_is_not_utf8_is_a_fault_of_its_row_alone(write: Any):
    """Parquet does not check text; the neighbours of such a row are read."""
    raw_bytes = pa.array([b"good", b"\xff\xfe"], pa.binary())
    broken = pa.StringArray.from_buffers(2, raw_bytes.buffers()[1], raw_bytes.buffers()[2])
    good, bad = open_manifest(write({"id": ["a", "b"], "prompt": broken})).rows()
    assert parse_row(good.values).prompt == ("good",)
    with pytest.raises(RowError, match="UTF-8"):
        parse_row(bad.values)


def test_rows_come_from_a_position_on(write: Any, tmp_path: Path):
    """The start may lie in any file and any batch."""
    write(columns(*(f"a{i}" for i in range(10))), "m/1.parquet", row_group_size=3)
    write(columns(*(f"b{i}" for i in range(5))), "m/2.parquet")
    manifest = open_manifest(tmp_path / "m")
    everything = ids(manifest)
    for start in range(17):
        assert ids(manifest, start) == everything[start:]


def test_rows_at_reads_exactly_the_wanted_rows(write: Any, tmp_path: Path):
    """Ascending positions over several files and row groups."""
    write(columns(*(f"a{i}" for i in range(10))), "m/1.parquet", row_group_size=3)
    write(columns(*(f"b{i}" for i in range(5))), "m/2.parquet")
    manifest = open_manifest(tmp_path / "m")
    everything = list(manifest.rows())
    for wanted in ([], [0], [14], [2, 3, 9, 10], list(range(15))):
        assert list(manifest.rows_at(wanted)) == [everything[position] for position in wanted]


def test_a_position_is_found_in_its_file(write: Any, tmp_path: Path):
    """`locate` gives the file and the row in it."""
    write(columns("a", "b"), "m/1.parquet")
    write(columns("c"), "m/2.parquet")
    manifest = open_manifest(tmp_path / "m")
    assert [manifest.locate(p) for p in range(3)] == [(r.file, r.row) for r in manifest.rows()]
    with pytest.raises(IndexError):
        manifest.locate(3)


def test_identity_changes_with_the_content(write: Any):
    """Path, size and sha256 of each file."""
    first = open_manifest(write(columns("a"))).identity()
    assert open_manifest(write(columns("a"))).identity() == first
    second = open_manifest(write(columns("b"))).identity()
    assert second[0]["file"] == first[0]["file"]
    assert second[0]["sha256"] != first[0]["sha256"]


def test_batches_shrink_where_rows_are_large(write: Any):
    """Reading holds about 16 MB of Parquet data at once, however large a row is."""
    path = write(
        {"id": ["a", "b"], "prompt": ["x" * 9_000_000, "y" * 9_000_000]}, use_dictionary=False
    )
    (file,) = open_manifest(path).files
    assert file.batch_rows == 1
    assert open_manifest(write(columns("a"))).files[0].batch_rows == 8192


def refused(source: Any) -> str:
    with pytest.raises(ManifestError) as error:
        list(open_manifest(source).rows())
    message = str(error.value)
    assert "Traceback" not in message and len(message) < 2000
    return message


def test_what_is_not_there_is_said(tmp_path: Path):
    """A missing path, a folder or glob without files, an empty name."""
    assert "does not exist" in refused(tmp_path / "no.parquet")
    assert "no *.parquet file" in refused(tmp_path)
    assert "no file matches" in refused(f"{tmp_path}/*.parquet")
    assert "not a path" in refused("a\0b")
    (tmp_path / "dangling.parquet").symlink_to(tmp_path / "gone")
    assert "does not exist" in refused(tmp_path / "dangling.parquet")
    assert "cannot be read" in refused("x" * 300)


def test_a_pipe_is_not_opened(tmp_path: Path):
    """Opening a named pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.parquet")
    assert "not a regular file" in refused(tmp_path / "pipe.parquet")


def test_what_is_not_parquet_is_said(tmp_path: Path, write: Any):
    """Text, an empty file, and Parquet cut anywhere."""
    path = tmp_path / "x.parquet"
    path.write_text("id,prompt\na,b\n")
    makes = "a manifest is a Parquet file; `zs2 manifest build {} makes one from"
    general = makes.format("PROMPTS.csv -o NEW.parquet`")
    assert f"{path} is not Parquet: {general}" in refused(path)
    own = path.rename(tmp_path / "p.csv")
    assert f"not Parquet: {makes.format('p.csv -o p.parquet`')}" in refused(own)
    path.write_bytes(b"")
    assert f"empty file: {general}" in refused(path)
    whole = write(columns(*map(str, range(100))), "whole.parquet").read_bytes()
    for cut in (4, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "truncated" in refused(path)


def test_damaged_pages_are_said_when_they_are_read(write: Any):
    """The footer may be sound and the data not."""
    path = write(columns(*map(str, range(1000))), compression="zstd")
    data = bytearray(path.read_bytes())
    data[40:400] = b"\x99" * 360
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_a_manifest_without_rows_is_refused(write: Any, tmp_path: Path):
    """An empty file among others is no fault; nothing at all is."""
    empty = pa.array([], pa.string())
    write({"id": empty, "prompt": empty}, "m/1.parquet")
    assert "no rows" in refused(tmp_path / "m")
    write(columns("a"), "m/2.parquet")
    assert ids(open_manifest(tmp_path / "m")) == ["a"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"id": ["a"], "promt": ["p"]}, ["`promt`", "did you mean `prompt`?", "`prompt`: missing"]),
        ({"prompt": ["p"]}, ["`id`: missing"]),
        (
            {"id": [1], "prompt": ["p"]},
            [
                "`id`",
                "expected string",
                "found int64",
                'in pandas, df["id"] = df["id"].astype(str)',
            ],
        ),
        ({"id": ["a"], "prompt": [b"p"]}, ["`prompt`", "found binary"]),
        ({"id": ["a"], "prompt": [[["p"]]]}, ["`prompt`", "found list<"]),
        ({"id": ["a"], "prompt": [{"k": "p"}]}, ["`prompt`", "found struct<"]),
        (
            {"id": ["a"], "prompt": ["p"], "seed": ["7"]},
            ["`seed`", "expected int64", "found string"],
        ),
        ({"id": ["a"], "prompt": ["p"], "seed": [True]}, ["`seed`", "found bool"]),
        ({"id": ["a"], "prompt": ["p"], "seed": [[7]]}, ["`seed`", "found list<"]),
        ({"id": ["a"], "prompt": ["p"], "kl_target": [["x"]]}, ["`kl_target`", "found list<"]),
        ({"id": ["a"], "prompt": ["p"], "\x1b[2J" + "x" * 999: [1]}, ["unknown column", "meta_"]),
        ({"id": ["a"], "prompt": ["p"], "steps": [1]}, ["did you mean `num_inference_steps`?"]),
    ],
)
def test_a_schema_that_cannot_be_meant_is_refused(
    write: Any, table: dict[str, Any], words: list[str]
):
    """File, column, expected and found type, and the nearest known column."""
    path = write(table)
    message = refused(path)
    assert str(path) in message
    assert all(line.isprintable() for line in message.splitlines())
    for word in words:
        assert word in message


def test_many_unknown_columns_are_few_lines(write: Any):
    """5 of a file, and how many more; what else is wrong with it is told, too."""
    path = write({"id": ["a"], **{f"x{i}": [1] for i in range(40)}})
    *five, more, last = refused(path).splitlines()
    assert [line.split(":")[1] for line in five] == [f" `x{i}`" for i in range(5)]
    assert more == f"{path}: … and 35 more unknown columns"
    assert "`prompt`: missing" in last


def test_a_run_folder_is_no_manifest(write: Any, tmp_path: Path):
    """One line names the run's manifest, whatever of the run is there; a folder of manifests where a
    run wrote no more than its run.json is one still."""
    run = tmp_path / "m"
    write(columns("a"), "m/1.parquet")
    (run / "run.json").write_text('{"manifest": "/data/prompts.parquet"}')
    assert ids(open_manifest(run)) == ["a"]
    says = f"{run} is a run folder (it has run.json), not a manifest"
    write({"row": [1], "status": ["ok"]}, "m/results/part-1.parquet")
    assert refused(run) == f"{says}; its manifest was /data/prompts.parquet: give that"
    for path in run.rglob("*.parquet"):
        path.unlink()
    assert refused(run) == f"{says}; its manifest was /data/prompts.parquet: give that"
    (run / "run.json").write_text("{}")
    assert refused(run) == f"{says}; give a manifest"


def test_the_schema_faults_of_all_files_are_told_at_once(write: Any, tmp_path: Path):
    """Not those of the first file alone."""
    write({**columns("a"), "sede": [1]}, "m/1.parquet")
    write({**columns("b"), "widht": [8]}, "m/2.parquet")
    message = refused(tmp_path / "m")
    assert "1.parquet: `sede`" in message and "2.parquet: `widht`" in message


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path):
    """Which of the two would be meant?"""
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "prompt", "prompt"])
    pq.write_table(table, tmp_path / "m.parquet")
    assert "found 2 columns" in refused(tmp_path / "m.parquet")


def test_a_manifest_changed_while_it_is_read_is_noticed(write: Any):
    """The number of rows is that of the opening, or reading stops."""
    manifest = open_manifest(write(columns("a", "b")))
    write(columns("a"))
    with pytest.raises(ManifestError, match="changed"):
        list(manifest.rows())


def test_reading_a_large_manifest_holds_little_memory(write: Any):
    """200,000 rows of 500 characters are 100 MB; reading them adds less than 60 MB."""
    n = 200_000
    path = write({"id": [f"r{i}" for i in range(n)], "prompt": [f"{i:0500d}" for i in range(n)]})
    code = (
        "import resource, sys\nfrom manifests.read import open_manifest\n"
        "m = open_manifest(sys.argv[1])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\nassert sum(1 for _ in m.rows()) == m.num_rows\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60_000, f"{done.stdout} KB"


CELLS = st.none() | st.integers(-(2**31), 2**31) | st.floats() | st.text(max_size=8) | st.booleans()
NAMES = st.sampled_from(
    ["id", "prompt", "seed", "kl_target", "num_frames", "meta_a", "promt", "lora"]
)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        NAMES, st.sampled_from([pa.string(), pa.int64(), pa.float32(), pa.bool_()]), min_size=1
    ),
    st.integers(0, 5),
    st.data(),
)
def test_any_table_is_read_or_refused(
    write: Any, kinds: dict[str, pa.DataType], rows: int, data: Any
):
    """A Parquet file of any columns gives rows, each good or with faults, or one ManifestError."""
    made = {
        pa.string(): st.text(max_size=8),
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float32(): st.floats(width=32),
        pa.bool_(): st.booleans(),
    }
    table = {
        name: pa.array(
            data.draw(st.lists(st.none() | made[kind], min_size=rows, max_size=rows)), kind
        )
        for name, kind in kinds.items()
    }
    path = write(table)
    try:
        raws = list(open_manifest(path).rows())
    except ManifestError as error:
        assert re.search(r"expected|unknown|no rows|missing", str(error))
        return
    assert len(raws) == rows
    for raw in raws:
        try:
            parse_row(raw.values)
        except RowError as error:
            assert error.faults


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(write: Any, data: Any):
    """Bytes flipped anywhere never raise anything but ManifestError."""
    path = write(columns(*(f"row-{i}" for i in range(50))))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        for raw in open_manifest(path).rows():
            assert isinstance(raw.values, dict)
    except ManifestError as error:
        assert str(path) in str(error)
